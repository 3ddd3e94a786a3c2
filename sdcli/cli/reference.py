"""The README's tables of flags, made from the same settings as the help: `python -m sdcli.cli.reference README.md`."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from sdcli.settings import flags

PLACE = re.compile("(?<=<!-- flags -->\n).*(?=<!-- end of flags -->)", re.DOTALL)
"""Where in the README the tables stand."""


def table() -> str:
    """Every flag of `sdcli txt2img` in Markdown, by group."""
    lines = []
    for panel, group in groupby(flags(), key=lambda entry: entry[1].panel):
        lines += [f"**{panel}**", "", "| flag | default | what |", "| --- | --- | --- |"]
        for _, flag, default, choices in group:
            names = ", ".join(f"`{name}`" for name in flag.names)
            shown = "" if default is None or default is False or default == "" else f"`{default}`"
            words = f"{flag.help} One of: {', '.join(f'`{choice}`' for choice in choices)}." if choices else flag.help
            lines.append(f"| {names} | {shown} | {_escaped(words)} |")
        lines.append("")
    return "\n".join(lines)


def _escaped(words: str) -> str:
    """Words for a cell of a table: a bar would end it, and two underscores make Markdown bold."""
    return words.replace("|", r"\|").replace("__", r"\_\_")


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(PLACE.sub(lambda _: table(), readme.read_text()))
