"""What is remembered between runs, in the user's cache: never needed, only saves time or tells more."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import platformdirs


class Remembered:
    """Values by key, in a JSON file of this name.

    A cache that cannot be read is empty, and one that cannot be written forgets: neither is an error.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, key: str) -> Any:
        return self.all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(self.all() | {key: value})

    def all(self) -> dict[str, Any]:
        """Everything that is known."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    @property
    def _path(self) -> Path:
        return platformdirs.user_cache_path("sdcli") / f"{self.name}.json"

    def _write(self, known: dict[str, Any]) -> None:
        """All at once or not at all."""
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(known, file)
            Path(name).replace(path)
        except OSError:
            return
