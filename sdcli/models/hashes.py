"""SHA-256 of weights, remembered between runs by path, size and time of change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sdcli.cache import Cache

_known = Cache("hashes")


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _known.all()
    if key not in known:
        with path.open("rb") as file:
            known[key] = _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return str(known[key])


def of_folder(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names, relative to `folder`, and the hashes of files in it, in the order of the names."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest.update(f"{name} {of_file(path)}\n".encode())
    return digest.hexdigest()
