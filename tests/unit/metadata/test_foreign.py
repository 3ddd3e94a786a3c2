"""Reading metadata of other tools that is damaged or was made to do harm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.metadata import provenance
from sdcli.outputs.command import command_of
from sdcli.rerun import nearest
from sdcli.terminal import json_line
from tests.foreign import (
    DRAW_THINGS,
    DRAW_THINGS_TEXT,
    EASY_DIFFUSION,
    FOOOCUS,
    FOOOCUS_LABELS,
    NOVELAI,
    NOVELAI_TEXTS,
    RUINED_FOOOCUS,
    SWARMUI,
)  # fmt: skip

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**64, "9" * 4000, "1e999", "\ud800", "a\0b", "\x1b[2J", "(", "[[", "None"])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["caption", "base_caption", "char_captions", "char_caption", "clipSkip", "hash", "param"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def try_all(texts: Mapping[str, str]) -> None:
    """Reads the texts, and does with the result what `sdcli inspect` does."""
    found = provenance(texts)
    if found is None:
        return
    json_line([dict(found.settings), dict(found.other), found.notes, found.version])
    str(found.other)
    if "prompt" in found.settings:
        # A value that is out of range is refused.
        with suppress(UsageError):
            command_of(nearest(found)[0])


def in_texts(example: Mapping[str, Any]) -> list[dict[str, str]]:
    """The places of the JSON in files."""
    text = json.dumps(example)
    wrapped = json.dumps(NOVELAI_TEXTS | {"Comment": text})
    return [
        {"parameters": text},
        {"UserComment": text, "CreatorTool": "Draw Things"},
        {"Comment": text, **NOVELAI_TEXTS},
        {"UserComment": wrapped},
        {name: str(value) for name, value in example.items()},
    ]


EXAMPLES = [NOVELAI, FOOOCUS, FOOOCUS_LABELS, RUINED_FOOOCUS, DRAW_THINGS, EASY_DIFFUSION]


@given(st.sampled_from([*EXAMPLES, SWARMUI["sui_image_params"]]), st.data())
def test_values_of_any_type(example: dict[str, Any], data: st.DataObject) -> None:
    names = [*example, "v4_prompt", "v4_negative_prompt", "software", "version", "autowebuisampler"]
    changed = example | data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
    if example is SWARMUI["sui_image_params"]:
        parts = data.draw(st.dictionaries(st.sampled_from(["sui_extra_data", "sui_models"]), VALUES))
        changed = SWARMUI | {"sui_image_params": changed} | parts
    for texts in in_texts(changed):
        try_all(texts)


@given(
    st.sampled_from([*map(json.dumps, [*EXAMPLES, SWARMUI]), DRAW_THINGS_TEXT]),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.text(max_size=3),
)
def test_damaged_texts(text: str, start: int, length: int, other: str) -> None:
    damaged = text[:start] + other + text[start + length :]
    for name in ("parameters", "UserComment", "Comment"):
        try_all({name: damaged, "CreatorTool": "Draw Things", "Software": "NovelAI"})


@pytest.mark.parametrize("name", ["parameters", "UserComment", "Comment"])
@pytest.mark.parametrize(
    "text",
    [
        '{"sui_image_params": ' + '{"a": ' * 100_000,
        '{"sui_image_params": {"prompt": "' + "<a" * 1_000_000 + '"}}',
        '{"version": "' + "Fooocu" * 300_000 + '"}',
        '{"base_model": "x", "performance": "y", "resolution": "' + "(" * 1_000_000 + '"}',
        '{"uc": "", "sampler": "x", "Source": "' + " 0" * 500_000 + '"}',
        "\n-" * 500_000 + "\nSteps: 1",
        "Steps: 1" + ", a: b" * 300_000,
    ],
)
def test_long_texts_are_read_fast(name: str, text: str) -> None:
    source = text if name != "UserComment" else "NovelAI " + " 0" * 500_000
    try_all({name: text, "CreatorTool": "Draw Things", "Software": "NovelAI", "Source": source})
