"""Parts of a model in diffusers' layout, loaded with the libraries' own `from_pretrained`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sdcli.errors import ModelError
from sdcli.memory import is_out_of_memory
from sdcli.models.weight_files import WeightFiles


def load(part_class: Any, folder: Path, files: WeightFiles, *, what: str, source: str) -> Any:
    """One part with its weights in float32 on the CPU, in evaluation mode, without gradients.

    Args:
        part_class: a class of diffusers or transformers with `from_pretrained`.
        folder: the model's folder.
        files: the files with the part's weights.
        what: the part's name, for errors.
        source: the model's name, for errors.

    Raises:
        ModelError: the weights are damaged, or do not fit the part's configuration.
    """
    try:
        with _quiet():
            model, info = part_class.from_pretrained(
                folder / files.part,
                dtype=torch.float32,
                variant=files.variant,
                use_safetensors=files.safetensors,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # the libraries raise many types
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"the {what} of {source} cannot be loaded",
            why=str(error).strip().split("\n", 1)[0],
            fix="Download the model again: its weights are damaged, or do not fit its configuration.",
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
            fix="Download the model again.",
        )
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and warnings: whatever matters is an error here."""
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
