"""Tables of all flags and all samplers in Markdown: `python -m sdcli.cli.reference docs/settings.md docs/samplers.md`.

Each replaces what is between two comments with its name, such as `<!-- flags -->` and `<!-- end of flags -->`.
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan
from sdcli.registry import SAMPLERS
from sdcli.settings import flags

PLACE = re.compile(r"(<!-- (\w+) -->\n).*(<!-- end of \2 -->)", re.DOTALL)
"""The part of a page that a table replaces."""


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


def samplers() -> str:
    """All samplers in Markdown. Evaluations of the model are those of 20 steps."""
    heads = ("sampler", "name in other tools", "order", "evaluations", "schedules", "`--sigmas`", "`--eta`")
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | --- | ---: | --- | --- | --- |"]
    for name, sampler in SAMPLERS.items():
        evaluations = sampler.evaluations(Plan(20), NoiseSchedule())
        cells = (
            f"`{name}`",
            sampler.title,
            str(sampler.order) if sampler.order else "adds noise",
            str(evaluations),
            ", ".join(sampler.schedules) or "its own",
            "yes" if sampler.takes_sigmas else "",
            "yes" if sampler.takes_eta else "",
        )
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(["", *lines, "", ""])


def _escape(text: str) -> str:
    """Escape what Markdown would interpret in a table cell: bars and double underscores."""
    return text.replace("|", r"\|").replace("__", r"\_\_")


def filled(page: str) -> str:
    """A page with the tables in their places."""
    return PLACE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


TABLES = {"flags": table, "samplers": samplers}
"""Functions that make the tables, by the name in the comments around their place."""

if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(filled(page.read_text()))
