"""The run's record: a JSON Lines file in the output folder, a line an image, from which a stopped run goes on.

A line is written before its file gets its name. So a run that is killed leaves no file without a line; a line without
a file is an image that is missing. Kinds of lines: `run` (settings and versions, once for each start), `image`,
`grid`, `withheld` (unsafe, and not saved) and `failed` (left out by --on-error skip).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdcli.errors import InputFileError
from sdcli.jobs import Job, NoisePlace
from sdcli.settings import Settings
from sdcli.terminal import json_line

NAME = re.compile(r"run-\d{4,}\.jsonl")
# What makes another file of the same job.
_OF_THE_FILE = (
    "format", "watermark", "no_watermark", "watermark_method",
    "safety_checker", "safety_model", "nsfw_threshold", "on_unsafe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """What the record says last of a job or a page of the grid.

    file: relative to the folder; None if it has none.
    sha256: of the file.
    withheld: whether the image was unsafe, and is not what was drawn.
    """

    kind: str
    file: str | None = None
    sha256: str | None = None
    withheld: bool = False


class Journal:
    """The record of one run, as a file that is only appended to.

    Args:
        folder: OUTDIR.
        start: the line that heads each start of the run.
        resume: go on with the folder's last record, if there is one, rather than begin a new one.
    """

    def __init__(self, folder: Path, start: Mapping[str, Any], *, resume: bool = False) -> None:
        self.folder = folder
        self.path = latest(folder) if resume else None
        self._start = start
        self._started = False
        self._before = (0, False)

    def begin(self) -> None:
        """Make the record of a run that has none yet, so that it can be resumed even before its first image.

        Raises:
            OSError: it cannot be written.
        """
        if self.path is None:
            self._write([])

    def append(self, kind: str, **line: Any) -> None:
        """Write a line, whole or not at all; the first time, the line of this start before it.

        Raises:
            OSError: it cannot be written.
        """
        self._write([{"kind": kind, **line}])

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self.path is None:
            self.path = _new(self.folder)
        if not self._started:
            lines = [{"kind": "run", "started": _now(), **self._start}, *lines]
        data = "".join(json_line(one) + "\n" for one in lines).encode()
        # Without a buffer, which would write what it holds before the file can be cut.
        with self.path.open("r+b", buffering=0) as file:
            _cut_torn_end(file)
            size = file.seek(0, os.SEEK_END)
            self._before = (size, self._started)
            left = memoryview(data)
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        self._started = True

    def take_back(self) -> None:
        """Undo the last line, whose file did not come to be. Only while no other process can write."""
        if self.path is not None:
            size, self._started = self._before
            os.truncate(self.path, size)


class Ledger:
    """What the records of a folder say is done, job by job, kept up to date as others write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, Entry] = {}
        self._read: dict[Path, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read what was written since the last time."""
        for path in records(self.folder):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # torn, or being written
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self._take(line)

    def _take(self, line: bytes) -> None:
        said = _parsed(line)
        kind, key, file = said.get("kind"), said.get("key"), said.get("file")
        # Else it is damaged, or a line without a job.
        if kind in ("picture", "withheld", "grid") and isinstance(key, str) and isinstance(file, str | None):
            safety = said.get("safety")
            done = safety.get("done") if isinstance(safety, dict) else None
            self._entries[key] = Entry(kind, file, said.get("sha256"), done in ("replace", "blur", "skip"))

    def find(self, key: str) -> Entry | None:
        """What is there of a job or a page of the grid; None if it is to be drawn, its file being gone or changed."""
        entry = self._entries.get(key)
        if entry is None or entry.file is None:
            return entry
        return entry if _hash_of(self.folder / entry.file) == entry.sha256 else None

    def name(self, key: str) -> str | None:
        """The file that a job had, relative to the folder, whether it is there or not."""
        entry = self._entries.get(key)
        return entry.file if entry else None


class Keys:
    """Names jobs by their content, and tells those of the same content apart by counting them.

    Args:
        settings: of the run; what makes another file of the same job counts as content.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = json.dumps({name: getattr(settings, name) for name in _OF_THE_FILE})
        self._seen: dict[str, int] = {}

    def next(self, job: Job) -> str:
        """64 hexadecimal digits for the next job of the run."""
        key = _digest(self._settings + job.content)
        # A place in the run's stream of noise comes once; a seed of one's own may come again.
        if job.noise != NoisePlace():
            return key
        times = self._seen[key] = self._seen.get(key, 0) + 1
        return key if times == 1 else _digest(f"{key} {times}")


def records(folder: Path) -> list[Path]:
    """The records in a folder, the oldest first."""
    try:
        names = [entry.name for entry in os.scandir(folder) if NAME.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names, key=lambda name: int(name[4:-6]))]


def latest(folder: Path) -> Path | None:
    """The newest record in a folder."""
    return next(reversed(records(folder)), None)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a record, without those that are damaged."""
    with path.open("rb") as file:
        yield from filter(None, map(_parsed, file))


def _parsed(line: bytes) -> dict[str, Any]:
    """What a line says; nothing if it is damaged."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of the last run in a folder, by name, as far as they were not defaults.

    Relative paths of files to read start from where that run was called, those that are defaults too.

    Raises:
        InputFileError: there is no record in it, or it cannot be read.
    """
    try:
        path = latest(folder)
        runs = [line for line in lines(path) if line.get("kind") == "run"] if path else []
    except OSError as error:
        raise InputFileError(f"the record of the run in {folder} cannot be read", why=f"{error.strerror}.") from error
    said = [run for run in runs if isinstance(run.get("settings"), dict) and isinstance(run.get("folder"), str)]
    if not said:
        raise InputFileError(
            f"there is no run to resume in {folder}",
            why="It holds no record with settings, run-0000.jsonl.",
            fix="Name the folder that was the run's --outdir, or give the run's own flags with --resume.",
        )
    settings, where = dict(said[-1]["settings"]), Path(said[-1]["folder"]).expanduser()
    # Records of images hold paths as they were said: those of a run that was stopped are to be the same.
    if where == Path.cwd():
        return settings
    defaults = ("wildcards",) if settings.get("model") else ("wildcards", "ckpt")
    for name in ("from_file", "wildcards", "ckpt", "config", "model", "safety_model"):
        value = settings.get(name, Settings.model_fields[name].default if name in defaults else None)
        if isinstance(value, str) and value != "-" and (where / Path(value).expanduser()).exists():
            settings[name] = str(where / Path(value).expanduser())
    return settings


def _cut_torn_end(file: Any) -> None:
    """Take away what follows the last end of a line: a process was killed while it wrote."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        block = file.read(end - start)
        if (found := block.rfind(b"\n")) >= 0:
            end = start + found + 1
            break
        end = start
    file.truncate(end)


def _new(folder: Path) -> Path:
    number = len(records(folder))
    while True:
        path = folder / f"run-{number:04}.jsonl"
        number += 1
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path


def _hash_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # ValueError: a name that no file has
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
