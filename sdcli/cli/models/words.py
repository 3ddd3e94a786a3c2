"""`sdcli models words`: what the builtin models know."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sdcli.cli.console import Console
from sdcli.cli.options import Debug, Quiet
from sdcli.errors import EXIT_NO, ModelNotFound
from sdcli.terminal import json_line, one_line

if TYPE_CHECKING:
    from sdcli.models.vocabulary import Entry


def words(
    search: Annotated[
        str,
        typer.Argument(
            metavar="SEARCH", help="A word in any language, its beginning, or an emoji.", show_default=False
        ),
    ] = "",
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON for each thing on standard output.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the things that the builtin models know: emoji, name, other names.

    On a terminal a table; elsewhere lines, with tabs between emoji, name and
    other names. With SEARCH, the best match first, and the words that match.

    Exit code 1: nothing matches.

    [bold]Examples[/]

      [cyan]sdcli models words[/]

      [cyan]sdcli models words fruit[/]

      [cyan]sdcli models words Katze[/]

      [cyan]sdcli models words --json | jq -r .name[/]
    """
    from sdcli.models import shipped
    from sdcli.models.vocabulary import Vocabulary

    vocabulary = Vocabulary.find(shipped.BUILTIN)
    if vocabulary is None:
        raise ModelNotFound("the builtin model is missing in this installation", fix="Install sdcli again.")
    entries = vocabulary.search(search)
    if not entries:
        near = vocabulary.nearest(search)
        also = f"; the nearest names: {', '.join(near)}" if near else ""
        Console(quiet).line(f"the builtin model knows nothing called {search!r}{also}")
        raise typer.Exit(EXIT_NO)
    if json:
        for entry in entries:
            names = {"emoji": entry.emoji, "name": entry.name, "names": entry.names}
            print(json_line(names | ({"found": entry.found} if search else {})))
    elif sys.stdout.isatty():
        _print_table(entries, with_found=bool(search))
    else:
        for entry in entries:
            columns = (entry.emoji, entry.name, ", ".join(entry.names), ", ".join(entry.found))
            print("\t".join(map(one_line, columns[: 4 if search else 3])))


def _print_table(entries: Sequence[Entry], *, with_found: bool) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "Name", "Other names", *(("Found",) if with_found else ())):
        table.add_column(title, overflow="fold")
    for entry in entries:
        found = (", ".join(entry.found[:6]),) if with_found else ()
        table.add_row(entry.emoji, entry.name, ", ".join(entry.names), *found)
    RichConsole(highlight=False, markup=False).print(table)
