"""Inputs for all tests: JSON, texts, and files that are damaged, larger or nested deeper than usual."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DATA = Path(__file__).parents[1] / "data"
SEEDS = Path(__file__).parent / "seeds"
LARGEST = 10_000_000
"""Bytes of an input."""

small = True
"""Whether all inputs are small: long ones are only tried with `--minutes`."""

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=20)
"""Also with halves of characters, which JSON can express."""

_ODD_NUMBERS = [0, -1, 1, 64, 2**31, 2**63, 2**64 - 1, 2**64, 10**30, 0.5, 1e308, -1e308, 1e-320]
NUMBERS = st.sampled_from(_ODD_NUMBERS) | st.integers() | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | ANY_TEXT | NUMBERS.map(str)
JSON = st.recursive(
    SCALARS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(ANY_TEXT, parts, max_size=3),
    max_leaves=8,
)

# What a JSON text contains in place of these strings, because Python cannot write it.
_RAW = {
    '"<digits>"': "9" * 5000,
    '"<infinite>"': "1e999",
    '"<deep>"': "[" * 20_000 + "]" * 20_000,
    '"<wide>"': json.dumps({str(n): n for n in range(20_000)}),
    '"<long>"': json.dumps("a, " * 100_000),
}
ANY_JSON = JSON | st.sampled_from([json.loads(name) for name in _RAW])


def json_text(value: Any, **options: Any) -> str:
    """JSON, with what stands for values that Python cannot write."""
    text = json.dumps(value, **options)
    for name, raw in _RAW.items():
        if not (small and len(raw) > 5000):
            text = text.replace(name, raw)
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys or positions."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@st.composite
def changed(draw: Callable[..., Any], values: Sequence[Any], new: st.SearchStrategy[Any] = ANY_JSON) -> Any:
    """One of these JSON values, in which some parts are replaced, removed, renamed or copied from elsewhere."""
    value = copy.deepcopy(draw(st.sampled_from(values)))
    for _ in range(draw(st.integers(0, 4))):
        places = list(_places(value))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        way = draw(st.sampled_from(["replace", "replace", "remove", "rename", "copy"]))
        if way == "replace":
            container[key] = draw(new)
        elif way == "copy":
            other, name = draw(st.sampled_from(places))
            try:
                container[key] = copy.deepcopy(other[name])
            except (LookupError, TypeError):
                continue
        elif way == "remove" or isinstance(container, list):
            del container[key]
        else:
            container[draw(ANY_TEXT)] = container.pop(key)
    return value


@st.composite
def damaged(draw: Callable[..., Any], whole: Sequence[Any], parts: Sequence[Any] = ()) -> Any:
    """One of these texts or files, in which some pieces are replaced, removed, repeated, or swapped for others.

    Args:
        draw: given by Hypothesis.
        whole: texts, or bytes.
        parts: pieces that mean something in the format, of the same type.
    """
    found = draw(st.sampled_from(whole))
    arbitrary: st.SearchStrategy[Any] = st.binary(max_size=8) if isinstance(found, bytes) else ANY_TEXT
    pieces = st.sampled_from(parts) | arbitrary if parts else arbitrary
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(found)))
        end = min(len(found), start + draw(st.sampled_from([0, 1, 1, 2, 4, 16, 64, len(found)])))
        # Long inputs show work that grows with the square.
        times = draw(st.sampled_from([1] * 7 + [2, 10] if small else [1] * 7 + [2, 100, 10_000]))
        piece = draw(pieces) if draw(st.booleans()) else found[start:end]
        found = found[:start] + piece * min(times, 1 + LARGEST // 4 // (len(piece) + 1)) + found[end:]
    return found[:LARGEST]


def assert_printable(text: str) -> None:
    """Check that a text can be printed: nothing in it controls a terminal or changes the direction of text."""
    categories = {character: unicodedata.category(character) for character in set(text)}
    control = {each for each, category in categories.items() if category in ("Cc", "Cs", "Zl", "Zp")} - set("\t\n")
    assert not control | set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(text)
