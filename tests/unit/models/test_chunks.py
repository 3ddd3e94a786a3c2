"""Chunks of tokens: where they end, what is cut, and what a dry run shows of them."""

from __future__ import annotations

from typing import Any

import pytest

from sdcli.models import families, tokenizer
from sdcli.models.chunks import Chunker, Encoded, encoded, measure
from sdcli.prompts.syntax import parse
from tests.jobs import job

COMMA, END = 267, 49407


@pytest.fixture(scope="module")
def clip() -> Any:
    family = families.get("sd1")
    return tokenizer.load(family, family.vocabulary, 77)


def lengths(clip: Any, text: str, syntax: str = "a1111", long_prompt: str = "chunk") -> list[int]:
    """The tokens of each chunk."""
    ((_, (passage,)),) = parse(text, syntax, 10).parts[0].stages
    read = Chunker(clip, long_prompt).read(passage)
    assert all(len(chunk.ids) == len(chunk.weights) == 77 and chunk.ids[0] == 49406 for chunk in read.chunks)
    assert all(set(chunk.ids[chunk.tokens + 1 :]) == {END} for chunk in read.chunks)
    assert all(set(chunk.weights[chunk.tokens + 1 :]) == {1.0} for chunk in read.chunks)
    return [chunk.tokens for chunk in read.chunks]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0]),
        ("cat " * 75, [75]),
        ("cat " * 76, [75, 1]),
        # The last comma is 20 tokens before the end of the chunk, or 21.
        ("cat " * 55 + ", " + "cat " * 30, [56, 30]),
        ("cat " * 54 + ", " + "cat " * 30, [75, 10]),
        # A comma that does not fit is the first token of the next chunk, and is no place to break that chunk.
        ("cat " * 75 + ", " + "cat " * 80, [75, 75, 6]),
        ("cat " * 74 + ", " + "cat " * 3, [75, 3]),
        ("a BREAK b c", [1, 2]),
        ("BREAK b", [0, 1]),
        ("a BREAK", [1]),
        ("(cat:1.5) " * 100, [75, 25]),
    ],
)
def test_where_chunks_end(clip: Any, text: str, expected: list[int]) -> None:
    assert lengths(clip, text) == expected


def test_what_is_cut(clip: Any) -> None:
    long = "cat " * 75
    plain, weighted, broken, chunked, short = measure(
        clip,
        [
            job(prompt=f"{long}dog bird"),
            job(prompt=f"({long}dog:1.2) bird", prompt_syntax="a1111"),
            job(prompt=f"{long}dog BREAK {long}bird", prompt_syntax="a1111"),
            job(prompt=f"{long}dog bird", long_prompt="chunk"),
            job(prompt="a [cat:big cat:5]", prompt_syntax="a1111"),
        ],
    )
    assert (plain.cut, plain.tokens, plain.chunks) == ("dog bird", 79, 1)
    assert (weighted.cut, weighted.tokens) == ("dog bird", 79)
    assert (broken.cut, broken.chunks) == ("dog bird", 2)
    assert (chunked.cut, chunked.tokens, chunked.chunks) == ("", 81, 2)
    assert (short.tokens, short.cut) == (5, "")
    assert lengths(clip, f"{long}dog", long_prompt="cut") == [75]


def test_what_is_encoded(clip: Any) -> None:
    weighted = job(prompt="a (red:1.5) cat BREAK hat AND dog :0.5", negative_prompt="[x:y:4]", prompt_syntax="a1111")
    assert encoded(clip, weighted) == [
        Encoded(False, (1, 1.0), 20, 1.0, ((("a", 1.0), ("red", 1.5), ("cat", 1.0)), (("hat", 1.0),))),
        Encoded(False, (2, 0.5), 20, 1.0, ((("dog", 1.0),),)),
        Encoded(True, (1, 1.0), 4, 1.0, ((("x", 1.0),),)),
        Encoded(True, (1, 1.0), 20, 1.0, ((("y", 1.0),),)),
    ]
    assert encoded(clip, job(prompt="a (red:1.5) cat")) == []


def test_the_tokens_of_any_text_are_read(clip: Any) -> None:
    for text in ("\U0001f600" * 50, "猫" * 200, "\x00\x01\x7f", "a\u0301" * 40, " \n\t "):
        assert sum(lengths(clip, text)) == len(clip(text.rstrip(), add_special_tokens=False).input_ids)
