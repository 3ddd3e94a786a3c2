"""Models in a folder of diffusers' layout: `model_index.json`, and a folder for each part."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from sdcli.errors import ModelError, ModelNotFound, UsageError
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_file, hashes, scheduler_config
from sdcli.models.model import Model, ModelRequest, Progress

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"
# The parts, under the names that pipelines give them, and the classes that sdcli draws with.
TEXT_ENCODERS: Mapping[str, Literal["clip", "bert"]] = {"CLIPTextModel": "clip", "LDMBertModel": "bert"}
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "BertTokenizer", "BertTokenizerFast")
VAES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
PART_NAMES = {"text encoder": ("text_encoder", "bert"), "UNet": ("unet",), "VAE": ("vae", "vqvae")}
# Full precision first, whatever the format; then safetensors first.
VARIANTS = (None, "fp16")
FORMATS = ("safetensors", "bin")
STEMS = {"safetensors": "(diffusion_pytorch_model|model)", "bin": "(diffusion_pytorch_model|pytorch_model)"}

File = TypeVar("File", bound=BaseModel)

DRAWS_WITH = "sdcli draws with diffusers' models of Stable Diffusion 1 and 2, and of LAION-400M."


class UNetFile(BaseModel):
    """The fields of the UNet's config.json that plans need, and those that ask for more than words."""

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
    latent_channels: int = 4
    block_out_channels: list[int] | None = None
    decoder_block_out_channels: list[int] | None = None
    upsampling_scaling_factor: int = 2
    shift_factor: float | None = None

    @property
    def downscale(self) -> int:
        blocks = self.decoder_block_out_channels or self.block_out_channels or [64] * 4
        return int(self.upsampling_scaling_factor ** (len(blocks) - 1))


@dataclass(frozen=True)
class Weights:
    """The files of one part's weights: one, or several with an index."""

    part: str
    files: tuple[str, ...]
    """Relative to the model's folder, with forward slashes."""
    variant: str | None
    safetensors: bool


def find_weights(names: Collection[str], part: str) -> Weights | None:
    """Which of the files `names`, relative to a model's folder, to take for a part's weights."""
    for variant in VARIANTS:
        for extension in FORMATS:
            dotted = rf"\.{variant}" if variant else ""
            file = re.compile(rf"{part}/{STEMS[extension]}{dotted}(-\d+-of-\d+)?\.{extension}")
            index = re.compile(rf"{part}/{STEMS[extension]}\.{extension}\.index{dotted}\.json")
            files = [name for name in names if file.fullmatch(name)]
            if files:
                files += [name for name in names if index.fullmatch(name)]
                return Weights(part, tuple(sorted(files)), variant, extension == "safetensors")
    return None


@dataclass(frozen=True)
class FolderModel:
    """A diffusers model on disk, its configurations read and checked."""

    path: Path
    spec: ModelSpec
    parts: Mapping[str, Weights]
    """Of "text encoder", "UNet" and "VAE"."""
    vae_class: str

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        name: str,
        kind: Literal["builtin", "diffusers"] = "diffusers",
        names: Collection[str] | None = None,
    ) -> FolderModel:
        """The model in the folder `path`.

        Args:
            path: the folder.
            name: for records and errors.
            kind: where the model comes from.
            names: the model's files, relative; by default those in the folder.

        Raises:
            ModelError: no model, one of another kind, or parts of it are missing.
        """
        if names is None:
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        index = _read_index(path, name, names)
        pipeline = str(index.get("_class_name", ""))
        parts = {label: _part(index, names, name, label) for label in PART_NAMES}
        if "tokenizer" not in index or index["tokenizer"][1] not in TOKENIZERS:
            raise _other(name, pipeline, "it has no tokenizer of CLIP or BERT")
        text = TEXT_ENCODERS[index[parts["text encoder"].part][1]]
        unet = _validated(UNetFile, path / parts["UNet"].part / "config.json")
        vae = _validated(VAEFile, path / parts["VAE"].part / "config.json")
        _check(name, pipeline, unet, vae)
        scheduler = path / "scheduler" / "scheduler_config.json"
        size = unet.sample_size if unet.sample_size is not None else 512 // vae.downscale
        height, width = size if isinstance(size, list) else (size, size)
        spec = ModelSpec(
            name=name,
            kind=kind,
            text=text,
            latent_channels=unet.in_channels,
            downscale=vae.downscale,
            size_multiple=vae.downscale * 2 ** (len(unet.block_out_channels) - 1),
            default_height=height * vae.downscale,
            default_width=width * vae.downscale,
            default_scale=2.0 if kind == "builtin" else 7.5,
            schedule=scheduler_config.schedule(_read_json(scheduler), scheduler, pipeline),
            watermark_method="robust" if kind == "builtin" else "dwtDct",
            has_safety_checker=_has(index, "safety_checker") and find_weights(names, "safety_checker") is not None,
        )
        return cls(path, spec, parts, str(index[parts["VAE"].part][1]))

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

        configuration = _read_json(self.path / self.parts["text encoder"].part / "config.json")
        length = configuration.get("max_position_embeddings", 77)
        return tokenizer.load(self.spec.text, self.path / "tokenizer", int(length))

    def load(self, device: torch.device, progress: Progress) -> Model:
        from sdcli.models import pretrained, weights

        with weights.enough_memory(self.spec.name):
            loaded = {}
            for label, part in self.parts.items():
                progress(label)
                kind = {"text encoder": self.spec.text, "UNet": "unet", "VAE": self.vae_class}[label]
                loaded[label] = pretrained.load(kind, self.path, part, what=label, source=self.spec.name).to(device)
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
    """The model in a folder, if what is asked for is one or can only be meant as one.

    Raises:
        ModelNotFound: it reads like a path, and nothing is there.
        ModelError: what is there is not a model.
    """
    asked = request.model or ""
    path = Path(asked).expanduser()
    if path.is_dir():
        if request.revision is not None:
            raise UsageError(f"--revision goes with a hub id, and --model {asked} is a folder", fix="Leave it out.")
        return FolderModel.read(path, name=path.resolve().name)
    if path.is_file():
        raise ModelError(
            f"--model {asked} is a file",
            why="--model takes a folder of diffusers' layout, or a hub id.",
            fix=f"If it is a checkpoint of the original layout: --ckpt {asked}",
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", asked):
        return None  # as hub ids are
    raise ModelNotFound(
        f"there is no folder {asked}",
        fix="Give the path of a folder that holds model_index.json, or a hub id of the form owner/name.",
    )


def _read_index(path: Path, name: str, names: Collection[str]) -> Mapping[str, Any]:
    if INDEX in names:
        return _read_json(path / INDEX)
    fix = f"Give the folder that holds {INDEX} and the folders unet, vae, text_encoder, tokenizer and scheduler."
    checkpoints = sorted(file for file in names if "/" not in file and file.endswith((".ckpt", ".safetensors")))
    if "config.json" in names:
        fix = "It looks like one part of such a model: give the folder above."
    elif checkpoints:
        fix = f"It holds the file {checkpoints[0]}: if that is of the original layout, give its path with --ckpt."
    raise ModelError(f"the model {name} is not a diffusers model: it has no {INDEX}", fix=fix)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"the model is incomplete: {path} is missing", fix="Fetch the model again.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON", why=f"{error}.", fix="Fetch the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a configuration: it holds no named fields", fix="Fetch the model again.")
    return content


def _validated(kind: type[File], path: Path) -> File:
    try:
        return kind.model_validate(_read_json(path))
    except ValidationError as error:
        why = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors()[:3])
        raise ModelError(f"{path} is not a model's configuration", why=f"{why}.") from error


def _has(index: Mapping[str, Any], part: str) -> bool:
    """Whether a pipeline has a part: its library and class are named, and not null."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, str) for each in entry)


def _part(index: Mapping[str, Any], names: Collection[str], name: str, label: str) -> Weights:
    pipeline = str(index.get("_class_name", ""))
    present = [part for part in PART_NAMES[label] if _has(index, part)]
    if not present or _has(index, "text_encoder_2") or _has(index, "transformer"):
        raise _other(name, pipeline, f"it has no {label}" if not present else "it has other parts than those")
    part = present[0]
    known = {"text encoder": tuple(TEXT_ENCODERS), "UNet": ("UNet2DConditionModel",), "VAE": VAES}[label]
    if index[part][1] not in known:
        raise _other(name, pipeline, f"its {label} is {index[part][1]}, not {' or '.join(known)}")
    weights = find_weights(names, part)
    if weights is None:
        raise ModelError(
            f"the model {name} is incomplete: the folder {part} has no weights",
            why="Looked for diffusion_pytorch_model or model as .safetensors, or .bin, also as .fp16.",
            fix="Fetch the model again.",
        )
    return weights


def _other(name: str, pipeline: str, why: str) -> ModelError:
    families = {
        "StableDiffusionXL": "Stable Diffusion XL",
        "StableDiffusion3": "Stable Diffusion 3",
        "Flux": "Flux",
        "PixArt": "PixArt",
    }
    family = next((words for prefix, words in families.items() if pipeline.startswith(prefix)), "")
    what = f"a {family} model" if family else f"a {pipeline or 'pipeline without a name'}"
    return ModelError(f"the model {name} is {what}: {why}", why=DRAWS_WITH, fix="Give one of those with --model.")


def _check(name: str, pipeline: str, unet: UNetFile, vae: VAEFile) -> None:
    """Refuse models that draw from more than words."""
    if unet.in_channels != vae.latent_channels:
        why = f"its UNet takes {unet.in_channels} channels and its VAE gives {vae.latent_channels}, as for inpainting"
        raise _other(name, pipeline, why)
    more = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
    asked = [field for field in more if getattr(unet, field) is not None]
    if asked:
        raise _other(name, pipeline, f"its UNet asks for more than words ({', '.join(asked)})")
    if unet.out_channels != unet.in_channels:
        raise _other(name, pipeline, f"its UNet gives {unet.out_channels} channels for {unet.in_channels}")
    if vae.shift_factor:
        raise _other(name, pipeline, "its VAE shifts its latents")
