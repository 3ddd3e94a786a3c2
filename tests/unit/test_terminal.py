"""Text from files on a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.terminal import json_line, one_line, printable


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain 猫 👩‍🚀 e\u0301\u00a0\u3000\n\t", "plain 猫 👩‍🚀 e\u0301\u00a0\u3000\n\t"),
        ("\x1b]0;title\x07\x1b[2J\r", r"\x1b]0;title\x07\x1b[2J\x0d"),
        ("\x9b31m\x85\u202egnp.\u2066", r"\u009b31m\u0085\u202egnp.\u2066"),
        ("\udcff\0", r"\udcff\x00"),
    ],
)
def test_only_unsafe_characters_are_escaped(text: str, escaped: str) -> None:
    assert printable(text) == escaped


@given(st.text(st.characters(exclude_categories=[])))
def test_an_escaped_json_line_has_the_same_value(text: str) -> None:
    line = json_line({"a": text})
    assert json.loads(line) == {"a": text}
    assert printable(line) == line
    line.encode()


def test_a_name_is_one_line() -> None:
    assert one_line("a\nb\x1b\u2028.png") == r"a\nb\x1b\u2028.png"


def test_numbers_that_json_does_not_have_are_null() -> None:
    assert (
        json_line({"a": [1e999, (-1e999, 1.5)], "b": {"c": float("nan")}})
        == '{"a": [null, [null, 1.5]], "b": {"c": null}}'
    )
