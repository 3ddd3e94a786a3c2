"""JSON files of a model: each contains one object."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sdcli.errors import ModelError

MAX_SIZE = 1_000_000
"""Bytes. Configurations have a few thousand, indexes of weights at most some hundred thousand."""
_AGAIN = "Download the model again."
_LONGEST = 80

Fields = TypeVar("Fields", bound=BaseModel)


def read(path: Path, *, most: int = MAX_SIZE) -> Mapping[str, Any]:
    """The fields of the object in a JSON file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        ModelError: the file is missing, cannot be read, is larger, is not JSON, or contains something
            other than an object.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, and a device may never end
            raise ValueError("It is not a regular file")
        with path.open("rb") as file:
            text = file.read(most + 1)
        if len(text) > most:
            raise ValueError(f"It has more than {most:,} bytes")
        content = json.loads(text.decode("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"the model is incomplete: {path} is missing", fix=_AGAIN) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON", why=f"{error}.", fix=_AGAIN) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a configuration: it does not contain a JSON object", fix=_AGAIN)
    return content


def read_fields(kind: type[Fields], path: Path) -> Fields:
    """A JSON file with the fields and types of `kind`.

    Raises:
        ModelError: as for `read`; or fields are missing or not valid.
    """
    try:
        return kind.model_validate(read(path), strict=True)
    except ValidationError as error:
        raise ModelError(f"{path} is not a model's configuration", why=invalid_fields(error), fix=_AGAIN) from error


def invalid_fields(error: ValidationError) -> str:
    """The first fields of a file that are not valid, with their values."""
    wrong: dict[str, str] = {}
    for each in error.errors(include_url=False):
        # The names of types among several are no part of the field's name.
        name = ".".join(str(part) for part in each["loc"] if isinstance(part, int) or part.isidentifier())
        value = repr(each["input"])
        given = "" if each["type"] == "missing" or not name else f" is {value[:_LONGEST]}"
        wrong.setdefault(name, f"{name}{given}: {each['msg']}".removeprefix(": "))
    return "; ".join(list(wrong.values())[:3]) + "."
