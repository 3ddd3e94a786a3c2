"""Tables of everything that can be plugged in: one line names it and says where it is.

A line is a name and an import path, `module:attribute`. The module is imported when the entry is first used, so listing
names costs nothing. To add a sampler, a model family, a model source, a safety checker, a watermark method, a stage, an
image format, a metadata reader, a prompt syntax or an executor, write one file and add one line here. The protocol that
the object must follow is in the room that uses the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


class Table(Mapping[str, Any]):
    """Names mapped to objects that are imported on first use. The order of the lines is the order of preference.

    Args:
        paths: import paths, `module:attribute`, by name.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        path = self.paths[name]
        if path not in self._loaded:
            module, _, attribute = path.partition(":")
            self._loaded[path] = getattr(import_module(module), attribute)
        return self._loaded[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, name: object) -> bool:
        return name in self.paths


SAMPLERS = Table(
    {
        "ddim": "sdcli.pipeline.samplers.ddim:SAMPLER",
        "plms": "sdcli.pipeline.samplers.plms:SAMPLER",
        "dpm_solver": "sdcli.pipeline.samplers.dpm_solver:SAMPLER",
        "ddpm": "sdcli.pipeline.samplers.ddpm:DDPM",
        "lms": "sdcli.pipeline.samplers.k_diffusion:LMS",
        "euler": "sdcli.pipeline.samplers.k_diffusion:EULER",
        "euler_a": "sdcli.pipeline.samplers.k_diffusion:EULER_A",
        "heun": "sdcli.pipeline.samplers.k_diffusion:HEUN",
        "dpm2": "sdcli.pipeline.samplers.k_diffusion:DPM2",
        "dpm2_a": "sdcli.pipeline.samplers.k_diffusion:DPM2_A",
        "dpmpp_2m": "sdcli.pipeline.samplers.dpmpp:MULTISTEP_2",
        "dpmpp_2s": "sdcli.pipeline.samplers.dpmpp:SINGLE_STEP_2",
        "dpmpp_sde": "sdcli.pipeline.samplers.dpmpp:SDE",
        "dpmpp_2m_sde": "sdcli.pipeline.samplers.dpmpp:MULTISTEP_2_SDE",
        "dpmpp_3m_sde": "sdcli.pipeline.samplers.dpmpp:MULTISTEP_3_SDE",
        "unipc": "sdcli.pipeline.samplers.multistep:UNIPC",
        "deis": "sdcli.pipeline.samplers.multistep:DEIS",
        "ipndm": "sdcli.pipeline.samplers.ipndm:IPNDM",
        "sa_solver": "sdcli.pipeline.samplers.multistep:SA_SOLVER",
        "lcm": "sdcli.pipeline.samplers.consistency:LCM",
        "tcd": "sdcli.pipeline.samplers.consistency:TCD",
    }
)
"""`sdcli.pipeline.samplers.Sampler`, by the name that `--sampler` takes."""

MODEL_SOURCES = Table(
    {
        "builtin": "sdcli.models.sources.builtin:find",
        "checkpoint": "sdcli.models.sources.checkpoint:find",
        "folder": "sdcli.models.sources.folder:find",
        "hub": "sdcli.models.sources.hub:find",
    }
)
"""Functions from a `ModelRequest` to a `ModelSource`, or None if it is for another source. First match wins,
so a new source comes before `folder` and `hub`, which refuse what they do not know."""

FAMILIES = Table(
    {
        # Before sd1, whose text encoder it has, too.
        "sdxl": "sdcli.models.families.sdxl:FAMILY",
        "sd1": "sdcli.models.families.sd1:FAMILY",
        "sd2": "sdcli.models.families.sd2:FAMILY",
        "ldm": "sdcli.models.families.ldm:FAMILY",
    }
)
"""`sdcli.models.families.Family`, by the name that `ModelSpec.family` holds. First match wins."""

SAFETY_CHECKERS = Table(
    {
        "clip": "sdcli.stages.safety:find_clip",
        "opennsfw": "sdcli.stages.safety:find_opennsfw",
    }
)
"""Functions that find a `sdcli.stages.safety.SafetyChecker`, by the name that `--safety-checker` takes. `auto` takes
the first that is installed."""

WATERMARK_METHODS = Table(
    {
        "dwtDct": "sdcli.stages.watermark:DWT_DCT",
        "dwtDctSvd": "sdcli.stages.watermark:DWT_DCT_SVD",
        "robust": "sdcli.stages.watermark:ROBUST",
    }
)
"""`sdcli.stages.watermark.Method`, by the name that `--watermark-method` takes."""

STAGES = Table(
    {
        "safety": "sdcli.stages.safety:stage",
        "watermark": "sdcli.stages.watermark:stage",
    }
)
"""Functions from a `StageContext` to a `sdcli.stages.Stage`, or None if the run does not need it; in working order."""

FORMATS = Table(
    {
        "png": "sdcli.outputs.formats:PNG",
        "jpeg": "sdcli.outputs.formats:JPEG",
        "webp": "sdcli.outputs.formats:WEBP",
    }
)
"""`sdcli.outputs.formats.Format`, by the name that `--format` takes."""

METADATA_READERS = Table(
    {
        "sdcli": "sdcli.metadata.record:read",
        "invokeai": "sdcli.metadata.invokeai:read",
        "swarmui": "sdcli.metadata.swarmui:read",
        "fooocus": "sdcli.metadata.fooocus:read",
        "drawthings": "sdcli.metadata.drawthings:read",
        "novelai": "sdcli.metadata.novelai:read",
        "easydiffusion": "sdcli.metadata.easydiffusion:read",
        "a1111": "sdcli.metadata.a1111:read",
        "comfyui": "sdcli.metadata.comfyui:read",
    }
)
"""Functions from the texts of an image file to a `Provenance`, or None if they say nothing. First match wins: values
that a tool writes down come before values that are read out of a graph of nodes. `a1111` takes any `parameters` text,
so a reader of another one comes before it."""

SYNTAXES = Table(
    {
        "plain": "sdcli.prompts.syntax:plain",
        "a1111": "sdcli.prompts.syntax.a1111:parse",
        "novelai": "sdcli.prompts.syntax.novelai:parse",
        "compel": "sdcli.prompts.syntax.compel:parse",
    }
)
"""`sdcli.prompts.syntax.Parse`, by the name that `--prompt-syntax` takes."""

EXECUTORS = Table(
    {
        "local": "sdcli.executors.local:LocalExecutor",
    }
)
"""`sdcli.executors.Executor`, by the name that `--executor` takes."""
