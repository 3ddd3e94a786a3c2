"""The ways to write weights, breaks and schedules into a prompt.

A syntax is one file with a function `parse` and one line in `sdcli.registry.SYNTAXES`; the key of that line is the
value of `--prompt-syntax`. A parser takes any text and never raises: what it cannot read is text, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from sdcli.registry import SYNTAXES

PLAIN = "plain"
MOST_OPEN = 100
"""Brackets within brackets. Deeper ones are text: no weight needs them, and their products would be infinite."""
HEAVIEST = 1000.0
"""The largest weight that is encoded."""


@dataclass(frozen=True)
class Piece:
    """A piece of text whose tokens have one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Section:
    """Text that begins with a chunk of its own.

    Attributes:
        pieces: its text, in order.
        scale: what its embeddings are multiplied by, after the mean is restored.
    """

    pieces: tuple[Piece, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Passage:
    """Text that becomes one row of embeddings: those of its sections, one after the other.

    Attributes:
        sections: its text, in order.
        share: in the blend that it belongs to.
    """

    sections: tuple[Section, ...]
    share: float = 1.0


Blend = tuple[Passage, ...]
"""Passages whose embeddings are added, each multiplied by its share."""


@dataclass(frozen=True)
class Part:
    """A part of the guidance, with a prediction of its own.

    Attributes:
        stages: what is encoded up to a step: (last step, text), in order; the last stage ends with the last step.
        weight: what its direction of the guidance is multiplied by.
    """

    stages: tuple[tuple[int, Blend], ...]
    weight: float = 1.0

    def at(self, step: int) -> Blend:
        """What is encoded in a step, from 0. As in the web UI, a stage that ends with step n includes the step n."""
        return next((blend for last, blend in self.stages if step <= last), self.stages[-1][1])


@dataclass(frozen=True)
class Adapter:
    """A LoRA that a prompt names.

    Attributes:
        name: as written.
        weight: of the difference of the UNet.
        text_weight: of the difference of the text encoder.
    """

    name: str
    weight: float
    text_weight: float


@dataclass(frozen=True)
class Parsed:
    """What a prompt says.

    Attributes:
        parts: the parts of its guidance; one, unless the prompt has `AND`.
        adapters: the LoRAs that it names, which are not part of its text.
        notes: what is read as text though it looks like syntax, in words.
    """

    parts: tuple[Part, ...]
    adapters: tuple[Adapter, ...] = ()
    notes: tuple[str, ...] = ()

    def passages(self) -> Iterator[Passage]:
        """Every passage, in order."""
        for part in self.parts:
            for _, blend in part.stages:
                yield from blend

    def pieces(self) -> Iterator[Piece]:
        """Every piece of text, in order."""
        for passage in self.passages():
            for section in passage.sections:
                yield from section.pieces

    @property
    def heaviest(self) -> float:
        """The largest weight, without its sign."""
        weights = [piece.weight for piece in self.pieces()] + [part.weight for part in self.parts]
        weights += [weight for adapter in self.adapters for weight in (adapter.weight, adapter.text_weight)]
        return max(map(abs, weights), default=0.0)


class Parse(Protocol):
    """The function of a syntax."""

    def __call__(self, text: str, steps: int, *, negative: bool) -> Parsed:
        """What a prompt says.

        Args:
            text: any text.
            steps: the sampling steps of the image.
            negative: whether it is a negative prompt, which has no parts and names no LoRA.
        """
        ...


@lru_cache(maxsize=1000)
def parse(text: str, syntax: str, steps: int, *, negative: bool = False) -> Parsed:
    """What a prompt says in a syntax, see `Parse`."""
    parser: Parse = SYNTAXES[syntax]
    return parser(text, steps, negative=negative)


def plain(text: str, steps: int, *, negative: bool) -> Parsed:
    """The syntax of the original, which has none: every character is text."""
    return Parsed((Part(((steps, (Passage((Section((Piece(text),)),)),)),)),))


def is_text(text: str, syntax: str) -> bool:
    """Whether a prompt says in a syntax what it says as plain text."""
    parsed = parse(text, syntax, 20)
    if parsed.adapters or [part.weight for part in parsed.parts] != [1] or len(parsed.parts[0].stages) > 1:
        return False
    (passage, *others) = parsed.passages()
    return not others and [section.pieces for section in passage.sections] in ([(Piece(text.rstrip()),)], [()])


_LOOKS = {
    "a1111": re.compile(
        r"(?<!\\)\([^()\n]{1,200}:\s*[\d.]{1,8}\s*\)|<(?:lora|lyco):[^<>]{1,200}>|\(\([^()]{1,200}\)\)|\bBREAK\b"
        r"|\[[^\[\]]{0,100}:[^\[\]]{0,100}:\s*[\d.]{1,8}\s*\]"
    ),
    "novelai": re.compile(r"\{\{[^{}|]{1,200}\}\}"),
    "compel": re.compile(r"\w(?:\+\+|--)(?=[\s,.)]|$)|\)(?:[+-]+|\d*\.\d+)(?=[\s,.)]|$)|\"\)\.(?:blend|and)\("),
}


def looks_like(text: str) -> tuple[str, str] | None:
    """The syntax that a prompt seems to be written in, and what shows it; None if it seems to be plain text."""
    found = ((name, look.search(text[:100_000])) for name, look in _LOOKS.items())
    return next(((name, match[0]) for name, match in found if match), None)


_MARKS = {
    "a1111": re.compile(
        r"(<\w{1,40}:[^>]{1,300}>|\\.|\b(?:AND|BREAK)\b|:[ \t]*[+-]?[.\d]+\s*(?=[)\]]|\Z|\bAND\b)|[()\[\]|:])"
    ),
    "novelai": re.compile(r"(\\.|[{}\[\]])"),
    "compel": re.compile(
        r"(\\.|\)\s*\.\w{1,20}\([^()]{0,200}\)|[)\"](?:\++|-+|-?[\d.]+)?|[(\"]|\++(?=[\s,.)]|$)|-+(?=[\s,.)]|$))"
    ),
}
_BRACKETS = re.compile(r"[()\[\]{}\"+-]+")


def words_and_marks(text: str, syntax: str) -> list[str]:
    """A prompt as words, mark of the syntax, words, mark and so on; it begins and ends with words."""
    return _MARKS[syntax].split(text) if syntax in _MARKS else [text]


def words(text: str, syntax: str) -> str:
    """A prompt without the marks of its syntax."""
    parts = words_and_marks(text, syntax)
    parts[1::2] = ["" if _BRACKETS.fullmatch(mark) else mark[1:] if mark[0] == "\\" else ", " for mark in parts[1::2]]
    return "".join(parts)
