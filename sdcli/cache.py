"""Values that are kept between runs in the user's cache folder. They save time; nothing depends on them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import TypeAdapter, ValidationError

from sdcli.json_text import read_object


class Cache:
    """Values by key in one JSON file.

    A file that cannot be read counts as empty, damaged entries are left out, and a file that cannot be written is
    ignored.

    Args:
        name: name of the file, without its suffix.
        key: regular expression of a whole key.
        kind: type of the values, as pydantic validates it.
    """

    def __init__(self, name: str, key: str, kind: Any) -> None:
        self.name = name
        self._key = re.compile(key, re.DOTALL)
        self._kind = TypeAdapter(kind)

    def __getitem__(self, key: str) -> Any:
        return self.all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(self.all() | {key: value})

    def all(self) -> dict[str, Any]:
        """All values."""
        try:
            path = self._path()
            found = read_object(path.read_bytes()) if path.is_file() else None
        except OSError:
            return {}
        values = {}
        for key, value in (found or {}).items():
            if self._key.fullmatch(key):
                with suppress(ValidationError):
                    values[key] = self._kind.validate_python(value)
        return values

    def _path(self) -> Path:
        """The file's path.

        Raises:
            OSError: there is no home folder.
        """
        try:
            return platformdirs.user_cache_path("sdcli") / f"{self.name}.json"
        except RuntimeError as error:
            raise FileNotFoundError(str(error)) from error

    def _write(self, known: dict[str, Any]) -> None:
        """Write the file whole or not at all."""
        with suppress(OSError):
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(known, file)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink()
                raise
