"""A prompt syntax: `*word*` has twice the weight.

To use it as a template: sdcli/prompts/syntax/NAME.py, and a line in `sdcli.registry.SYNTAXES`.
"""

from __future__ import annotations

from sdcli.prompts.syntax import Parsed, Part, Passage, Piece, Section


def parse(text: str, steps: int, *, negative: bool) -> Parsed:
    """See `sdcli.prompts.syntax.Parse`."""
    pieces = tuple(Piece(part, 1.0 + number % 2) for number, part in enumerate(text.split("*")) if part)
    return Parsed((Part(((steps, (Passage((Section(pieces),)),)),)),))
