"""Parts of diffusers' layout, through the libraries' own `from_pretrained`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.utils import logging as transformers_logging

from sdcli.errors import ModelError
from sdcli.models.bert import BertTextModel
from sdcli.models.sources.folder import Weights

CLASSES: dict[str, Any] = {
    "clip": CLIPTextModel,
    "bert": BertTextModel,
    "unet": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "VQModel": VQModel,
}


def load(kind: str, folder: Path, weights: Weights, *, what: str, source: str) -> Any:
    """One part with its weights in float32, in evaluation mode, without gradients.

    Args:
        kind: a key of `CLASSES`.
        folder: the model's.
        weights: which files.
        what: the part's name, for errors.
        source: the model's name, for errors.

    Raises:
        ModelError: damaged weights, or ones that do not fit the part's configuration.
    """
    try:
        with _quiet():
            model, info = CLASSES[kind].from_pretrained(
                folder / weights.part,
                dtype=torch.float32,
                variant=weights.variant,
                use_safetensors=weights.safetensors,
                local_files_only=True,
                output_loading_info=True,
            )
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise what they please
        if "memory" in str(error):
            raise MemoryError(str(error)) from error
        raise ModelError(
            f"the {what} of {source} cannot be loaded",
            why=str(error).strip().split("\n", 1)[0],
            fix="Fetch the model again: its weights are damaged, or do not fit its configuration.",
        ) from error
    odd = [
        name
        for key in ("missing_keys", "mismatched_keys", "unexpected_keys")
        for name in info[key]
        if not str(name).endswith("position_ids")
    ]
    if odd:
        raise ModelError(
            f"the {what} of {source} does not fit its configuration",
            why=f"{len(odd):,} tensors are missing or left over: {', '.join(map(str, odd[:3]))}.",
            fix="Fetch the model again.",
        )
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own bars and warnings: what is wrong is an error here, the rest is of no use to anyone."""
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
