"""Flags that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sdcli.cli.completion import COMPLETERS
from sdcli.settings import options

Quiet = Annotated[bool, typer.Option("--quiet", metavar="", help="Print nothing on standard error except errors.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Print the traceback of an error.")]
"""Read from the arguments by `sdcli.cli.main`, because an error may come before they are parsed."""
JsonLines = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one line of JSON for each image on standard output.")
]


def of_setting(name: str) -> Any:
    """The flag of a setting, for commands that take a few of them."""
    line = options()[name]
    return typer.Option(
        *line.names, metavar=line.metavar or "", help=line.help, show_default=False,
        autocompletion=COMPLETERS.get(line.path or ""),
    )  # fmt: skip


def given(**values: Any) -> dict[str, Any]:
    """The settings that flags set: those with a value."""
    return {name: value for name, value in values.items() if value is not None}


Offline = Annotated[bool, of_setting("offline")]
ModelsFolder = Annotated[str | None, of_setting("models_folder")]
Adapters = Annotated[str | None, of_setting("adapters")]
