"""`sdcli config`: the settings in force with their origins, and the user's settings file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from sdcli.cli.console import Console
from sdcli.cli.options import Debug, Quiet
from sdcli.configuration import FILE_VARIABLE, Configuration, Origin, load, origin, template, toml, user_file
from sdcli.errors import OutputError, UsageError
from sdcli.outputs.files import write_new
from sdcli.settings import RANDOM
from sdcli.terminal import json_line, printable

CONFIG_FILE_HELP = f"TOML file of settings; overrides the user's file ({FILE_VARIABLE} does the same)."


def config(
    config_file: Annotated[str | None, typer.Option("--config-file", metavar="FILE", help=CONFIG_FILE_HELP)] = None,
    everything: Annotated[
        bool, typer.Option("--all", metavar="", help="Also show settings at their defaults.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print all settings and their origins as one line of JSON.")
    ] = False,
    path: Annotated[bool, typer.Option("--path", metavar="", help="Print the path of the user's file.")] = False,
    init: Annotated[
        bool,
        typer.Option(
            "--init", metavar="", help="Write that file with every setting commented out. Never overwrites a file."
        ),
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show the settings of [cyan]sdcli txt2img[/] and the origin of each.

    Sources, strongest first: flags, variables such as SDCLI_STEPS=30,
    --config-file, the user's file, defaults.
    A file is TOML, with lines such as steps = 30.

    [bold]Examples[/]

      [cyan]sdcli config --init[/]

      [cyan]SDCLI_STEPS=30 sdcli config --all[/]
    """
    given = {"--path": path, "--init": init, "--all": everything, "--json": json}
    if (path or init) and sum(given.values()) > 1:
        raise UsageError(
            f"{' and '.join(flag for flag, is_given in given.items() if is_given)} cannot be combined",
            fix="Pass one of them.",
        )
    if path:
        print(printable(str(user_file())))
    elif init:
        print(printable(str(_write(template(), user_file()))))
    elif json:
        print(_json(load(config_file=config_file)))
    else:
        _show(load(config_file=config_file), everything, Console(quiet))


def _origins(configuration: Configuration) -> dict[str, tuple[Any, Origin]]:
    """The value and origin of every setting: first those that were given, then those at their defaults."""
    found = {name: (value, origin(name, configuration.given)) for name, value in configuration.settings}
    if configuration.random_seed:
        found["seed"] = (RANDOM, found["seed"][1])
    return dict(sorted(found.items(), key=lambda item: item[1][1].kind == "default"))


def _json(configuration: Configuration) -> str:
    origins = _origins(configuration).items()
    return json_line({name: {"value": value, "origin": dataclasses.asdict(where)} for name, (value, where) in origins})


def _show(configuration: Configuration, everything: bool, console: Console) -> None:
    """Print a table on standard output; standard error says how much it leaves out."""
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
            shown_value = "" if value is None else printable(toml(value))
            table.add_row(Text(name), Text(shown_value), Text(printable(str(where))), style=style)
        RichConsole(highlight=False).print(table)
    if hidden := len(origins) - len(shown):
        console.line(f"{hidden} settings are at their defaults; --all shows them")
    if not user_file().exists():
        console.line(f"{user_file()} does not exist; --init writes it")


def _write(text: str, path: Path) -> Path:
    """Write a new file, whole or not at all.

    Raises:
        OutputError: it already exists, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_new(path, text.encode())
    except FileExistsError as error:
        raise OutputError(f"{path} already exists", fix="Edit it, or move it first.") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}", why=f"{error.strerror}.") from error
