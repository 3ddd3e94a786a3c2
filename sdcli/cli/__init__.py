"""The command line: one file a command; `main` turns every error into words and an exit code."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from sdcli.cli.completion import Command
from sdcli.cli.config import config
from sdcli.cli.console import Console
from sdcli.cli.inspect import inspect
from sdcli.cli.rerun import rerun
from sdcli.cli.txt2img import txt2img
from sdcli.cli.watermark import watermark
from sdcli.errors import EXIT_BUG, EXIT_SIGNAL, SdcliError
from sdcli.version import VERSION

app = typer.Typer(
    name="sdcli",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # Dashes and underscores are one and the same, in flags and in their fixed choices.
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


def _print_version(asked: bool) -> None:
    if asked:
        print(f"sdcli {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Text to images, in a shell.

    Try [cyan]sdcli txt2img --prompt "a red apple"[/]; [cyan]sdcli COMMAND --help[/] tells all flags of a command.
    """


def main() -> NoReturn:
    """Run the command line and leave with the documented exit code."""
    if sys.stderr is None:  # closed: what is said to nobody must not go to standard output
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # to the end
    console = Console()
    # Standard error is for what this program says; the libraries' own warnings speak to programmers.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    _turn_signals_into_errors()
    try:
        code = app(prog_name="sdcli", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except _Signalled as signalled:
        code = EXIT_SIGNAL + signalled.number
    except (BrokenPipeError, SystemExit) as left:
        # Typer leaves where whoever read standard output has gone, with a code that means something else here.
        if isinstance(left, SystemExit) and not isinstance(left.__context__, BrokenPipeError):
            raise
        code = EXIT_SIGNAL + signal.SIGPIPE
        # Python would complain of what is still to be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except SdcliError as error:
        _traceback_if_asked()
        console.error(error.what, error.why, error.fix)
        code = error.exit_code
    except TyperException as error:
        # Typer's list of near names and pydantic's prefix are left out: `_way_out` says the first better.
        words = error.format_message().split(" (Possible")[0].replace("Value error, ", "")
        console.error(words, *_way_out(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_SIGNAL + signal.SIGINT
    except Exception as error:
        _traceback_if_asked()
        console.error(
            f"a bug in sdcli: {type(error).__name__}: {error}",
            fix="Run it again with --debug and report what it prints.",
        )
        code = EXIT_BUG
    if code in _STOPPED:
        again = "; the same command with --resume draws the rest" if "txt2img" in sys.argv[1:2] else ""
        console.error(_STOPPED[code], fix=f"What was saved is kept{again}.")
    sys.exit(code or 0)


_STOPPED = {
    EXIT_SIGNAL + signal.SIGINT: "interrupted",
    EXIT_SIGNAL + signal.SIGTERM: "stopped by SIGTERM",
    EXIT_SIGNAL + signal.SIGHUP: "stopped: the terminal has gone",
}
"""What is said of an exit code that stands for a signal."""


class _Signalled(BaseException):
    """A signal that ends the run; what is open is closed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _turn_signals_into_errors() -> None:
    def stop(number: int, _: Any) -> NoReturn:
        raise _Signalled(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup has SIGHUP ignored, and that is to stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _way_out(error: TyperException) -> tuple[str, str]:
    """Why and what to do for what Typer itself refuses; for a mistyped flag the nearest ones."""
    context: Any = getattr(error, "ctx", None)
    typed: str | None = getattr(error, "option_name", None)
    if context is None:
        return "", "sdcli --help lists the commands."
    lists = f"{context.command_path} --help lists all flags."
    if typed is None or "No such option" not in error.format_message():
        return "", lists
    names = [name for parameter in context.command.params for name in parameter.opts]
    plain = {name: name.replace("-", "_") for name in names}
    typed = typed.replace("-", "_")
    begins = [name for name in names if plain[name].startswith(typed)]
    near = difflib.get_close_matches(typed, plain.values(), n=3, cutoff=0.6)
    nearest = begins or [name for close in near for name in names if plain[name] == close]
    return (f"Did you mean {' or '.join(nearest[:3])}?" if nearest else ""), lists


def _traceback_if_asked() -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
