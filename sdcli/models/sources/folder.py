"""Models in diffusers' layout: a folder with `model_index.json`, and a folder for each part."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from sdcli.errors import ModelError, ModelNotFound, UsageError
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_file, families, hashes, json_files, scheduler_config, weight_files
from sdcli.models.families import Family
from sdcli.models.model import Model, ModelRequest, PartCallback
from sdcli.models.weight_files import WeightFiles

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"
# Keys of the parts in model_index.json, and the classes of diffusers that sdcli supports. Families list the rest.
PART_NAMES = {"UNet": ("unet",), "VAE": ("vae", "vqvae")}
CLASSES = {"UNet": ("UNet2DConditionModel",), "VAE": ("AutoencoderKL", "AutoencoderTiny", "VQModel")}

File = TypeVar("File", bound=BaseModel)


class UNetFile(BaseModel):
    """The fields of the UNet's config.json that planning needs, and those of inputs other than a prompt."""

    in_channels: int
    out_channels: int
    block_out_channels: list[int]
    sample_size: int | list[int] | None = None
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    addition_embed_type: str | None = None
    encoder_hid_dim_type: str | None = None
    time_cond_proj_dim: int | None = None


class VAEFile(BaseModel):
    """The fields of the VAE's config.json that planning needs."""

    latent_channels: int = 4
    block_out_channels: list[int] | None = None
    decoder_block_out_channels: list[int] | None = None
    upsampling_scaling_factor: int = 2
    shift_factor: float | None = None

    @property
    def downscale(self) -> int:
        """f: image pixels per latent pixel, on each side."""
        blocks = self.decoder_block_out_channels or self.block_out_channels or [64] * 4
        return int(self.upsampling_scaling_factor ** (len(blocks) - 1))


@dataclass(frozen=True)
class FolderModel:
    """A diffusers model on disk; its configuration files are read and checked."""

    path: Path
    spec: ModelSpec
    parts: Mapping[str, WeightFiles]
    """The weights of "text encoder", "UNet" and "VAE"."""
    classes: Mapping[str, str]
    """The class names of "UNet" and "VAE" in diffusers."""

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        name: str,
        builtin: bool = False,
        names: Collection[str] | None = None,
    ) -> FolderModel:
        """Read and check the configuration files of a model.

        Args:
            path: the model's folder.
            name: the model's name in records and errors.
            builtin: whether it is the builtin model, which has its own guidance scale and watermark method.
            names: the model's files, relative to `path`; by default those in the folder.

        Raises:
            ModelError: the folder is not a model, or one that is not supported, or parts are missing.
        """
        if names is None:
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        index = _read_index(path, name, names)
        pipeline = str(index.get("_class_name", ""))
        text_encoders = families.each("text_encoders")
        parts = {"text encoder": _part(index, names, name, "text encoder", families.each("part"), text_encoders)}
        parts |= {label: _part(index, names, name, label, PART_NAMES[label], CLASSES[label]) for label in PART_NAMES}
        classes = {label: str(index[files.part][1]) for label, files in parts.items()}
        if "tokenizer" not in index or index["tokenizer"][1] not in families.each("tokenizers"):
            raise _unsupported(name, pipeline, f"it has no tokenizer of {' or '.join(families.each('label'))}")
        text_encoder = classes.pop("text encoder")
        family = families.first(lambda family: text_encoder in family.text_encoders)
        assert family is not None, "_part has checked it"
        unet = _validated(UNetFile, path / parts["UNet"].part / "config.json")
        vae = _validated(VAEFile, path / parts["VAE"].part / "config.json")
        _check(name, pipeline, unet, vae)
        scheduler = path / "scheduler" / "scheduler_config.json"
        size = unet.sample_size if unet.sample_size is not None else 512 // vae.downscale
        height, width = size if isinstance(size, list) else (size, size)
        spec = ModelSpec(
            name=name,
            family=family,
            latent_channels=unet.in_channels,
            downscale=vae.downscale,
            size_multiple=vae.downscale * 2 ** (len(unet.block_out_channels) - 1),
            default_height=height * vae.downscale,
            default_width=width * vae.downscale,
            default_scale=2.0 if builtin else 7.5,
            schedule=scheduler_config.schedule(json_files.read(scheduler), scheduler, pipeline),
            watermark_method="robust" if builtin else "dwtDct",
            has_safety_checker=_has(index, "safety_checker") and weight_files.find(names, "safety_checker") is not None,
        )
        return cls(path, spec, parts, classes)

    @property
    def family(self) -> Family:
        return families.get(self.spec.family)

    def safety_checker(self, *, download: bool) -> Path | None:
        return self.path / "safety_checker" if self.spec.has_safety_checker else None

    @cached_property
    def _hash(self) -> str:
        return hashes.of_folder(self.path, [self.path / name for part in self.parts.values() for name in part.files])

    def hash(self) -> str:
        return self._hash

    def here(self) -> bool:
        return all((self.path / name).is_file() for part in self.parts.values() for name in part.files)

    def weights(self) -> int:
        return sum(checkpoint_file.size(self.path / name) for part in self.parts.values() for name in part.files)

    def tokenizer(self) -> Any:
        from sdcli.models import tokenizer

        text_config = json_files.read(self.path / self.parts["text encoder"].part / "config.json")
        return tokenizer.load(self.family, self.path / "tokenizer", self.family.max_length(text_config))

    def load(self, device: torch.device, progress: PartCallback) -> Model:
        import diffusers

        from sdcli.models import pretrained, weights

        classes = {label: getattr(diffusers, name) for label, name in self.classes.items()}
        classes["text encoder"] = self.family.text_encoder_class()
        with weights.enough_memory(self.spec.name):
            loaded = {}
            for label, files in self.parts.items():
                progress(label)
                part = pretrained.load(classes[label], self.path, files, what=label, source=self.spec.name)
                loaded[label] = part.to(device)
            weights.check_width(loaded["text encoder"], loaded["UNet"], self.spec.name)
            return Model(
                spec=self.spec,
                tokenizer=self.tokenizer(),
                text_encoder=loaded["text encoder"],
                unet=loaded["UNet"],
                vae=loaded["VAE"],
                device=device,
            )


def find(request: ModelRequest) -> FolderModel | None:
    """The model in a folder; None if the request has the form of a hub id and there is no such folder.

    Raises:
        UsageError: a revision, which only models on the hub have.
        ModelNotFound: the folder does not exist.
        ModelError: it is not a model.
    """
    given = request.model or ""
    path = Path(os.path.expanduser(given))  # noqa: PTH111  # unchanged, if there is no home folder
    if path.is_dir():
        if request.revision is not None:
            raise UsageError(f"--revision goes with a hub id, and --model {given} is a folder", fix="Leave it out.")
        return FolderModel.read(path, name=path.resolve().name)
    if path.is_file():
        raise ModelError(
            f"--model {given} is a file",
            why="--model takes a folder of diffusers' layout, or a hub id.",
            fix=f"If it is a checkpoint of the original layout, pass --ckpt {given}.",
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", given):
        return None  # the form of hub ids
    raise ModelNotFound(
        f"folder {given} does not exist",
        fix="Pass the path of a folder that contains model_index.json, or a hub id of the form owner/name.",
    )


def _read_index(path: Path, name: str, names: Collection[str]) -> Mapping[str, Any]:
    if INDEX in names:
        return json_files.read(path / INDEX)
    fix = f"Pass the folder that contains {INDEX} and the folders unet, vae, text_encoder, tokenizer and scheduler."
    checkpoints = sorted(file for file in names if "/" not in file and file.endswith((".ckpt", ".safetensors")))
    if "config.json" in names:
        fix = "It seems to be one part of a model: pass the parent folder."
    elif checkpoints:
        fix = f"It contains the file {checkpoints[0]}: if that is of the original layout, pass its path with --ckpt."
    raise ModelError(f"the model {name} is not a diffusers model: it has no {INDEX}", fix=fix)


def _validated(kind: type[File], path: Path) -> File:
    try:
        return kind.model_validate(json_files.read(path))
    except ValidationError as error:
        why = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors()[:3])
        raise ModelError(f"{path} is not a model's configuration", why=f"{why}.") from error


def _has(index: Mapping[str, Any], part: str) -> bool:
    """Whether a pipeline has a part: the index has its library and class, and they are not null."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, str) for each in entry)


def _part(
    index: Mapping[str, Any],
    names: Collection[str],
    name: str,
    label: str,
    keys: Sequence[str],
    classes: Sequence[str],
) -> WeightFiles:
    """The weights of one part.

    Args:
        index: the content of `model_index.json`.
        names: the model's files, relative to its folder.
        name: the model's name, for errors.
        label: the part's name, for errors.
        keys: possible keys of the part in the index, which are also names of folders.
        classes: supported class names of the part.

    Raises:
        ModelError: the part is missing or not supported.
    """
    pipeline = str(index.get("_class_name", ""))
    present = [key for key in keys if _has(index, key)]
    if not present or _has(index, "text_encoder_2") or _has(index, "transformer"):
        raise _unsupported(name, pipeline, f"it has no {label}" if not present else "it has parts besides these")
    part = present[0]
    if index[part][1] not in classes:
        raise _unsupported(name, pipeline, f"its {label} is {index[part][1]}, not {' or '.join(classes)}")
    files = weight_files.find(names, part)
    if files is None:
        raise ModelError(
            f"the model {name} is incomplete: the folder {part} has no weights",
            why="Searched for diffusion_pytorch_model or model as .safetensors or .bin, also as .fp16.",
            fix="Download the model again.",
        )
    return files


def _unsupported(name: str, pipeline: str, why: str) -> ModelError:
    """The error for a model that is not supported; names its kind if the class of its pipeline is known."""
    known = {
        "StableDiffusionXL": "Stable Diffusion XL",
        "StableDiffusion3": "Stable Diffusion 3",
        "Flux": "Flux",
        "PixArt": "PixArt",
    }
    kind = next((kind for prefix, kind in known.items() if pipeline.startswith(prefix)), "")
    what = f"a {kind} model" if kind else f"a {pipeline or 'pipeline without a name'}"
    return ModelError(
        f"the model {name} is {what}: {why}",
        why=f"Supported in diffusers' layout: {', '.join(families.each('folder_models'))}.",
        fix="Pass one of these with --model.",
    )


def _check(name: str, pipeline: str, unet: UNetFile, vae: VAEFile) -> None:
    """Refuse models that need more inputs than a prompt."""
    if unet.in_channels != vae.latent_channels:
        why = f"its UNet takes {unet.in_channels} channels and its VAE outputs {vae.latent_channels}, as for inpainting"
        raise _unsupported(name, pipeline, why)
    more = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
    needed = [field for field in more if getattr(unet, field) is not None]
    if needed:
        raise _unsupported(name, pipeline, f"its UNet needs more inputs than a prompt ({', '.join(needed)})")
    if unet.out_channels != unet.in_channels:
        raise _unsupported(
            name, pipeline, f"its UNet takes {unet.in_channels} channels and outputs {unet.out_channels}"
        )
    if vae.shift_factor:
        raise _unsupported(name, pipeline, "its VAE shifts its latents")
