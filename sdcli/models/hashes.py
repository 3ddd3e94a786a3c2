"""SHA-256 of weights, cached between runs by path, size and modification time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sdcli.cache import Cache

_known = Cache("hashes", r".+\|\d+\|\d+", Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")])


def of_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    return _of_content(path, 0)


def of_tensors(path: Path) -> str:
    """SHA-256 of what follows the header of a .safetensors file, 64 hexadecimal digits; of all of any other file."""
    if path.suffix != ".safetensors":
        return of_file(path)
    with path.open("rb") as file:
        return _of_content(path, 8 + int.from_bytes(file.read(8), "little"))


def _of_content(path: Path, start: int) -> str:
    stat = path.stat()
    key = f"{path.resolve()}{f'#{start}' if start else ''}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _known.all()
    if key not in known:
        with path.open("rb") as file:
            file.seek(start)
            known[key] = _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return str(known[key])


def of_files(files: Mapping[str, Path]) -> str:
    """SHA-256 of the names and hashes of a model's files, 64 hexadecimal digits; their order does not matter.

    Args:
        files: their places, by name: relative to the model's folder, with forward slashes.
    """
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {of_file(path)}\n".encode())
    return digest.hexdigest()
