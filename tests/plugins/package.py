"""A copy of the package that a test can add files and lines to, and its command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LARGE = 1_000_000
"""Files of this size in bytes or more are linked, not copied."""

COMMANDS = """
import gc, json, os, sys

# What a run imports, so that each process need not do it again.
import cv2, torch, rich.console, rich.table
import transformers.models.clip.modeling_clip, transformers.models.clip.tokenization_clip
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
import sdcli.cli, sdcli.devices, sdcli.executors.local, sdcli.models.pretrained, sdcli.models.tokenizer
import sdcli.models.weights, sdcli.outputs.writer, sdcli.pipeline, sdcli.pipeline.samplers.scheduler_steps
import sdcli.pipeline.conditioning, sdcli.pipeline.decode, sdcli.pipeline.guidance, sdcli.stages.watermark

assert sdcli.__file__.startswith(os.environ["PYTHONPATH"]), sdcli.__file__
results = []
gc.freeze()
for number, command in enumerate(json.load(sys.stdin)):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.chdir(command["folder"])
        os.environ.update(command["environment"])
        for stream in (1, 2):
            os.dup2(os.open(f"{sys.argv[1]}/{number}-{stream}", os.O_WRONLY | os.O_CREAT, 0o644), stream)
        sys.argv = ["sdcli", *command["arguments"]]
        try:
            sdcli.cli.main()
        except SystemExit as left:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(left.code or 0)  # at once: to free what the libraries hold takes a second
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outputs = [open(f"{sys.argv[1]}/{number}-{stream}").read() for stream in (1, 2)]
    results.append([code, *outputs])
print(json.dumps(results))
"""
"""Runs commands one after the other, each in a process that is forked once the libraries are imported."""


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

    def run(self, code: str, *arguments: str, stdin: str = "") -> str:
        """Standard output of Python code that imports the copy."""
        # Its own folders, because a fixture of a module runs before those of its tests.
        folders = {f"XDG_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG")}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SDCLI_")}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment | folders | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commands(self, folder: Path, **commands: Command) -> dict[str, Result]:
        """Run commands in their order in a folder, which gets the folder `streams` besides.

        Returns:
            The result of each, by its name.
        """
        streams = folder / "streams"
        streams.mkdir()
        wanted: list[dict[str, Any]] = [
            {"arguments": command.arguments, "environment": command.environment, "folder": str(folder)}
            for command in commands.values()
        ]
        results = json.loads(self.run(COMMANDS, str(streams), stdin=json.dumps(wanted)).splitlines()[-1])
        shutil.rmtree(streams)
        return {name: Result(*result) for name, result in zip(commands, results, strict=True)}


def _copied(source: str, target: str) -> None:
    if Path(source).stat().st_size < LARGE:
        shutil.copy(source, target)
    else:
        Path(target).symlink_to(source)
