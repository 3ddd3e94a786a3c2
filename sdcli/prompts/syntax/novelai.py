r"""The syntax of NovelAI: `{x}` is 1.05 times the weight, `[x]` 1/1.05 times; brackets in brackets multiply.

`\{`, `\}`, `\[`, `\]` and `\\` are these characters themselves. Braces are no template.
"""

from __future__ import annotations

import re

from sdcli.prompts.syntax import Parsed, Part, Passage
from sdcli.prompts.syntax.emphasis import Emphasis

_EMPHASIS = Emphasis(
    {("{", "}"): 1.05, ("[", "]"): 1 / 1.05}, re.compile(r"\\(?P<escaped>[{}\[\]\\])|(?P<bracket>[{}\[\]])")
)


def parse(text: str, steps: int, *, negative: bool) -> Parsed:
    """See `sdcli.prompts.syntax.Parse`."""
    sections, notes = _EMPHASIS.read(text)
    return Parsed((Part(((steps, (Passage(sections),)),)),), notes=tuple(notes))


def escaped(text: str) -> str:
    """A text with a backslash before each bracket and backslash, so that it is read as it is."""
    return re.sub(r"[\\{}\[\]]", r"\\\g<0>", text)
