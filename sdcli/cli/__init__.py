"""The command line: one file for each command. `main` turns every error into a message and an exit code."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.exceptions import TyperException

from sdcli import quiet, signals, start
from sdcli.cli import models
from sdcli.cli.completion import Command
from sdcli.cli.config import config
from sdcli.cli.console import Console, StreamError, checked_streams
from sdcli.cli.help import Group
from sdcli.cli.inspect import inspect
from sdcli.cli.rerun import rerun
from sdcli.cli.txt2img import txt2img
from sdcli.cli.watermark import watermark
from sdcli.errors import EXIT_SIGNAL, OutputError
from sdcli.version import VERSION

app = typer.Typer(
    name="sdcli",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # Dashes and underscores are the same, in flags and in their choices.
    context_settings={
        "token_normalize_func": lambda token: token.replace("-", "_"),
        "help_option_names": ["--help", "-h"],
    },
)
app.command("txt2img", cls=Command)(txt2img)
app.command("watermark", cls=Command)(watermark)
app.command("inspect", cls=Command)(inspect)
app.command("rerun", cls=Command)(rerun)
app.command("config", cls=Command)(config)
app.add_typer(models.app, name="models")


def _print_version(given: bool) -> None:
    if given:
        print(f"sdcli {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Generate images from text, in a shell.

    Try [cyan]sdcli txt2img --prompt "a red apple"[/]; [cyan]sdcli COMMAND --help[/] lists the flags of a command.
    """


def main() -> NoReturn:
    """Run the command line and exit with the documented exit code."""
    signals.exit_at_once()
    if sys.stderr is None:  # closed: messages must not go to standard output
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # open until the end
    console = Console()
    code: int
    if sys.stdout is None:
        console.error("standard output is closed", fix="Redirect it to a file or a program, or to /dev/null.")
        sys.exit(OutputError.exit_code)
    _never_fail_to_encode(sys.stdout)
    try:
        with checked_streams():
            code = _run(console)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except StreamError as error:
        code = error.exit_code
    except BrokenPipeError:
        code = EXIT_SIGNAL + signal.SIGPIPE
    start.leave(code)


def _never_fail_to_encode(output: TextIO) -> None:
    """Escape what the encoding of standard output lacks. Off a terminal it has the encoding of file names."""
    if isinstance(output, TextIOWrapper):
        output.reconfigure(encoding=None if output.isatty() else sys.getfilesystemencoding(), errors="backslashreplace")


def _run(console: Console) -> int:
    """Run the command line; report errors. Returns the exit code."""
    quiet.silence()
    try:
        try:
            code = app(prog_name="sdcli", standalone_mode=False)
        finally:
            signals.exit_at_once()
        sys.stdout.flush()
    except signals.Stopped as stopped:
        code = EXIT_SIGNAL + stopped.number
        console.error(signals.MESSAGES[signal.Signals(stopped.number)], fix=stopped.advice)
    except (BrokenPipeError, SystemExit) as left:
        # Typer exits when the reader of standard output closes it, with a code that has another meaning here.
        if isinstance(left, SystemExit) and not isinstance(left.__context__, BrokenPipeError):
            raise
        code = EXIT_SIGNAL + signal.SIGPIPE
    except TyperException as error:
        # `_advice` names the similar flags, so Typer's own list of them is left out.
        message = error.message if _is_unknown_flag(error) else error.format_message().replace("Value error, ", "")
        if message:  # none without a command, when Typer prints the help page
            console.error(message, *_advice(error))
        code = error.exit_code
    except Exception as error:
        code = console.failure(error)
    return int(code or 0)


def _is_unknown_flag(error: TyperException) -> bool:
    """Whether a flag does not exist. Typer does not export this exception."""
    return type(error).__name__ == "NoSuchOption"


def _advice(error: TyperException) -> tuple[str, str]:
    """Why and what to do for an error of Typer; for a mistyped flag the similar ones."""
    context: Any = getattr(error, "ctx", None)
    if context is None:
        return "", "sdcli --help lists the commands."
    fix = f"{context.command_path} --help lists all flags."
    if not _is_unknown_flag(error):
        return "", fix
    typed = str(getattr(error, "option_name", "")).replace("-", "_")
    names = [name for parameter in context.command.params for name in parameter.opts]
    plain = {name: name.replace("-", "_") for name in names}
    completed = [name for name in names if plain[name].startswith(typed)]
    near = difflib.get_close_matches(typed, plain.values(), n=3, cutoff=0.6)
    similar = completed or [name for close in near for name in names if plain[name] == close]
    return (f"Did you mean {' or '.join(similar[:3])}?" if similar else ""), fix
