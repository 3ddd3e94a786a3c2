"""Tensors into a model that was built without memory of its own: the tensors become its weights, uncopied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sdcli.errors import DeviceError, ModelError


def give(model: Any, tensors: Mapping[str, torch.Tensor], *, what: str, source: str, config: str) -> Any:
    """`model`, made on the meta device, with `tensors` as its weights in float32, in evaluation mode.

    Args:
        model: a torch module without memory.
        tensors: by the module's names; uncopied where they are float32 already.
        what: "UNet", for errors.
        source: the checkpoint's name, for errors.
        config: the configuration's name, for errors.

    Raises:
        ModelError: a name is missing or left over, or a shape differs.
    """
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check(wanted, given, what=what, source=source, config=config)
    odd = next((name for name, tensor in tensors.items() if not tensor.is_floating_point()), None)
    if odd:
        raise ModelError(
            f"the {what} in {source} is not in floating point: {odd} is {tensors[odd].dtype}",
            why="It was made smaller in a way that sdcli does not undo.",
            fix="Get the model in 16 or 32 bits.",
        )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # not saved with models, as it is always 0, 1, 2, ...
                if name != "position_ids":
                    raise ModelError(f"the {what} of {source} has an unknown buffer {name}")
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
    return model.eval().requires_grad_(False)


def check(
    wanted: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    *,
    what: str,
    source: str,
    config: str,
) -> None:
    """That the same names have the same shapes.

    Raises:
        ModelError: they do not; names a few that differ.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    differing = [
        f"{name} is {given[name]}, by the configuration {wanted[name]}"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    if not (missing or unexpected or differing):
        return
    reasons = [
        f"{len(names):,} {label}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for label, names in (
            ("missing", missing),
            ("not expected", unexpected),
            ("of another shape", differing),
        )
        if names
    ]
    raise ModelError(
        f"the {what} in {source} does not fit {config}",
        why="Tensors " + "; ".join(reasons) + ".",
        fix="Give the configuration that belongs to the checkpoint.",
    )


def check_width(text_encoder: Any, unet: Any, source: str) -> None:
    """That the UNet takes the embeddings that the text encoder gives.

    Raises:
        ModelError: it does not.
    """
    gives, takes = text_encoder.config.hidden_size, unet.config.cross_attention_dim
    if gives != takes:
        raise ModelError(
            f"the parts of {source} do not fit each other",
            why=f"The text encoder gives embeddings of width {gives}, the UNet takes {takes}.",
        )


@contextmanager
def enough_memory(name: str) -> Iterator[None]:
    """Turns running out of memory while a model loads into an error that says what to do.

    Raises:
        DeviceError: instead of MemoryError and torch's own errors of that kind.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise DeviceError(
            f"there is not enough memory to load {name}",
            why=str(error).split("\n", 1)[0],
            fix="Close other programs, or take a smaller model.",
        ) from error
