"""The command line: one file for each command, imported when the command is used. `main` turns every error into a
message and an exit code.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.exceptions import TyperException

from sdcli import quiet, signals, start, suggestions
from sdcli.cli.console import Console, StreamError, checked_streams
from sdcli.cli.help import Deferred, Group
from sdcli.errors import EXIT_SIGNAL, OutputError
from sdcli.suggestions import did_you_mean, elsewhere
from sdcli.terminal import shortened

app = typer.Typer(
    name="sdcli",
    cls=Group,
    no_args_is_help=True,
    suggest_commands=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # Dashes and underscores are the same, in flags and in their choices.
    context_settings={
        "token_normalize_func": lambda token: token.replace("-", "_"),
        "help_option_names": ["--help", "-h"],
    },
)
COMMANDS = {
    "txt2img": "Generate images from text, with every flag of the original txt2img.py and more.",
    "watermark": "Read the invisible watermark of images, or write one.",
    "inspect": "Show how images were generated.",
    "rerun": "Generate an image again, with the noise that it had in its run.",
    "config": "Show the settings of [cyan]sdcli txt2img[/] and the origin of each.",
    "samplers": "List the samplers and what each of them takes.",
    "models": "List, describe, download, convert and verify models; list their words.",
}
"""The first line of each command's help, by its name, which is also that of its module."""
for name, line in COMMANDS.items():
    app.command(name, cls=Deferred, help=line)(lambda: None)


def _print_version(given: bool) -> None:
    if given:
        from sdcli.version import VERSION

        print(f"sdcli {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Generate images from text, in a shell.

    Try [cyan]sdcli txt2img "a red apple"[/]; [cyan]sdcli COMMAND --help[/] lists the flags of a command.
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
        if error.message:  # none without a command, when Typer prints the help page
            console.error(*_explained(error))
        code = error.exit_code
    except Exception as error:
        code = console.failure(error)
    return int(code or 0)


def _is_unknown_flag(error: TyperException) -> bool:
    """Whether a flag does not exist. Typer does not export this exception."""
    return type(error).__name__ == "NoSuchOption"


def _explained(error: TyperException) -> tuple[str, str, str]:
    """What failed, why, and what to do, for an error of Typer. Flags are named as they were typed."""
    from sdcli.cli.completion import typed_flags

    context: Any = getattr(error, "ctx", None)
    if context is None:
        return error.format_message(), "", "sdcli --help lists the commands."
    fix = f"{context.command_path} --help lists all flags."
    typed = typed_flags(context)
    if _is_unknown_flag(error):
        name = str(getattr(error, "option_name", ""))
        return (f"unknown flag {typed.get(name, name)}", *_advice(context, typed.get(name, name), fix))
    if found := re.fullmatch(r"No such command '(.*)'\.", error.message, re.DOTALL):
        near = did_you_mean(suggestions.near(found[1], context.command.commands))
        prompt = "" if near or '"' in found[1] else f' For an image of it: sdcli txt2img "{shortened(found[1])}"'
        return f"unknown command {shortened(found[1])}", near, f"sdcli --help lists the commands.{prompt}"
    parameter = getattr(error, "param", None)
    if parameter is not None and parameter.name in typed:
        return f"{typed[parameter.name]}: {error.message}", "", fix
    return error.format_message(), "", fix


def _advice(context: Any, flag: str, fix: str) -> tuple[str, str]:
    """Why a flag is unknown and what to do: what it is called here, the command that has it, or similar flags.

    Args:
        context: that of the command.
        flag: the flag, as it was typed.
        fix: what to do if nothing better is known.
    """
    from sdcli.settings import options

    plain = flag[:2] + flag[2:].replace("-", "_")
    own = [name for parameter in context.command.params for name in parameter.opts if name.startswith("-")]
    if context.parent is None:
        every = {name: name.replace("-", "_") for line in options().values() for name in (*line.names, *line.aliases)}
        if plain[2:] in {name[2:] for name in every.values()}:
            return f"{flag} is a flag of a command.", f"For example: sdcli txt2img {flag} ..."
    why = elsewhere(flag) if context.command.name == "txt2img" else ""
    return why or did_you_mean(suggestions.near(flag, own, most=3) if len(flag) > 2 else ()), fix
