"""What only a new process shows: the ways to start sdcli, and the libraries' own messages."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from sdcli.cli import COMMANDS, app
from sdcli.version import VERSION

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_the_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("sdcli")
    ended = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"sdcli {VERSION}\n", "")


def test_python_m_and_libraries_that_print_nothing(run_python: Run) -> None:
    """A prompt longer than the model reads, at which transformers prints a warning unless main() turns that off."""
    prompt = "cat " * 90
    ended = run_python(
        "txt2img", "--prompt", prompt, "--dry-run", "--json", "--quiet", "--n_samples", "1", "--n_iter", "1"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["job"]["prompt"] == prompt


def test_the_first_words_and_errors(run_python: Run) -> None:
    ended = run_python("txt2img", "--steps", "0")
    words, error, *_ = ended.stderr.splitlines()
    assert (ended.returncode, words) == (2, "sdcli: importing libraries")
    assert "0 is out of range" in error
    assert run_python("txt2img", "--steps", "0", "--quiet").stderr.startswith(error)


PROGRAM = """
import atexit, sys
class Freed:
    def __del__(self):
        print("freed")
kept = Freed()
sys.argv = [{name!r}, "--version"]
atexit.register(print, "atexit")
from sdcli.cli import main
main()
"""


@pytest.mark.parametrize(("name", "end"), [("sdcli", []), ("program", ["freed"])])
def test_the_command_line_ends_without_freeing_objects(name: str, end: list[str]) -> None:
    """A program that calls main() ends as Python ends."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(name=name)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines() == [f"sdcli {VERSION}", "atexit", *end]
    assert ended.stderr == ""


@pytest.mark.slow
def test_ctrl_c_in_the_first_second(tmp_path: Path) -> None:
    """Before Python runs any code of sdcli, the signal itself may end it."""
    command = [sys.executable, "-m", "sdcli", "txt2img", "--prompt", "a cat"]
    for tenths in range(1, 11):
        process = subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.PIPE, bufsize=0,
            # In a background job of a shell, the tests and their children ignore the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stderr
        # Python's own start takes a time that depends on the machine.
        words = process.stderr.read(1)
        time.sleep((tenths - 1) / 10)
        process.send_signal(signal.SIGINT)
        words += process.communicate(timeout=60)[1]
        assert (process.returncode, words) == (130, b"sdcli: importing libraries\nsdcli: interrupted\n")


def test_help_without_a_command_and_nothing_else(refuse: Run) -> None:
    bare = refuse()
    assert (bare.returncode, bare.stderr) == (2, "")
    assert bare.stdout.split() == refuse("--help").stdout.split()
    assert "Generate images" in bare.stdout


def test_each_command_is_listed_with_the_first_line_of_its_help() -> None:
    commands = typer.main.get_command(app).commands
    assert {name: each.command.help.splitlines()[0] for name, each in commands.items()} == COMMANDS


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_the_version_and_the_list_of_commands_import_no_command(flag: str) -> None:
    run = [sys.executable, "-X", "importtime", "-m", "sdcli", flag]
    ended = subprocess.run(run, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "sdcli.cli.help" in imported
    assert not imported & {"pydantic", "numpy", "sdcli.settings", "sdcli.cli.txt2img", "sdcli.cli.models"}


def test_no_help_page_has_types_of_python(refuse: Run) -> None:
    for command in ("", *(command.name or "" for command in app.registered_commands)):
        page = refuse(*command.split(), "--help", COLUMNS="200").stdout
        assert "Usage" in page
        assert not re.findall(r"<[\w\[\]|]+>|\blist\[|\{[A-Z]+", page), command
