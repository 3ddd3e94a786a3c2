"""Brackets that multiply the weight of what is in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from sdcli.prompts.syntax import MOST_OPEN, Piece, Section
from sdcli.terminal import shortened

# A run of blanks is tried once, and not from each of its blanks.
_BREAK = re.compile(r"(?:(?<!\s)\s+)?\bBREAK\b\s*")
_LONGEST = 40


@dataclass(frozen=True)
class Emphasis:
    """Brackets and what they do.

    Attributes:
        factors: what a pair of brackets multiplies by: (opening, closing) to a factor.
        tokens: a pattern of everything that is not ordinary text, with the groups `escaped` (the character after a
            backslash), `weight` (a number before a closing round bracket), `bad` (what is there instead) and `bracket`.
        breaks: whether `BREAK` ends a section.
    """

    factors: Mapping[tuple[str, str], float]
    tokens: re.Pattern[str]
    breaks: bool = False

    def read(self, text: str) -> tuple[tuple[Section, ...], list[str]]:
        """The sections of a text, and notes."""
        # Each pair of brackets is matched for itself, as if there were no others.
        open_brackets: dict[str, list[tuple[int, int]]] = {opening: [] for opening, _ in self.factors}
        by_closing = {closing: (opening, factor) for (opening, closing), factor in self.factors.items()}
        notes: list[str] = []
        # Brackets around a mark multiply its weight, and then it is a word, as in the web UI.
        marks: set[int] = set()
        weights: list[float] = []
        texts: list[str] = []

        def add(run: str) -> None:
            parts = _BREAK.split(run) if self.breaks else [run]
            for number, part in enumerate(parts):
                if number:
                    marks.add(len(texts))
                    texts.append("BREAK")
                    weights.append(-1.0)
                texts.append(part)
                weights.append(1.0)

        def multiply(start: int, factor: float) -> None:
            for at in range(start, len(weights)):
                weights[at] *= factor

        end = 0
        for token in self.tokens.finditer(text):
            if token.start() > end:
                add(text[end : token.start()])
            end = token.end()
            groups = token.groupdict()
            bracket = groups["bracket"]
            if groups["escaped"] is not None:
                texts.append(groups["escaped"])
                weights.append(1.0)
            elif bracket in open_brackets and len(open_brackets[bracket]) < MOST_OPEN:
                open_brackets[bracket].append((len(texts), token.start()))
            elif bracket in by_closing and open_brackets[by_closing[bracket][0]]:
                opening, factor = by_closing[bracket]
                multiply(open_brackets[opening].pop()[0], factor)
            elif groups.get("weight") and open_brackets["("] and (number := _number(groups["weight"])) is not None:
                multiply(open_brackets["("].pop()[0], number)
            else:
                if bracket in open_brackets:
                    notes.append(f"more than {MOST_OPEN} brackets are open: {bracket} is read as text")
                malformed = bool(groups.get("bad") or groups.get("weight")) and bool(open_brackets["("])
                # A closing bracket after what is no number closes all the same.
                closes = malformed and bool(groups["weight"])
                add(token[0][:-1] if closes else token[0])
                if malformed:
                    start, place = open_brackets["("].pop() if closes else open_brackets["("][-1]
                    where = shortened(text[place : end + (not closes)], _LONGEST)
                    notes.append(f"the weight in {where} is not a number, and is read as text")
                    if closes:
                        multiply(start, self.factors["(", ")"])
        if end < len(text):
            add(text[end:])
        for (opening, _), factor in self.factors.items():
            for start, place in open_brackets[opening]:
                multiply(start, factor)
                where = shortened(text[place:], _LONGEST)
                notes.append(f"a bracket is not closed, and counts to the end: {where}")
        return tuple(_sections(texts, weights, marks)), list(dict.fromkeys(notes))


def _sections(texts: list[str], weights: list[float], marks: set[int]) -> list[Section]:
    """The sections between the marks whose weight is still that of a mark; neighbours of one weight are one piece."""
    sections: list[list[tuple[float, str]]] = [[]]
    for at, (text, weight) in enumerate(zip(texts, weights, strict=True)):
        if at in marks and weight == -1.0:
            sections.append([])
        else:
            sections[-1].append((weight, text))
    return [
        Section(
            tuple(
                Piece(joined, weight)
                for weight, run in groupby(runs, lambda each: each[0])
                if (joined := "".join(text for _, text in run))
            )
        )
        for runs in sections
    ]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
