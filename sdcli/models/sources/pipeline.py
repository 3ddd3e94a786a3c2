"""Models in diffusers' layout that no family of sdcli generates: those of another pipeline of diffusers."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, model_validator

from sdcli.errors import ModelError
from sdcli.model_spec import ModelSpec, NoiseSchedule, PipelineSpec
from sdcli.models import checkpoint_file, families, hashes, json_files, pipeline_class, weight_files
from sdcli.models.folder_config import MAX_DOWNSCALE, Blocks, Channels
from sdcli.models.model import ModelRequest, PartCallback, PipelineModel
from sdcli.models.pipeline_class import PipelineClass
from sdcli.models.sources.folder import CONFIG, INDEX, files_in
from sdcli.models.weight_files import WeightFiles
from sdcli.settings import AUTO, LARGEST_SIDE, ORIGINAL_STEPS

if TYPE_CHECKING:
    import torch

LIBRARIES = ("diffusers", "transformers")
NOT_LOADED = ("safety_checker", "watermarker")
"""Parts that pipelines do without: sdcli checks and marks images itself."""
_TOKENIZERS = ("Tokenizer", "TokenizerFast")
_WITHOUT_WEIGHTS = (*_TOKENIZERS, "Processor", "Scheduler", "Extractor")
_SOME_TEXT, _LEAST_TOKENS = "a red apple on the green table", 4
_DEFAULT_SIDE = 1024
_AGAIN = "Download the model again."
MOST_LAYERS = 1024
_OF_LAYERS = re.compile(r".*(layers?(_per_block)?|blocks|depths?)")
_LONGEST_TEXT = 100_000
"""Tokens. A larger limit stands for none."""

Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Patch = Annotated[int, Field(ge=1, le=64)]


class AnyFile(BaseModel):
    """The file of any part with weights."""

    @model_validator(mode="before")
    @classmethod
    def _limit(cls, values: Any) -> Any:
        _require_few_layers(values)
        return values


def _require_few_layers(values: Any) -> None:
    """Raise `ValueError` for a number of layers that no model has: the libraries make them all, then read weights."""
    for name, value in values.items() if isinstance(values, dict) else ():
        _require_few_layers(value)
        numbers = value if isinstance(value, list) else [value]
        if _OF_LAYERS.fullmatch(str(name)) and any(isinstance(each, int) and each > MOST_LAYERS for each in numbers):
            raise ValueError(f"{name} is {str(value)[:20]}, out of range")


class DenoiserFile(BaseModel):
    """The fields of the file of a transformer or UNet that decide sizes."""

    in_channels: Channels | None = None
    sample_size: Side | list[Side] | None = None
    patch_size: Patch | list[Patch] | None = None
    all_patch_size: list[Patch] | None = None
    block_out_channels: Blocks | None = None
    guidance_embeds: bool | None = None

    @property
    def patch(self) -> int:
        """Latent pixels of a token, on each side."""
        sizes = [self.patch_size] if isinstance(self.patch_size, int) else self.patch_size or self.all_patch_size or [1]
        return max(sizes)


class DecoderFile(BaseModel):
    """The fields of the file of a VAE of any class that decide sizes."""

    latent_channels: Channels | None = None
    z_dim: Channels | None = None
    block_out_channels: Blocks | None = None
    encoder_block_out_channels: Blocks | None = None
    temperal_downsample: Annotated[list[bool], Field(max_length=7)] | None = None
    spatial_compression_ratio: Annotated[int, Field(ge=1, le=MAX_DOWNSCALE)] | None = None

    @property
    def downscale(self) -> int:
        """f: image pixels per latent pixel, on each side."""
        if self.spatial_compression_ratio:
            return self.spatial_compression_ratio
        blocks = self.encoder_block_out_channels or self.block_out_channels or [0] * 4
        return 1 << (len(self.temperal_downsample) if self.temperal_downsample else len(blocks) - 1)


@dataclass(frozen=True)
class PipelineFolder:
    """A model on disk that a pipeline of diffusers generates; its configuration files are read and checked."""

    path: Path
    spec: ModelSpec
    classes: Mapping[str, tuple[str, str]]
    """The library and the class of each part that the pipeline gets."""
    values: Mapping[str, Any]
    """What the pipeline's constructor gets beside the parts."""
    parts: Mapping[str, WeightFiles]
    """The weights, by part."""

    @classmethod
    def read(cls, path: Path, *, name: str, names: Collection[str] | None = None) -> PipelineFolder:
        """Read and check the configuration files of a model that `takes` has found.

        Args:
            path: the model's folder.
            name: the model's name in records and errors.
            names: the model's files, relative to `path`; by default those in the folder.

        Raises:
            ModelError: parts are missing, or are not classes of diffusers or transformers.
        """
        names = files_in(path) if names is None else names
        index = json_files.read(path / INDEX)
        pipeline = _class_of(index, name)
        assert pipeline is not None, "takes has found it"
        classes, values = _parts(index, pipeline, name)
        parts = {}
        for part, (_, kind) in classes.items():
            if not any(file.startswith(f"{part}/") for file in names):
                raise ModelError(f"the model {name} is incomplete: it has no folder {part}", fix=_AGAIN)
            if kind.endswith("Scheduler"):
                json_files.read(path / part / "scheduler_config.json")
            elif (found := weight_files.find(names, part)) is not None:
                json_files.read_fields(AnyFile, path / part / CONFIG)
                parts[part] = found
            elif f"{part}/{CONFIG}" in names and not kind.endswith(_WITHOUT_WEIGHTS):
                raise ModelError(f"the model {name} is incomplete: the folder {part} has no weights", fix=_AGAIN)
        spec = _spec(path, name, index, pipeline, parts)
        if index.get("safety_checker") == ["stable_diffusion", "StableDiffusionSafetyChecker"]:
            has_checker = weight_files.find(names, "safety_checker") is not None
            spec = spec.model_copy(update={"has_safety_checker": has_checker})
        return cls(path, spec, classes, values, parts)

    def safety_checker(self, *, download: bool) -> Path | None:
        return self.path / "safety_checker" if self.spec.has_safety_checker else None

    @cached_property
    def _hash(self) -> str:
        return hashes.of_files({name: self.path / name for part in self.parts.values() for name in part.files})

    def hash(self) -> str:
        return self._hash

    def here(self) -> bool:
        return all((self.path / name).is_file() for part in self.parts.values() for name in part.files)

    def weights(self) -> int:
        return sum(checkpoint_file.size(self.path / name) for part in self.parts.values() for name in part.weights)

    def vocabulary(self) -> None:
        return None

    def tokenizer(self) -> Any:
        found = []
        for part, (library, kind) in self.classes.items():
            if kind.endswith(_TOKENIZERS):
                tokenizer = self._whole(part, _class(library, kind))
                length = self._length(tokenizer, kind)
                if getattr(tokenizer, "is_fast", False) and length < _LONGEST_TEXT:
                    tokenizer.model_max_length = length
                    found.append(tokenizer)
        return max(found, key=lambda each: int(each.model_max_length), default=None)

    def _whole(self, part: str, kind: type[Any]) -> Any:
        """A part without weights."""
        from sdcli.models import pretrained

        found = pretrained.whole(kind, self.path / part, what=part, source=self.spec.name)
        # transformers makes an empty vocabulary for a folder that has none.
        if self.classes[part][1].endswith(_TOKENIZERS) and len(set(found(_SOME_TEXT).input_ids)) < _LEAST_TOKENS:
            raise ModelError(
                f"the vocabulary in {self.path / part} is missing or does not fit its tokenizer",
                why="Every word is unknown to it.",
                fix=_AGAIN,
            )
        return found

    def _length(self, tokenizer: Any, kind: str) -> int:
        """The tokens that the model reads with one of its tokenizers."""
        assert self.spec.pipeline is not None, "it is set by read"
        pipeline = pipeline_class.find(self.spec.pipeline.name)
        assert pipeline is not None, "it is found by read"
        own = int(tokenizer.model_max_length)
        return own if kind.startswith("CLIP") else int(pipeline.default("max_sequence_length") or own)

    def load(self, device: torch.device, progress: PartCallback) -> PipelineModel:
        import torch

        from sdcli.models import pretrained, weights

        assert self.spec.pipeline is not None, "it is set by read"
        name, own = self.spec.name, self._dtype()
        pipeline = _class("diffusers", self.spec.pipeline.name)
        classes = {part: _class(*place) for part, place in self.classes.items()}
        with weights.enough_memory(name):
            tokenizer = self.tokenizer()
            loaded = {}
            for part, kind in classes.items():
                if part not in self.parts:
                    loaded[part] = self._whole(part, kind)
                    continue
                progress(part)
                files = self.parts[part]
                spare = self.classes[part][0] == "transformers"
                dtype = torch.float32 if device.type == "cpu" else own
                found = pretrained.load(kind, self.path, files, what=part, source=name, dtype=dtype, spare=spare)
                loaded[part] = found.to(device)
            made = pretrained.pipeline(pipeline, {**self.values, **loaded}, source=name)
        half = torch.bfloat16 if own == torch.float32 else own
        return PipelineModel(self.spec, tokenizer, made, device, half)

    def _dtype(self) -> torch.dtype:
        """The data type of most bytes of the weights: float32, float16 or bfloat16."""
        import torch

        sizes = dict.fromkeys(("float32", "float16", "bfloat16"), 0)
        for path in (self.path / name for part in self.parts.values() for name in part.weights):
            own = {place.dtype for place in checkpoint_file.stored(path).values()} & sizes.keys()
            sizes[min(own, default="float32", key=[*sizes].index)] += path.stat().st_size
        dtype: torch.dtype = getattr(torch, max(sizes, key=lambda name: sizes[name]))
        return dtype


def find(request: ModelRequest) -> PipelineFolder | None:
    """The model in a folder, if no family of sdcli generates it, and a pipeline of diffusers does.

    Raises:
        ModelError: its files cannot be read, or it needs code of its own.
    """
    path = Path(os.path.expanduser(request.model or ""))  # noqa: PTH111
    if request.model is None or request.revision is not None or not os.path.isfile(path / INDEX) or not takes(path):  # noqa: PTH113
        return None
    return PipelineFolder.read(path, name=path.resolve().name or request.model)


def takes(path: Path) -> bool:
    """Whether the model in a folder is not of a family here, and diffusers generates images of text with it.

    Raises:
        ModelError: its index cannot be read, or names code of its own.
    """
    if not (path / INDEX).is_file():
        return False
    index = json_files.read(path / INDEX)
    if index.get("_class_name") in families.each("pipelines"):
        return False
    # Variants of their pipelines, such as those with perturbed attention, have the same parts.
    encoders = [index.get(part) for part in families.each("part")]
    known = any(isinstance(each, list) and each[-1] in families.each("text_encoders") for each in encoders)
    if index.get("unet") == ["diffusers", "UNet2DConditionModel"] and known:
        return False
    return _class_of(index, path.name) is not None


def _class_of(index: Mapping[str, Any], name: str) -> PipelineClass | None:
    """The pipeline of an index; None if diffusers has none of its name that generates images of text alone."""
    kind = index.get("_class_name")
    if isinstance(kind, list):
        raise ModelError(
            f"the model {name} needs code of its own: the pipeline {'.'.join(map(str, kind))}",
            why="Code that comes with a model is never run: it could do anything.",
            fix="Pass a model whose pipeline is part of diffusers.",
        )
    found = pipeline_class.find(kind) if isinstance(kind, str) else None
    return found if found is not None and found.makes_images_of_text else None


def _parts(
    index: Mapping[str, Any], pipeline: PipelineClass, name: str
) -> tuple[dict[str, tuple[str, str]], dict[str, Any]]:
    """The classes of the parts, and the other arguments of the pipeline: a part that is null is None.

    Raises:
        ModelError: a part is of another library.
    """
    classes: dict[str, tuple[str, str]] = {}
    values: dict[str, Any] = {}
    for key, entry in index.items():
        if key not in pipeline.arguments:
            continue
        if key in NOT_LOADED or entry == [None, None]:
            values[key] = None
        elif not isinstance(entry, list) or len(entry) != 2:
            values[key] = False if key == "requires_safety_checker" else entry
        else:
            library, kind = map(str, entry)
            own = library.isidentifier() and (pipeline_class.folder() / library / "__init__.py").is_file()
            if not (library in LIBRARIES or own) or not kind.isidentifier():
                raise ModelError(
                    f"the model {name} needs code that is not part of diffusers or transformers: its {key} is {kind} "
                    f"of {library}",
                    why="Code that comes with a model, or that a model names, is never run: it could do anything.",
                    fix="Pass a model whose parts are classes of diffusers and transformers.",
                )
            classes[key] = library, kind
    return classes, values


def _spec(
    path: Path, name: str, index: Mapping[str, Any], pipeline: PipelineClass, parts: Mapping[str, WeightFiles]
) -> ModelSpec:
    """What the files and the pipeline's source say of sizes and defaults."""

    def file(kind: type[Any], *keys: str) -> Any:
        part = next((key for key in keys if key in parts), None)
        return kind() if part is None else json_files.read_fields(kind, path / part / CONFIG)

    denoiser: DenoiserFile = file(DenoiserFile, "transformer", "unet")
    decoder: DecoderFile = file(DecoderFile, "vae", "vqvae", "movq")
    downscale = decoder.downscale if parts.keys() & {"vae", "vqvae", "movq"} else 1
    channels = decoder.latent_channels or decoder.z_dim or denoiser.in_channels or 4
    # Transformers that get several latent pixels at once as channels of one.
    packed = int(max(1, (denoiser.in_channels or channels) / channels) ** 0.5)
    levels = 1 << (len(denoiser.block_out_channels or [0]) - 1)
    sides = denoiser.sample_size if isinstance(denoiser.sample_size, list) else [denoiser.sample_size] * 2
    own = [side * downscale if side else None for side in sides[-2:]]
    if pipeline.sample_size is not None:
        own = [pipeline.sample_size * downscale] * 2
    height, width = (
        pipeline.default(side) or given or _DEFAULT_SIDE for side, given in zip(("height", "width"), own, strict=True)
    )
    if max(height, width) > LARGEST_SIDE:
        raise ModelError(
            f"the model {name} generates images of {width} x {height} pixels by default",
            why=f"Images have at most {LARGEST_SIDE} pixels on each side.",
            fix=_AGAIN,
        )
    takes = pipeline.parameters
    scale = next((each for each in ("guidance_scale", "true_cfg_scale") if pipeline.default(each) is not None), "")
    learned = scale == "guidance_scale" and "true_cfg_scale" in takes
    if (learned and denoiser.guidance_embeds is False) or index.get("is_distilled") is True:
        scale = ""
    return ModelSpec(
        name=name,
        family="diffusers",
        latent_channels=channels,
        downscale=downscale,
        size_multiple=downscale * max(denoiser.patch, packed, levels),
        default_height=height,
        default_width=width,
        default_scale=float(pipeline.default(scale)) if scale else 1.0,
        default_steps=pipeline.default("num_inference_steps") or ORIGINAL_STEPS,
        default_sampler=AUTO,
        schedule=NoiseSchedule(),
        watermark_method="dwtDct",
        pipeline=PipelineSpec(
            name=pipeline.name,
            scale=scale,
            takes_negative_prompt="negative_prompt" in takes and bool(scale) and not learned,
            takes_rescale="guidance_rescale" in takes,
            no_text_is_zero=index.get("force_zeros_for_empty_prompt") is True,
        ),
    )


def _class(library: str, name: str) -> Any:
    """A class of the installed libraries.

    Raises:
        ModelError: they have none of this name.
    """
    import diffusers
    import transformers

    home = {"diffusers": diffusers, "transformers": transformers}.get(library)
    try:
        return getattr(getattr(diffusers.pipelines, library) if home is None else home, name)
    except (AttributeError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"the installed {library if home else 'diffusers'} has no {name}",
            why=str(error).split("\n", 1)[0],
            fix="Another version of it may have: update diffusers and transformers.",
        ) from error
