"""Tables of all flags in Markdown, made from the settings: `python -m sdcli.cli.reference docs/settings.md`."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from sdcli.settings import flags

PLACE = re.compile("(?<=<!-- flags -->\n).*(?=<!-- end of flags -->)", re.DOTALL)
"""The part of the page that the tables replace."""


def table() -> str:
    """All flags of `sdcli txt2img` in Markdown: a heading and a table for each panel of the help page."""
    lines = [""]
    # The settings of a panel need not be neighbours in the table of settings.
    entries = list(flags())
    panels = list(dict.fromkeys(entry[1].panel for entry in entries))
    entries.sort(key=lambda entry: panels.index(entry[1].panel))
    for panel, group in groupby(entries, key=lambda entry: entry[1].panel):
        lines += [f"### {panel}", "", "| flag | default | description |", "| --- | --- | --- |"]
        for _, flag, default, choices in group:
            names = ", ".join(f"`{name}`" for name in flag.names)
            shown = "" if default is None or default is False or default == "" else f"`{default}`"
            text = f"{flag.help} One of: {', '.join(f'`{choice}`' for choice in choices)}." if choices else flag.help
            if flag.aliases:
                text += f" Also {', '.join(f'`{name}`' for name in flag.aliases)}."
            lines.append(f"| {names} | {shown} | {_escape(text)} |")
        lines.append("")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Escape what Markdown would interpret in a table cell: bars and double underscores."""
    return text.replace("|", r"\|").replace("__", r"\_\_")


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(PLACE.sub(lambda _: table(), page.read_text()))
