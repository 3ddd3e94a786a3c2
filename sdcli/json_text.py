"""JSON from files that may be damaged or written by anyone."""

from __future__ import annotations

import json
import math
from typing import Any


def read_object(text: str | bytes) -> dict[str, Any] | None:
    """Parses a JSON object; returns None if the text is not valid JSON, nested too deeply, or not an object.

    NaN and Infinity, which JSON does not have but ComfyUI and Python write, are read as None, and so are numbers that
    are too large for a float, such as 1e999.
    """
    try:
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
