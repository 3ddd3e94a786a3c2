"""`sdcli samplers`: the samplers, and what each takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdcli.cli.options import Debug
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan
from sdcli.registry import SAMPLERS
from sdcli.sampler_names import SCHEDULES
from sdcli.terminal import json_line

if TYPE_CHECKING:
    from sdcli.pipeline.samplers import Sampler

_STEPS = 20
_MOST_LACKING = 3
"""A sampler that lacks fewer schedules is described by those."""


def samplers(
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON for each sampler on standard output.")
    ] = False,
    debug: Debug = False,
) -> None:
    """List the samplers and what each of them takes.

    Each is chosen with --sampler NAME. A cost of 2 means that a step takes as
    long as two steps of another sampler. A sampler with new noise adds some in
    each step, so that more steps give another image.

    On a terminal a table; elsewhere lines, with tabs between the columns.

    [bold]Examples[/]

      [cyan]sdcli samplers[/]

      [cyan]sdcli samplers --json | jq -r 'select(.cost == 1) | .name'[/]
    """
    rows = [described(name, sampler) for name, sampler in SAMPLERS.items()]
    if json:
        for row in rows:
            print(json_line(row))
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            print("\t".join(_columns(row)))


def described(name: str, sampler: Sampler) -> dict[str, Any]:
    """What a sampler is and takes, as `--json` prints it."""
    return {
        "name": name,
        "title": sampler.title,
        "names": list(sampler.aliases),
        "cost": round(sampler.evaluations(Plan(_STEPS), NoiseSchedule()) / _STEPS),
        "order": sampler.order,
        "new_noise": not sampler.order,
        "schedules": ["auto", *sampler.schedules],
        "sigmas": sampler.takes_sigmas,
        "eta": sampler.takes_eta,
    }


def _columns(row: dict[str, Any]) -> tuple[str, ...]:
    also = [flag for name, flag in (("sigmas", "--sigmas"), ("eta", "--eta")) if row[name]]
    noise = "yes" if row["new_noise"] else "no"
    return row["name"], row["title"], str(row["cost"]), noise, ", ".join(row["schedules"]), ", ".join(also)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("Name", "Known as", "Cost", "New noise", "--schedule", "Also"):
        table.add_column(title, overflow="fold", no_wrap=title in ("Name", "Also"))
    for row in rows:
        *before, schedules, also = _columns(row)
        lacking = [name for name in SCHEDULES if name not in row["schedules"]]
        if len(lacking) < _MOST_LACKING:
            schedules = f"all but {', '.join(lacking)}" if lacking else "all"
        table.add_row(*before, schedules, also)
    Console(highlight=False, markup=False).print(table)
