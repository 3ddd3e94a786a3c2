"""JSON files of a model: each contains one object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdcli.errors import ModelError

_AGAIN = "Download the model again."


def read(path: Path) -> Mapping[str, Any]:
    """The fields of the object in a JSON file.

    Raises:
        ModelError: the file is missing, cannot be read, is not JSON, or contains something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"the model is incomplete: {path} is missing", fix=_AGAIN) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON", why=f"{error}.", fix=_AGAIN) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a configuration: it does not contain a JSON object", fix=_AGAIN)
    return content
