"""Make tensors the weights of a model that has no memory yet, without copying them; and check that they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from sdcli.errors import ModelError
from sdcli.memory import memory_errors
from sdcli.models import checkpoint_file
from sdcli.models.model import Model, PipelineModel

_AS_STORED = ContextVar("as_stored", default=False)


@contextmanager
def as_stored() -> Iterator[None]:
    """Within this context, `assign` keeps the types of tensors, so that none is copied: for conversions."""
    token = _AS_STORED.set(True)
    try:
        yield
    finally:
        _AS_STORED.reset(token)


def assign(model: Any, tensors: Mapping[str, torch.Tensor], *, what: str, source: str, config: str) -> Any:
    """Make `tensors` the weights of `model`, in float32, and return the model in evaluation mode, without gradients.

    Args:
        model: a torch module on the meta device.
        tensors: by the module's names; not copied if they are float32 already.
        what: the part's name, for errors: "UNet".
        source: the checkpoint's name, for errors.
        config: the configuration's name, for errors.

    Raises:
        ModelError: a tensor is missing, left over, of another shape, or not in floating point.
    """
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check(expected, found, what=what, source=source, config=config)
    odd = next((name for name, tensor in tensors.items() if not tensor.is_floating_point()), None)
    if odd:
        raise ModelError(
            f"the {what} in {source} is not in floating point: {odd} is {tensors[odd].dtype}",
            why="It is quantized, and sdcli does not read quantized models.",
            fix="Get the model in 16 or 32 bits.",
        )
    model.load_state_dict(dict(tensors) if _AS_STORED.get() else _in_full(tensors), assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # Not saved with models, as it is always 0, 1, 2, ...
                if name != "position_ids":
                    raise ModelError(f"the {what} of {source} has an unknown buffer {name}")
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
    return model.eval().requires_grad_(False)


_AT_ONCE = 256_000_000


def _in_full(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors in float32. What was read of the file for those that are copied is given back in between."""
    found, read = {}, 0
    for name, tensor in tensors.items():
        found[name] = tensor.float()
        if found[name] is not tensor and (read := read + tensor.nbytes) > _AT_ONCE:
            checkpoint_file.forget_pages()
            read = 0
    checkpoint_file.forget_pages()
    return found


def placed(part: Any, device: torch.device) -> Any:
    """A part on its device; on a GPU, weights that float16 represents exactly are kept in float16.

    Only those of linear and convolution layers, which autocast would convert in every call: images are the same.

    Args:
        part: a UNet or a text encoder in float32, on the CPU.
        device: where it computes.
    """
    if device.type != "cpu":
        for layer in part.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                for weight in layer.parameters(recurse=False):
                    half = weight.data.half()
                    if torch.equal(half.float(), weight.data):
                        weight.data = half
    return part.to(device)


def to_full(model: Model | PipelineModel) -> None:
    """Convert the weights of `placed` back to float32, exactly, for a run without autocast."""
    for weight in _halves(model):
        weight.data = weight.data.float()


@contextmanager
def in_full(model: Model | PipelineModel) -> Iterator[None]:
    """As `to_full`, for one computation. Meanwhile the weights in float16 are in the memory of the CPU."""
    kept = []
    try:
        for weight in _halves(model):
            kept.append((weight, weight.data.cpu()))
            weight.data = weight.data.float()
        yield
    finally:
        for weight, half in kept:
            weight.data = half.to(weight.device)


def _halves(model: Model | PipelineModel) -> list[torch.nn.Parameter]:
    if isinstance(model, PipelineModel):  # whose precision `sdcli.pipeline.of_diffusers` decides
        return []
    parts = (model.unet, *(text_encoder for _, text_encoder in model.text_encoders))
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    return [weight for part in modules for weight in part.parameters() if weight.dtype == torch.float16]


def check(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    what: str,
    source: str,
    config: str,
) -> None:
    """Check that the same names have the same shapes.

    Args:
        expected: shapes of the model's weights, by name.
        found: shapes of the tensors, by name.
        what: as in `assign`.
        source: as in `assign`.
        config: as in `assign`.

    Raises:
        ModelError: they differ; lists up to three names of each kind.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    differing = [
        f"{name} is {found[name]}, by the configuration {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
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


def check_width(text_encoders: Sequence[Any], unet: Any, source: str) -> None:
    """Check that the UNet takes embeddings of the width that the text encoders return together.

    Raises:
        ModelError: it does not.
    """
    returned, taken = sum(each.config.hidden_size for each in text_encoders), unet.config.cross_attention_dim
    if returned != taken:
        raise ModelError(
            f"the parts of {source} do not fit each other",
            why=f"The text encoder returns embeddings of width {returned}, the UNet takes {taken}.",
        )


def enough_memory(name: str) -> AbstractContextManager[None]:
    """Turn running out of memory while the model `name` loads into an error that says what to do.

    Raises:
        DeviceError: instead of the exception of Python or PyTorch.
    """
    return memory_errors(
        f"there is not enough memory to load {name}", fix="Close other programs, or use a smaller model."
    )
