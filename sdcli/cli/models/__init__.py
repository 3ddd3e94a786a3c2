"""`sdcli models`: one file for each of its commands."""

from __future__ import annotations

import typer

from sdcli.cli.completion import Command
from sdcli.cli.help import Group
from sdcli.cli.models.convert import convert
from sdcli.cli.models.fetch import fetch
from sdcli.cli.models.info import info
from sdcli.cli.models.listing import list_
from sdcli.cli.models.lock import lock, verify
from sdcli.cli.models.words import words

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="List, describe, download, convert and verify models; list their words."
)
app.command("list", cls=Command)(list_)
app.command("info", cls=Command)(info)
app.command("fetch", cls=Command)(fetch)
app.command("convert", cls=Command)(convert)
app.command("lock", cls=Command)(lock)
app.command("verify", cls=Command)(verify)
app.command("words", cls=Command)(words)
