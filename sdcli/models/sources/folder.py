"""Models in diffusers' layout: a folder with `model_index.json`, and a folder for each part."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError, ModelNotFound, UsageError
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_file, families, hashes, hints, json_files, scheduler_config, shipped, weight_files
from sdcli.models.families import Family
from sdcli.models.folder_config import MAX_DOWNSCALE, TextEncoderFile, UNetFile, VAEFile
from sdcli.models.model import Model, ModelRequest, PartCallback
from sdcli.models.vocabulary import Vocabulary
from sdcli.models.weight_files import WeightFiles
from sdcli.settings import LARGEST_SIDE, ORIGINAL_STEPS
from sdcli.suggestions import did_you_mean, near

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"
CONFIG = "config.json"
_AGAIN = "Download the model again."
# Keys of the parts in model_index.json, and the classes of diffusers that sdcli supports. Families list the rest.
PART_NAMES = {"UNet": ("unet",), "VAE": ("vae", "vqvae")}
TEXT_PARTS = ("text encoder", "second text encoder")
CLASSES = {"UNet": ("UNet2DConditionModel",), "VAE": ("AutoencoderKL", "AutoencoderTiny", "VQModel")}


@dataclass(frozen=True)
class FolderModel:
    """A diffusers model on disk; its configuration files are read and checked."""

    path: Path
    spec: ModelSpec
    parts: Mapping[str, WeightFiles]
    """The weights of "text encoder", "UNet" and "VAE"."""
    classes: Mapping[str, str]
    """The class names of "UNet" and "VAE" in diffusers."""
    base: Path | None = None
    """The folder of another model, with the parts that `path` lacks."""

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        name: str,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        base: Path | None = None,
        names: Collection[str] | None = None,
    ) -> FolderModel:
        """Read and check the configuration files of a model.

        Args:
            path: the model's folder.
            name: the model's name in records and errors.
            defaults: fields of the `ModelSpec` for this model, instead of those for any model.
            base: the folder of another model, with the parts that `path` lacks.
            names: the model's files, relative to `path`; by default those in the folder.

        Raises:
            ModelError: the folder is not a model, or one that is not supported, or parts are missing.
        """
        if names is None:
            names = files_in(path, base)
        index = _read_index(_home(path, base, INDEX), name, names)
        pipeline = str(index.get("_class_name", ""))
        family, parts = _family(index, names, name)
        parts |= {label: _part(index, names, name, label, PART_NAMES[label], CLASSES[label]) for label in PART_NAMES}
        classes = {label: str(index[parts[label].part][1]) for label in PART_NAMES}
        files = {label: _home(path, base, part.part) / part.part / CONFIG for label, part in parts.items()}
        texts = [json_files.read_fields(TextEncoderFile, files[label]) for label in TEXT_PARTS if label in parts]
        unet = json_files.read_fields(UNetFile, files["UNet"])
        vae = json_files.read_fields(VAEFile, files["VAE"])
        if vae.downscale > MAX_DOWNSCALE:
            raise ModelError(f"{files['VAE']} describes a VAE that enlarges {vae.downscale} times", fix=_AGAIN)
        _check(name, pipeline, families.get(family), unet, vae, texts[-1].projection_dim)
        scheduler = _home(path, base, "scheduler") / "scheduler" / "scheduler_config.json"
        size = unet.sample_size if unet.sample_size is not None else 512 // vae.downscale
        height, width = size if isinstance(size, list) else (size, size)
        if max(height, width) * vae.downscale > LARGEST_SIDE:
            raise ModelError(
                f"{files['UNet']} has the sample_size {size}, which is {max(height, width) * vae.downscale} pixels",
                why=f"Images have at most {LARGEST_SIDE} pixels on each side.",
                fix=_AGAIN,
            )
        steps = json_files.read(scheduler)
        fields = {
            "name": name,
            "family": family,
            "latent_channels": unet.in_channels,
            "downscale": vae.downscale,
            "size_multiple": vae.downscale * 2 ** (len(unet.block_out_channels) - 1),
            "default_height": height * vae.downscale,
            "default_width": width * vae.downscale,
            "default_scale": families.get(family).default_scale,
            "default_steps": ORIGINAL_STEPS,
            "schedule": scheduler_config.schedule(steps, scheduler, pipeline),
            "guidance_embedding": unet.time_cond_proj_dim or 0,
            "latent_scale": vae.scaling_factor,
            "text_width": unet.cross_attention_dim if isinstance(unet.cross_attention_dim, int) else 0,
            "zero_negative_prompt": index.get("force_zeros_for_empty_prompt", False) is True,
            "watermark_method": "dwtDct",
            "has_safety_checker": (
                _has(index, "safety_checker") and weight_files.find(names, "safety_checker") is not None
            ),
        }
        if families.get(family).own_sampler:
            fields["default_sampler"] = scheduler_config.sampler(steps)
        if few_steps_by := scheduler_config.FEW_STEPS_BY.get(str(steps.get("_class_name", ""))):
            # The values of diffusers' pipeline for LCM. Without the embedding, guidance is in the weights.
            fields |= {"few_steps_by": few_steps_by, "default_sampler": few_steps_by, "default_steps": 4}
            fields |= {"default_scale": 8.5 if unet.time_cond_proj_dim else 1.0}
        elif few := hints.few_steps(name.rpartition("/")[2]):
            way, count = few
            notes = hints.Hints(few_steps=way, steps=count).notes(name, families.get(family))
            fields |= {"default_steps": count, "default_scale": 1.0, "notes": tuple(notes)}
            fields |= {"few_steps_by": way.sampler, "default_sampler": way.sampler} if way.sampler else {}
        return cls(path, ModelSpec(**{**fields, **defaults}), parts, classes, base)

    @property
    def family(self) -> Family:
        return families.get(self.spec.family)

    def safety_checker(self, *, download: bool) -> Path | None:
        return self.path / "safety_checker" if self.spec.has_safety_checker else None

    @cached_property
    def _hash(self) -> str:
        return hashes.of_files({name: self._file(name) for part in self.parts.values() for name in part.files})

    def _file(self, name: str) -> Path:
        """A file or folder of the model, relative to its folder."""
        return _home(self.path, self.base, name) / name

    def hash(self) -> str:
        return self._hash

    def here(self) -> bool:
        return all(self._file(name).is_file() for part in self.parts.values() for name in part.files)

    def weights(self) -> int:
        return sum(checkpoint_file.size(self._file(name)) for part in self.parts.values() for name in part.weights)

    def tokenizer(self) -> Any:
        return self._tokenizer(TEXT_PARTS[0], "tokenizer")

    def _tokenizer(self, label: str, folder: str) -> Any:
        """The tokenizer of one of the text encoders."""
        from sdcli.models import tokenizer

        fields = json_files.read(self._file(f"{self.parts[label].part}/{CONFIG}"))
        length = self.family.max_length(fields)
        return tokenizer.load(self.family, self._file(folder), length, vocabulary=fields.get("vocab_size"))

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        return Vocabulary.find(self._file("words").parent)

    def vocabulary(self) -> Vocabulary | None:
        return self._vocabulary

    def load(self, device: torch.device, progress: PartCallback) -> Model:
        import diffusers

        from sdcli.models import pretrained, weights

        classes = {label: getattr(diffusers, name) for label, name in self.classes.items()}
        first, second = TEXT_PARTS
        classes[first] = self.family.text_encoder_class()
        two = second in self.parts
        if two:
            classes[second] = self.family.text_encoder_2_class()
        with weights.enough_memory(self.spec.name):
            # First, because it is small, and its files are most often the ones that are missing.
            tokenizer = self.tokenizer()
            tokenizer_2 = self._tokenizer(second, "tokenizer_2") if two else None
            loaded = {}
            for label, files in self.parts.items():
                progress(label)
                home = _home(self.path, self.base, files.part)
                part = pretrained.load(classes[label], home, files, what=label, source=self.spec.name)
                # The VAE may compute without autocast.
                loaded[label] = part.to(device) if label == "VAE" else weights.placed(part, device)
            text_encoders = [loaded[label] for label in TEXT_PARTS if label in loaded]
            weights.check_width(text_encoders, loaded["UNet"], self.spec.name)
            model = Model(
                spec=self.spec,
                tokenizer=tokenizer,
                text_encoder=loaded[first],
                unet=loaded["UNet"],
                vae=loaded["VAE"],
                device=device,
                tokenizer_2=tokenizer_2,
                text_encoder_2=loaded.get(second),
            )
            if self.path not in (shipped.BUILTIN, shipped.FAST):
                with weights.in_full(model):
                    pretrained.try_out(model)
            return model


def find(request: ModelRequest) -> FolderModel | None:
    """The model in a folder; None if the request has the form of a hub id and there is no such folder.

    Raises:
        UsageError: a revision, which only models on the hub have.
        ModelNotFound: the folder does not exist.
        ModelError: it is not a model.
    """
    given = request.model or ""
    # os.path, which has an answer for names that no file can have, and for users that do not exist.
    path = Path(os.path.expanduser(given))  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        if request.revision is not None:
            raise UsageError(f"--revision goes with a hub id, and --model {given} is a folder", fix="Leave it out.")
        return FolderModel.read(path, name=path.resolve().name or given)
    if os.path.isfile(path):  # noqa: PTH113
        raise ModelError(
            f"--model {given} is a file",
            why="--model takes a folder of diffusers' layout, or a hub id.",
            fix=f"If it is a checkpoint of the original layout, pass --ckpt {given}.",
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", given):
        return None  # the form of hub ids
    raise ModelNotFound(
        f"folder {given} does not exist",
        why=did_you_mean(near(given, shipped.NAMES)),
        fix="Pass the path of a folder that contains model_index.json, or a hub id of the form owner/name.",
    )


def files_in(path: Path, base: Path | None = None) -> list[str]:
    """The files of a model, relative to its folder, with forward slashes: those in the folder and in folders in it.

    Args:
        path: the folder.
        base: the folder of another model, with the parts that `path` lacks.

    Raises:
        ModelError: the folder cannot be read.
    """
    try:
        entries = list(os.scandir(path))
        names = [entry.name for entry in entries if entry.is_file()]
        if INDEX not in names and base is None:
            return names  # not a model, and perhaps a folder with all files of a disk
        for part in (entry.name for entry in entries if entry.is_dir()):
            names += [f"{part}/{entry.name}" for entry in os.scandir(path / part) if entry.is_file()]
        if base is not None:
            names += [name for name in files_in(base) if _home(path, base, name) == base]
        return names
    except OSError as error:
        raise ModelError(f"the folder {error.filename} cannot be read", why=f"{error.strerror}.") from error


def _home(path: Path, base: Path | None, name: str) -> Path:
    """The folder that has a file of a model: `base`, if `path` does not have its part."""
    return path if base is None or (path / name.split("/")[0]).exists() else base


def _read_index(path: Path, name: str, names: Collection[str]) -> Mapping[str, Any]:
    if INDEX in names:
        return json_files.read(path / INDEX)
    fix = f"Pass the folder that contains {INDEX} and the folders unet, vae, text_encoder, tokenizer and scheduler."
    checkpoints = sorted(file for file in names if "/" not in file and file.endswith((".ckpt", ".safetensors")))
    if CONFIG in names:
        fix = "It seems to be one part of a model: pass the parent folder."
    elif checkpoints:
        fix = f"It contains the file {checkpoints[0]}: if that is of the original layout, pass its path with --ckpt."
    raise ModelError(f"the model {name} is not a diffusers model: it has no {INDEX}", fix=fix)


def _has(index: Mapping[str, Any], part: str) -> bool:
    """Whether a pipeline has a part: the index has its library and class, and they are not null."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, str) for each in entry)


def _family(index: Mapping[str, Any], names: Collection[str], name: str) -> tuple[str, dict[str, WeightFiles]]:
    """The family of a model, and the weights of its text encoders, by their labels in `TEXT_PARTS`.

    Raises:
        ModelError: the model is of no family.
    """
    pipeline = str(index.get("_class_name", ""))
    if index.get("requires_aesthetics_score") is True:
        raise _unsupported(name, "StableDiffusionXLRefiner", "it changes images of another model")
    first, second = TEXT_PARTS
    parts = {first: _part(index, names, name, first, families.each("part"), families.each("text_encoders"))}
    own = str(index[parts[first].part][1])
    two = _has(index, "text_encoder_2")
    found = families.first(lambda each: own in each.text_encoders and bool(each.text_encoders_2) == two)
    if found is None:
        raise _unsupported(name, pipeline, "it has parts besides these")
    family = families.get(found)
    if two:
        parts[second] = _part(index, names, name, second, ["text_encoder_2"], family.text_encoders_2)
        if not any(f"tokenizer_2/{file}" in names for file in family.vocabulary_files):
            # The shipped one pads prompts in another way.
            raise ModelError(
                f"the model {name} is incomplete: the folder tokenizer_2 contains no vocabulary", fix=_AGAIN
            )
    for tokenizer in ("tokenizer", "tokenizer_2")[: len(parts)]:
        if not _has(index, tokenizer) or index[tokenizer][1] not in family.tokenizers:
            raise _unsupported(name, pipeline, f"it has no {tokenizer} of {family.label}")
    return found, parts


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
    if not present or _has(index, "text_encoder_3") or _has(index, "transformer"):
        raise _unsupported(name, pipeline, f"it has no {label}" if not present else "it has parts besides these")
    part = present[0]
    if index[part][1] not in classes:
        raise _unsupported(name, pipeline, f"its {label} is {index[part][1]}, not {' or '.join(classes)}")
    files = weight_files.find(names, part)
    if files is None:
        raise ModelError(
            f"the model {name} is incomplete: the folder {part} has no weights",
            why="Searched for diffusion_pytorch_model or model as .safetensors or .bin, also as .fp16.",
            fix=_AGAIN,
        )
    return files


def _unsupported(name: str, pipeline: str, why: str) -> ModelError:
    """The error for a model that is not supported; names its kind if the class of its pipeline is known."""
    known = {
        "StableDiffusionXLRefiner": "Stable Diffusion XL refiner",
        "StableDiffusionXLInpaint": "Stable Diffusion XL inpainting",
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


def _check(name: str, pipeline: str, family: Family, unet: UNetFile, vae: VAEFile, pooled: int) -> None:
    """Refuse models that need more inputs than a prompt, or than those of their family with a pooled embedding."""
    if unet.in_channels != vae.latent_channels:
        why = f"its UNet takes {unet.in_channels} channels and its VAE outputs {vae.latent_channels}, as for inpainting"
        raise _unsupported(name, pipeline, why)
    more = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")
    needed = [field for field in more if getattr(unet, field) is not None]
    if family.sizes and unet.addition_embed_type == "text_time":
        needed.remove("addition_embed_type")
        given = pooled + family.sizes * (unet.addition_time_embed_dim or 0)
        if unet.projection_class_embeddings_input_dim != given:
            what = f"a pooled embedding of {pooled} and {family.sizes} sizes of {unet.addition_time_embed_dim} each"
            took = unet.projection_class_embeddings_input_dim
            raise _unsupported(name, pipeline, f"its UNet takes {took} numbers beside a prompt, which are not {what}")
    elif family.sizes:
        raise _unsupported(name, pipeline, "its UNet takes no sizes")
    if needed:
        raise _unsupported(name, pipeline, f"its UNet needs more inputs than a prompt ({', '.join(needed)})")
    if unet.out_channels != unet.in_channels:
        raise _unsupported(
            name, pipeline, f"its UNet takes {unet.in_channels} channels and outputs {unet.out_channels}"
        )
    if vae.shift_factor or vae.latents_mean or vae.latents_std:
        raise _unsupported(name, pipeline, "its VAE shifts its latents")
