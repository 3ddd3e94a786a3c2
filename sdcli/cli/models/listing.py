"""`sdcli models list`: the models and adapters on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sdcli.cli.console import Console
from sdcli.cli.options import Adapters, Debug, ModelsFolder, Quiet, given
from sdcli.configuration import load
from sdcli.terminal import in_bytes, json_line, one_line

if TYPE_CHECKING:
    from sdcli.inventory.description import Description

_COLUMNS = ("Name", "Kind", "Family", "Size", "Precision", "Path")


def list_(
    models_folder: ModelsFolder = None,
    adapters: Adapters = None,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON for each model on standard output.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the models and adapters on this machine.

    Those that are builtin, those in --models-folder and --adapters, and those
    in the cache of the Hugging Face hub. Only the headers of files are read. A
    file that cannot be used is listed with the reason.

    On a terminal a table; elsewhere lines, with tabs between the columns.

    [bold]Examples[/]

      [cyan]sdcli models list[/]

      [cyan]sdcli models list --models-folder ~/models --json | jq -r .name[/]
    """
    from sdcli.inventory import description, places

    settings = load(given(models_folder=models_folder, adapters=adapters)).settings
    found = places.each(settings)
    if json:
        for each in found:
            print(json_line(description.summary(each)), flush=True)
    elif sys.stdout.isatty():
        _print_table(list(found))
    else:
        for each in found:
            print("\t".join(map(one_line, columns(each))), flush=True)
    if not quiet and sys.stderr.isatty():
        Console().line("sdcli models info NAME shows more of one")


def columns(found: Description) -> tuple[str, ...]:
    """What a list says of a model; instead of its family why it cannot be used."""
    from sdcli.jobs import at_home

    family = found.problem if found.problem else found.family
    return found.name, found.kind, family, in_bytes(found.size), found.precision, at_home(str(found.path))


def _print_table(found: list[Description]) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in _COLUMNS[:-1]:
        table.add_column(title, overflow="fold", justify="right" if title == "Size" else "left")
    for each in found:
        style = "dim" if each.problem else ""
        table.add_row(*(Text(one_line(text), style=style) for text in columns(each)[:-1]))
    RichConsole(highlight=False, markup=False).print(table)
