"""Parts of a model in diffusers' layout, loaded with the libraries' own `from_pretrained`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from sdcli.errors import ModelError
from sdcli.jobs import Job, NoisePlace
from sdcli.memory import is_out_of_memory
from sdcli.models import checkpoint_file, families, json_files
from sdcli.models.conditioning import Conditioning
from sdcli.models.model import Model
from sdcli.models.weight_files import WeightFiles

CONFIG = "config.json"


def load(
    part_class: Any,
    folder: Path,
    files: WeightFiles,
    *,
    what: str,
    source: str,
    dtype: torch.dtype = torch.float32,
    spare: bool = False,
) -> Any:
    """One part with its weights on the CPU, in evaluation mode, without gradients.

    Args:
        part_class: a class of diffusers or transformers with `from_pretrained`.
        folder: the model's folder.
        files: the files with the part's weights.
        what: the part's name, for errors.
        source: the model's name, for errors.
        dtype: the data type of the weights.
        spare: whether the files may have tensors that the part does not use.

    Raises:
        ModelError: the weights are damaged, or do not fit the part's configuration.
    """
    _require_own_shards(folder, files, source)
    fix = "Download the model again: its weights are damaged, or do not fit its configuration."
    with _as_model_error(f"the {what} of {source} cannot be loaded", fix), quiet():
        weights = map(folder.joinpath, files.weights)
        require_enough_weights(part_class, folder / files.part, weights)
        model, info = part_class.from_pretrained(
            folder / files.part,
            dtype=dtype,
            variant=files.variant,
            use_safetensors=files.safetensors,
            local_files_only=True,
            output_loading_info=True,
        )
    odd = [
        name
        for key in ("missing_keys", "mismatched_keys", *(() if spare else ("unexpected_keys",)))
        for name in info[key]
        if not str(name).endswith("position_ids")
    ]
    if odd:
        raise ModelError(
            f"the {what} of {source} does not fit its configuration",
            why=f"{len(odd):,} tensors are missing or left over: {', '.join(map(str, odd[:3]))}.",
            fix="Download the model again.",
        )
    return model.eval().requires_grad_(False)


def whole(part_class: Any, folder: Path, *, what: str, source: str) -> Any:
    """A part without weights, such as a tokenizer or a scheduler. Code in its folder is not run.

    Args:
        part_class: a class of diffusers or transformers with `from_pretrained`.
        folder: that of the part.
        what: as for `load`.
        source: as for `load`.

    Raises:
        ModelError: its files are missing or damaged.
    """
    with _as_model_error(f"the {what} of {source} cannot be loaded", "Download the model again."), quiet():
        return part_class.from_pretrained(folder, local_files_only=True)


def pipeline(pipeline_class: Any, parts: Mapping[str, Any], *, source: str) -> Any:
    """A pipeline of diffusers with its parts.

    Args:
        pipeline_class: its class.
        parts: the arguments of its constructor.
        source: as for `load`.

    Raises:
        ModelError: the parts do not fit together.
    """
    fix = "Download the model again, or update diffusers."
    with _as_model_error(f"the parts of {source} do not fit together", fix), quiet():
        made = pipeline_class(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def try_out(model: Model) -> None:
    """Run each part once, with a small image.

    Fields of configurations that the libraries do not check, such as the size of a kernel, would otherwise fail in the
    first step of a sampler.

    Raises:
        ModelError: a part fails, or returns another shape than it should.
    """
    spec = model.spec
    # At the smallest size a normalization may have a single value.
    pixels = 2 * spec.size_multiple
    side = pixels // spec.downscale
    latents = torch.zeros(1, spec.latent_channels, side, side, device=model.device)
    job = Job(
        prompt="", height=pixels, width=pixels, scale=1.0, steps=1, noise=NoisePlace(), model=spec.name, model_hash="",
        index=0,
    )  # fmt: skip
    part = "text encoder"
    try:
        with torch.inference_mode():
            conditioning = families.get(spec.family).condition(model, [job])
            if not isinstance(conditioning, Conditioning):
                raise TypeError("It makes more than one prompt of one")
            part = "UNet"
            timestep = torch.tensor(spec.schedule.steps_offset, device=model.device)
            noise = model.unet(latents, timestep, **conditioning.unet_arguments(guided=False)).sample
            if noise.shape != latents.shape:
                raise ValueError(f"It returns {tuple(noise.shape)} for {tuple(latents.shape)}")
            part = "VAE"
            image = model.vae.decode(latents / model.vae.config.scaling_factor).sample
            if image.shape != (1, 3, pixels, pixels):
                raise ValueError(f"It returns {tuple(image.shape)} for {tuple(latents.shape)}")
    # Of any type: a value of a configuration has another type than the code of the part expects.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"the {part} of {spec.name} does not work",
            why=f"{_first_line(error)}.",
            fix="Download the model again: a value in its configuration is wrong.",
        ) from error


def _require_own_shards(folder: Path, files: WeightFiles, source: str) -> None:
    """Raise `ModelError` if an index of weights in several files names other files than those of the part."""
    for name in set(files.files) - set(files.weights):
        shards = json_files.read(folder / name).get("weight_map")
        named = shards.values() if isinstance(shards, dict) else [shards]
        other = next((shard for shard in named if f"{files.part}/{shard}" not in files.files), None)
        if other is not None:
            raise ModelError(
                f"the model {source} is incomplete: {folder / name} names the weights {str(other)[:200]!r}",
                why=f"There is no such file in {folder / files.part}.",
                fix="Download the model again.",
            )


def require_enough_weights(part_class: Any, folder: Path, weights: Iterable[Path]) -> None:
    """Raise `ValueError` if a configuration describes a larger model than the weights.

    transformers makes room for all of it before it compares the shapes; diffusers compares them first.

    Args:
        part_class: as for `load`.
        folder: that of the part.
        weights: the files with the part's weights.
    """
    if not issubclass(part_class, PreTrainedModel):
        return
    config = part_class.config_class.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        needed = sum(4 * weight.numel() for weight in part_class(config).parameters())
    # Twice, because the same weights may be used in two places.
    found = 2 * sum(checkpoint_file.size(path) for path in weights)
    if needed > found:
        raise ValueError(f"{CONFIG} describes {needed:,} bytes of weights, more than there are")


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _as_model_error(what: str, fix: str) -> Iterator[None]:
    """Turn an exception of the libraries, which raise many types, into `ModelError`."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(what, why=f"{_first_line(error)}.", fix=fix) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and warnings: whatever matters is an error here."""
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
