"""The command line, in this process."""

from __future__ import annotations

import contextlib
import io

import typer
from typer.exceptions import TyperException

from sdcli.cli import app
from sdcli.errors import SdcliError
from tests.fuzz.inputs import assert_printable

COMMAND = typer.main.get_command(app)
CODES = range(8)
"""Exit codes of answers and of errors that the user can act on."""


def run(*arguments: str) -> tuple[int, str]:
    """Run a command; returns its exit code and standard output. Bugs are raised, see `conftest.guards`."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = COMMAND.main([*arguments], prog_name="sdcli", standalone_mode=False) or 0
        except (SdcliError, TyperException) as error:
            code = error.exit_code
        except SystemExit as left:
            code = left.code or 0
    assert code in CODES
    assert_printable(output.getvalue())
    assert_printable(errors.getvalue())
    return code, output.getvalue()
