"""A safetensors file written tensor by tensor, so that memory holds one of them, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from sdcli.errors import ModelError
from sdcli.models import checkpoint_file

TYPES = {getattr(torch, name): code for code, name in checkpoint_file.SAFETENSORS_TYPES.items()}
"""The names of types in the format."""

PIECE = 4_000_000
"""Numbers that are rounded at once."""

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
) -> None:
    """Write a new file and compare it with the tensors, bit for bit after rounding to `dtype`.

    Args:
        path: the file, which must not exist.
        tensors: by name.
        dtype: the type of those in floating point; None keeps that of each.
        metadata: texts of the header.

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
            for piece in _pieces(name, tensors[name], dtype):
                file.write(piece.numpy().data)
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
    different = (name for name, each in expected.items() if not _same(name, found[name], each, dtype))
    wrong = next(iter(names)) if names else next(different, None)
    if wrong is not None:
        raise ModelError(
            f"{what} is not what it should be",
            why=f"The tensor {wrong} is {'missing or left over' if names else 'another one'}.",
            fix="Check the disk and the memory, and report the conversion if they are good.",
        )


def _same(name: str, found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None) -> bool:
    if found.shape != expected.shape or found.dtype != kind_of(expected, dtype):
        return False
    pairs = zip(_pieces(name, found, None), _pieces(name, expected, dtype), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def _pieces(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> Iterator[torch.Tensor]:
    """The bytes of a tensor in the type in which it is written, some millions at a time.

    Raises:
        ModelError: a value is too large for this type.
    """
    kind = kind_of(tensor, dtype)
    for piece in torch.split(tensor.contiguous().reshape(-1), PIECE):
        rounded = piece.to(kind)
        if kind != tensor.dtype and not torch.equal(rounded.isfinite(), piece.double().isfinite()):
            raise ModelError(
                f"the tensor {name} has values that are too large for {str(kind).removeprefix('torch.')}",
                why=f"The largest is {float(piece.float().abs().max()):g}.",
                fix="Pass --dtype bfloat16 or float32.",
            )
        yield rounded.view(torch.uint8)
