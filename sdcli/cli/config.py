"""`sdcli config`: the settings in force and where each comes from; the user's own file of settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from sdcli.cli.console import Console
from sdcli.configuration import FILE_VARIABLE, Configuration, Origin, load, origin, template, toml, user_file
from sdcli.errors import OutputError, UsageError
from sdcli.outputs.folder import claim, written_aside

CONFIG_FILE_HELP = f"A TOML file of settings, stronger than the user's ({FILE_VARIABLE} does the same)."


def config(
    config_file: Annotated[str | None, typer.Option("--config-file", metavar="FILE", help=CONFIG_FILE_HELP)] = None,
    everything: Annotated[bool, typer.Option("--all", metavar="", help="Show what is at its default, too.")] = False,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="All settings and their origins as a line of JSON.")
    ] = False,
    path: Annotated[bool, typer.Option("--path", metavar="", help="Print where the user's file lies.")] = False,
    init: Annotated[
        bool,
        typer.Option("--init", metavar="", help="Write that file: every setting, commented out. Never over a file."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", metavar="", help="Say nothing on standard error but errors.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")] = False,
) -> None:
    """Show the settings of [cyan]sdcli txt2img[/] and where each comes from.

    The strongest wins: a flag, a variable such as SDCLI_STEPS=30, --config-file,
    the user's file, the default. A file is TOML, with lines such as steps = 30.

    [bold]Examples[/]

      [cyan]sdcli config --init[/]

      [cyan]SDCLI_STEPS=30 sdcli config --all[/]
    """
    asked = {"--path": path, "--init": init, "--all": everything, "--json": json}
    if (path or init) and sum(asked.values()) > 1:
        raise UsageError(
            f"{' and '.join(flag for flag, given in asked.items() if given)} do not go together",
            fix="Give one of them.",
        )
    if path:
        print(user_file())
    elif init:
        print(_write(template(), user_file()))
    elif json:
        print(_json(load(config_file=config_file)))
    else:
        _show(load(config_file=config_file), everything, Console(quiet))


def _origins(configuration: Configuration) -> dict[str, tuple[Any, Origin]]:
    """Every setting's value and origin: first what was said, then what is at its default."""
    found = {name: (value, origin(name, configuration.said)) for name, value in configuration.settings}
    return dict(sorted(found.items(), key=lambda item: item[1][1].kind == "default"))


def _json(configuration: Configuration) -> str:
    origins = _origins(configuration).items()
    return toml({name: {"value": value, "origin": dataclasses.asdict(where)} for name, (value, where) in origins})


def _show(configuration: Configuration, everything: bool, console: Console) -> None:
    """A table on standard output; what it leaves out is said on standard error."""
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    origins = _origins(configuration)
    shown = {name: entry for name, entry in origins.items() if everything or entry[1].kind != "default"}
    if shown:
        table = Table("setting", "value", "from", box=None, pad_edge=False)
        for column in table.columns:
            column.overflow = "fold"
        for name, (value, where) in shown.items():
            style = "dim" if where.kind == "default" else ""
            table.add_row(Text(name), Text("" if value is None else toml(value)), Text(str(where)), style=style)
        RichConsole(highlight=False).print(table)
    if hidden := len(origins) - len(shown):
        console.line(f"{hidden} settings are at their defaults; --all shows them")
    if not user_file().exists():
        console.line(f"there is no {user_file()}; --init writes one")


def _write(text: str, path: Path) -> Path:
    """Write a new file, whole or not at all.

    Raises:
        OutputError: there is one already, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(text.encode(), path.parent) as aside:
            claim(aside, path)
    except FileExistsError as error:
        raise OutputError(f"{path} is there already", fix="Change it, or move it away first.") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}", why=f"{error.strerror}.") from error
    return path
