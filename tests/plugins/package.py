"""A copy of the package that a test can add files and lines to, and its command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LARGE = 1_000_000
"""Files of this size in bytes or more are linked, not copied."""

FORK_SERVER = ROOT / "tests/cli/fork_server.py"


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    def __post_init__(self) -> None:
        assert self.code in (0, 1), self.stderr


@dataclass(frozen=True)
class Command:
    """A command line, `sdcli ARGUMENTS`, with variables of its environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


def sdcli(*arguments: str | Path, **environment: str) -> Command:
    """`sdcli ARGUMENTS`."""
    return Command(tuple(map(str, arguments)), environment)


def completion(line: str) -> Command:
    """What bash runs to complete the last word of a line."""
    words = line.split(" ")
    return sdcli(_SDCLI_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))


class Package:
    """A copy of the package in a folder.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            ROOT / "sdcli", folder / "sdcli", copy_function=_copied, ignore=shutil.ignore_patterns("__pycache__")
        )
        (folder / "configs").symlink_to(ROOT / "configs")
        self.added: list[str] = []
        """Files that were added, relative to the package."""
        self.lines: dict[str, int] = {}
        """The number of lines that were added to files of the package, by file."""

    def add_file(self, source: Path, name: str) -> None:
        """Add a file that does not exist yet."""
        target = self.folder / "sdcli" / name
        assert not target.exists()
        shutil.copy(source, target)
        self.added.append(name)

    def add_line(self, file: str, place: int, line: str) -> None:
        """Insert one line into a file of the package, with `place` lines before it."""
        assert "\n" not in line
        path = self.folder / "sdcli" / file
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:place], line, *lines[place:]]) + "\n")
        self.lines[file] = self.lines.get(file, 0) + 1

    @property
    def _environment(self) -> dict[str, str]:
        """The variables of processes that import the copy, which has its own folders of caches and settings."""
        folders = {f"XDG_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG")}
        others = {name: value for name, value in os.environ.items() if not name.startswith("SDCLI_")}
        return others | folders | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def run(self, code: str, *arguments: str) -> str:
        """Standard output of Python code that imports the copy."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commands(self, folder: Path, **commands: Command) -> dict[str, Result]:
        """Run commands one after the other in a folder, each in a process of its own.

        Returns:
            The result of each, by its name.
        """
        results: dict[str, Result] = {}
        with (
            tempfile.TemporaryDirectory() as streams,
            subprocess.Popen(
                [sys.executable, "-P", FORK_SERVER],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as server,
        ):
            assert server.stdin
            assert server.stdout
            assert server.stdout.readline() == "1\n", "the server did not start, or has threads and cannot fork"

            def request(**values: Any) -> Any:
                assert server.stdin
                assert server.stdout
                print(json.dumps(values), file=server.stdin, flush=True)
                return json.loads(server.stdout.readline())

            for name, command in commands.items():
                outputs = [Path(streams, f"{name}-{stream}") for stream in ("stdout", "stderr")]
                child = request(
                    do="start",
                    arguments=command.arguments,
                    cwd=str(folder),
                    environment=self._environment | command.environment,
                    streams=[os.devnull, *map(str, outputs)],
                    file_size=None,
                    before="",
                )
                code = request(do="wait", child=child, seconds=300)
                results[name] = Result(code, *(path.read_text() for path in outputs))
        return results


def _copied(source: str, target: str) -> None:
    if Path(source).stat().st_size < LARGE:
        shutil.copy(source, target)
    else:
        Path(target).symlink_to(source)
