"""Escapes text from files, so that it cannot control the terminal that displays it."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

# Control characters except tab and line feed, bidirectional controls, line separators, surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_ASCII = sys.getfilesystemencoding() != "utf-8"


def printable(text: str) -> str:
    """Escapes unsafe characters with the escape sequences of Python and shells. Keeps tabs and line feeds."""
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 128 else _escape(found), text)


def one_line(text: str) -> str:
    """As `printable`, but without line feeds: for names that must not look like two lines."""
    return printable(text).replace("\n", "\\n")


def shortened(text: str, longest: int = 60) -> str:
    """The beginning of a text of a file, short enough for a message."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def in_bytes(number: float) -> str:
    """A number of bytes in words, with units of powers of 1,000."""
    for unit in ("bytes", "KB", "MB"):
        if number < 1_000:
            return f"{number:.{3 if number < 100 else 4}g} {unit}"
        number /= 1_000
    return f"{number:.2f} GB"


def json_line(value: Any) -> str:
    """Returns the value as one line of JSON, in which only unsafe characters are escaped; without UTF-8 all but ASCII.

    JSON has no infinity and no NaN, which files may contain: they become null.
    """
    try:
        line = json.dumps(value, ensure_ascii=_ASCII, allow_nan=False)
    except ValueError:
        line = json.dumps(_finite(value), ensure_ascii=_ASCII, allow_nan=False)
    return _UNSAFE.sub(_escape, line)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
