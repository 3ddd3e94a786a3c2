"""A safetensors file written tensor by tensor, so that memory holds one of them, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sdcli.errors import ModelError
from sdcli.models import checkpoint_file

TYPES = {getattr(torch, name): code for code, name in checkpoint_file.SAFETENSORS_TYPES.items()}
"""The names of types in the format."""

Tensors = Mapping[str, torch.Tensor]


def kind_of(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The type in which a tensor is written: `dtype`, if it is in floating point and `dtype` is not None."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def write(
    path: Path,
    tensors: Tensors,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write a new file and compare it with the tensors, bit for bit after rounding to `dtype`.

    Args:
        path: the file, which must not exist.
        tensors: by name.
        dtype: the type of those in floating point; None keeps that of each.
        metadata: texts of the header.
        progress: called with the bytes that are written.

    Raises:
        ModelError: a value is too large for `dtype`, or the file is not what was written.
        OSError: it cannot be written.
    """
    # In the order of the format's own library: the largest types first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-kind_of(tensors[name], dtype).itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        kind = kind_of(tensors[name], dtype)
        start, end = end, end + tensors[name].numel() * kind.itemsize
        header[name] = {"dtype": TYPES[kind], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_bytes(_rounded(name, tensors[name], dtype)).numpy().data)
            progress(file.tell())
        file.flush()
        os.fsync(file.fileno())
    verify(path, tensors, dtype)


def verify(path: Path, tensors: Tensors, dtype: torch.dtype | None) -> None:
    """Compare a file with the tensors that it should have.

    Raises:
        ModelError: a tensor is missing, left over, or another one.
    """
    require_same(checkpoint_file.read_tensors(path), tensors, dtype, what=str(path))


def require_same(found: Tensors, expected: Tensors, dtype: torch.dtype | None, *, what: str) -> None:
    """Raise `ModelError` unless tensors are, bit for bit, those that are expected, rounded to `dtype`."""
    names = found.keys() ^ expected.keys()
    different = (
        name for name, each in expected.items() if name in found and not _same(found[name], _rounded(name, each, dtype))
    )
    wrong = next(iter(names), None) or next(different, None)
    if wrong is not None:
        raise ModelError(
            f"{what} is not what it should be",
            why=f"The tensor {wrong} is {'missing or left over' if names else 'another one'}.",
            fix="Check the disk and the memory, and report the conversion if they are good.",
        )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bytes(one), _bytes(other))


def _rounded(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor in the type in which it is written.

    Raises:
        ModelError: a value is too large for it.
    """
    kind = kind_of(tensor, dtype)
    rounded = tensor.to(kind)
    if kind != tensor.dtype and not torch.equal(rounded.isfinite(), tensor.isfinite()):
        raise ModelError(
            f"the tensor {name} has values that are too large for {str(kind).removeprefix('torch.')}",
            why=f"The largest is {float(tensor.float().abs().max()):g}.",
            fix="Pass --dtype bfloat16 or float32.",
        )
    return rounded


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
