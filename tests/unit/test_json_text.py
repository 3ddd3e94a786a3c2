"""Reading a JSON object from a text that may be damaged."""

from __future__ import annotations

from typing import Any

import pytest

from sdcli.json_text import read_object


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ('{"a": [1, "猫"]}', {"a": [1, "猫"]}),
        ('{"a": "猫"}\n'.encode(), {"a": "猫"}),
        ('{"a": [NaN, Infinity, -Infinity]}', {"a": [None, None, None]}),
    ],
)
def test_an_object_is_read(text: str | bytes, value: dict[str, Any]) -> None:
    assert read_object(text) == value


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"{}"', "{} {}", '{"a":' * 100_000, "[" * 100_000, b"\xff{}", b'{"a": "\xff"}']
)
def test_anything_else_is_none(text: str | bytes) -> None:
    assert read_object(text) is None
