"""Values that are kept between runs in the user's cache folder. They save time; nothing depends on them."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import platformdirs

from sdcli.json_text import read_object


class Cache:
    """Values by key in one JSON file.

    A file that cannot be read counts as empty, and a file that cannot be written is ignored.

    Args:
        name: name of the file, without its suffix.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, key: str) -> Any:
        return self.all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(self.all() | {key: value})

    def all(self) -> dict[str, Any]:
        """All values."""
        try:
            return read_object(self._path.read_bytes()) or {}
        except OSError:
            return {}

    @property
    def _path(self) -> Path:
        return platformdirs.user_cache_path("sdcli") / f"{self.name}.json"

    def _write(self, known: dict[str, Any]) -> None:
        """Write the file whole or not at all."""
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(known, file)
            Path(name).replace(path)
        except OSError:
            return
