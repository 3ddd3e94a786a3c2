"""Text from strangers, made fit to be shown: a file's words must not steer the terminal that shows them."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters, those that turn the direction of writing around, separators of lines, halves of characters.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text, but what may steer a terminal is escaped as in Python and shells; new lines and tabs stay."""
    return _STEERING.sub(lambda sign: f"\\x{ord(sign[0]):02x}" if ord(sign[0]) < 128 else _escape(sign), text)


def json_line(value: Any) -> str:
    """A line of JSON, readable, with the same characters as escapes, which a reader of JSON takes back."""
    return _STEERING.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(sign: re.Match[str]) -> str:
    return f"\\u{ord(sign[0]):04x}"
