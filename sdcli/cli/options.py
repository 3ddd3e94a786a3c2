"""Flags that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", metavar="", help="Print nothing on standard error except errors.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Print the traceback of an error.")]
"""Read from the arguments by `sdcli.cli.main`, because an error may come before they are parsed."""
JsonLines = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one line of JSON for each image on standard output.")
]
