"""Reads Fooocus's JSON: the `parameters` text of its scheme `fooocus`, and those of its forks.

Its scheme `a1111` is the text of AUTOMATIC1111's web UI, and read as such. Fooocus adds the texts of styles, and of a
language model, to the prompt; the JSON has the prompt as the user wrote it, and newer versions also the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdcli.metadata.comfyui import sampling_of
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.values import file_name, harmless, objects, others

TOOL = "Fooocus"
# The names in lower case and with underscores that differ between versions and forks.
NAMES = {
    "fooocus_v2_expansion": "prompt_expansion",
    "cfg_mimicking_from_tsnr": "adaptive_cfg",
    "negative": "negative_prompt",
    "cfg": "guidance_scale",
    "sampler_name": "sampler",
    "base_model_name": "base_model",
}
READ = {"prompt", "negative_prompt", "seed", "steps", "sampler", "guidance_scale", "resolution", "width", "height",
        "base_model", "base_model_hash"}  # fmt: skip
HARMLESS = {"version", "software", "metadata_scheme", "created_by", "image_number"}
NEUTRAL = {"vae": ("Default (model)",), "VAE": ("Default (model)",)}
_TOOL = re.compile(r"((?:Ruined)?Fooocus(?:-MRE)?)\s*(.*)", re.IGNORECASE | re.DOTALL)
_SIZE = re.compile(r"""[(\['"]*(\d{1,9})['"]?\s*[,x\xd7*]\s*['"]?(\d{1,9})['")\]]*""")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from Fooocus's JSON; returns None if the file has none."""
    for content in objects(texts, "Comment"):
        values = {_name(key): value for key, value in content.items()}
        written = _TOOL.search(str(values.get("software", values.get("version", "")))[:1000])
        if written or "fooocus_scheme" in texts or {"base_model", "performance"} <= values.keys():
            tool = written[1] if written else TOOL
            version = written[2] if written else str(values.get("version", ""))
            return _read(tool, version, values, content)
    if texts.get("fooocus_scheme") == "fooocus":
        return Provenance(TOOL, notes=("the JSON in `parameters` is missing or damaged",))
    return None


def _name(key: str) -> str:
    name = key.casefold().replace(" ", "_")
    return NAMES.get(name, name)


def _read(tool: str, version: str, values: dict[str, Any], content: dict[str, Any]) -> Provenance:
    width, height = _size(values)
    notes = []
    styles, expansion = values.get("styles"), values.get("prompt_expansion")
    if styles not in (None, "", "[]", []):
        notes.append("the styles added texts to the prompts, which are as the user wrote them")
    if isinstance(expansion, str) and expansion.strip() not in ("", values.get("prompt")):
        notes.append("a language model expanded the prompt, which is as the user wrote it")
    return Provenance(
        tool,
        version,
        known(
            prompt=values.get("prompt"),
            negative_prompt=values.get("negative_prompt"),
            seed=values.get("seed"),
            rng="cpu",
            steps=values.get("steps"),
            **sampling_of(values.get("sampler"), values.get("scheduler")),
            scale=values.get("guidance_scale"),
            width=width,
            height=height,
            model=file_name(values.get("base_model")),
            model_hash=values.get("base_model_hash"),
        ),
        other := others(content, [key for key in content if _name(key) in READ | HARMLESS], NEUTRAL),
        tuple(notes),
        harmless(other, ("scheduler",), {"clip_skip": ("1.0",), "base_clip_skip": ("-1.0",)}),
    )


def _size(values: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the width and the height: `resolution` is the text of a tuple, "(1152, 896)"."""
    resolution = values.get("resolution")
    if isinstance(resolution, str) and (found := _SIZE.fullmatch(resolution.strip())):
        return found[1], found[2]
    if isinstance(resolution, list) and len(resolution) == 2:
        return resolution[0], resolution[1]
    return values.get("width"), values.get("height")
