"""SHA-256 of weights, remembered between runs by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import platformdirs


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _remembered()
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        _remember(known)
    return known[key]


def of_folder(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names, relative to `folder`, and the hashes of files in it, in the order of the names."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest.update(f"{name} {of_file(path)}\n".encode())
    return digest.hexdigest()


def _cache() -> Path:
    return platformdirs.user_cache_path("sdcli") / "hashes.json"


def _remembered() -> dict[str, str]:
    try:
        known = json.loads(_cache().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    """Write all, at once or not at all; a cache that cannot be written costs time, never a run."""
    cache = _cache()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        Path(name).replace(cache)
    except OSError:
        return
