"""The journal of a run: a JSON Lines file in the output folder, from which a stopped run continues.

A line is written before its file gets its name. So a killed run leaves no file without a line, and a line without a
file stands for an image that is missing. The lines are `sdcli.records.RunLine` and `sdcli.records.Line`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sdcli.errors import InputFileError, UsageError
from sdcli.jobs import from_home
from sdcli.outputs.files import create_first_free, numbered, open_regular, sync
from sdcli.records import Key, Line, RunLine, read_line
from sdcli.settings import AUTO, Settings, default, names, options, with_paths
from sdcli.terminal import json_line

SAMPLES = "samples"
"""The folder of the images in OUTDIR."""
NAME = re.compile(r"run-\d{4,}\.jsonl")


class Journal:
    """The journal of one run, a file that only grows.

    Args:
        folder: OUTDIR.
        start: the line that heads each start of the run; the time is added.
        resume: continue the newest journal of the folder, if there is one, instead of starting another.
    """

    def __init__(self, folder: Path, start: RunLine, *, resume: bool = False) -> None:
        self.folder = folder
        self.path = latest(folder) if resume else None
        self._start = start
        self._started = False
        self._before = (0, False)

    def begin(self) -> None:
        """Create the journal of a new run, so that the run can be resumed even before its first image.

        Raises:
            OSError: it cannot be written.
        """
        if self.path is None:
            self._write([])

    def append(self, line: Line) -> None:
        """Write a line, whole or not at all; the first time after the line of this start.

        Raises:
            OSError: it cannot be written.
        """
        self._write([line.values()])

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self.path is None:
            count = len(journals(self.folder))
            self.path = create_first_free(numbered(self.folder, "run-{:04}.jsonl", count))
            sync(self.folder)
        if not self._started:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            lines = [self._start.model_copy(update={"started": now}).values(), *lines]
        data = "".join(json_line(line) + "\n" for line in lines).encode()
        # Unbuffered: a buffer would write its content before the file can be truncated.
        with open_regular(self.path, os.O_RDWR) as file:
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

    def remove_last(self) -> None:
        """Remove the last line, because its file could not be created. Only while no other process can write."""
        if self.path is not None:
            size, self._started = self._before
            os.truncate(self.path, size)


class Ledger:
    """What the journals of a folder say of each job, kept up to date while other processes write.

    A journal may come from somebody else, so it is only believed of regular files in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, Line] = {}
        self._read: dict[Path, int] = {}
        self._hashes: dict[Path, tuple[int, int, str]] = {}
        """Size, modification time and hash of files, so that each is read once."""
        self.refresh()

    @property
    def has_lines(self) -> bool:
        """Whether there is a line of any image."""
        return bool(self._lines)

    def refresh(self) -> None:
        """Read what was written since the last time.

        Raises:
            InputFileError: a journal cannot be read.
        """
        for path in journals(self.folder):
            try:
                self._read_on(path)
            except OSError as error:
                raise InputFileError(f"the journal {path} cannot be read", why=f"{error.strerror}.") from error

    def _read_on(self, path: Path) -> None:
        with open_regular(path) as file:
            file.seek(self._read.get(path, 0))
            for data in file:
                if not data.endswith(b"\n"):
                    break  # torn, or being written
                self._read[path] = self._read.get(path, 0) + len(data)
                line = read_line(data)
                if isinstance(line, Line) and line.kind != "failed":
                    self._lines[line.key] = line

    def find(self, key: Key) -> Line | None:
        """The line of a finished job or page of the grid; None if there is none, or its file is gone or changed."""
        line = self._line(key)
        if line is None or line.kind == "withheld":
            return line
        path = self._inside(line.file)
        return line if path is not None and line.sha256 is not None and self._hash_of(path) == line.sha256 else None

    def name(self, key: Key) -> str | None:
        """The file name that a job has in the journals, relative to the folder, whether or not the file exists.

        None if the name is not one in the folder.
        """
        line = self._line(key)
        return line.file if line and self._inside(line.file) else None

    def _hash_of(self, path: Path) -> str | None:
        try:
            with open_regular(path) as file:
                state = os.fstat(file.fileno())
                size, modified, digest = self._hashes.get(path, (-1, -1, ""))
                if (size, modified) != (state.st_size, state.st_mtime_ns):
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    self._hashes[path] = (state.st_size, state.st_mtime_ns, digest)
                return digest
        except (OSError, ValueError):  # ValueError: a name that no file can have
            return None

    def _inside(self, file: str | None) -> Path | None:
        """The path of a file, without links; None if it is neither in the folder nor in `samples/`, maybe a link."""
        parts = PurePosixPath(file).parts if file else ()
        if not file or not parts or parts[0] == "/" or ".." in parts or "\0" in file:
            return None
        path = Path(os.path.realpath(self.folder / file))
        homes = (os.path.realpath(self.folder / name) for name in ("", SAMPLES))
        return path if any(path.is_relative_to(home) for home in homes) else None

    def _line(self, key: Key) -> Line | None:
        return self._lines.get(key.key) or (self._lines.get(key.old) if key.old else None)


def journals(folder: Path) -> list[Path]:
    """The journals of a folder, the oldest first. Links, folders, devices and pipes are no journals."""
    try:
        entries = [entry for entry in os.scandir(folder) if NAME.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return [folder / name for name in sorted(found, key=lambda name: int(name[4:-6]))]


def latest(folder: Path) -> Path | None:
    """The newest journal of a folder."""
    return next(reversed(journals(folder)), None)


def lines(path: Path) -> Iterator[RunLine | Line]:
    """The lines of a journal, without damaged ones."""
    with open_regular(path) as file:
        yield from filter(None, map(read_line, file))


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings that were given to the last run in a folder, by name.

    Relative paths of files to read, defaults included, start from the folder in which that run was started.

    Raises:
        InputFileError: the folder has no journal, or it cannot be read, or its `samples/` is outside.
    """
    try:
        path = latest(folder)
        runs = [line for line in lines(path) if isinstance(line, RunLine)] if path else []
    except OSError as error:
        raise InputFileError(f"the journal in {folder} cannot be read", why=f"{error.strerror}.") from error
    if not runs:
        raise InputFileError(
            f"{folder} has no run to resume",
            why="It contains no journal with settings, run-0000.jsonl.",
            fix="Pass the folder that was the run's --outdir, or the run's own flags and --resume.",
        )
    settings, start = dict(runs[-1].settings), Path(from_home(runs[-1].folder))
    if unknown := settings.keys() - options().keys():
        raise InputFileError(
            f"this version of sdcli cannot resume the run in {folder}",
            why=f"Its journal has the unknown setting {min(unknown)!r}.",
        )
    # Journals of older versions leave out the defaults of these versions.
    old = {name: line.left_out for name, line in options().items() if line.left_out is not None}
    settings = old | {name: value for name, value in settings.items() if options()[name].journal}
    if not Path(os.path.realpath(folder / SAMPLES)).is_relative_to(os.path.realpath(folder)):
        raise InputFileError(
            f"{folder / SAMPLES} is a link to another folder",
            why="A run that is resumed with the settings of its journal writes into its own folder only.",
            fix=f"Pass the run's own flags, --outdir {folder} and --resume.",
        )
    # In the same folder paths stay as they are, since records of images contain them.
    if start.is_dir() and os.path.samefile(start, "."):  # noqa: PTH121
        return settings
    by_name = "ckpt" in settings or "/" not in settings.get("model", "/")
    for name in [name for name, line in options().items() if line.path and line.journal]:
        given = name in settings
        # Without --model the run looked for the default checkpoint, and always for the default folders; for that of
        # models only if the model may be a name in it.
        looked_for = name in ("wildcards", "adapters") or (name == "models_folder" and by_name)
        looked_for = looked_for or (name == "ckpt" and not settings.get("model"))
        value = settings[name] if given else default(name) if looked_for else None
        if value is not None and value != "-":
            found = with_paths(name, value, lambda path: _from_start(start, path))
            if given or found != value:
                settings[name] = found
    return settings


def _from_start(start: Path, path: str) -> str:
    """The path from the folder in which a run was started; unchanged if there is nothing."""
    found = start / from_home(path)
    return str(found) if os.path.lexists(found) else path


def journaled(settings: Settings) -> dict[str, Any]:
    """The settings that were given, as the header of a journal has them."""
    return settings.model_dump(mode="json", include=settings.model_fields_set.intersection(names(journal=True)))


def seed_of(settings: Settings) -> int | None:
    """The seed of the newest run in the output folder that differs from these settings in the seed only.

    Raises:
        InputFileError: a journal cannot be read.
    """
    for path in reversed(journals(Path(settings.outdir))):
        try:
            runs = [line.settings for line in lines(path) if isinstance(line, RunLine)]
        except OSError as error:
            raise InputFileError(f"the journal {path} cannot be read", why=f"{error.strerror}.") from error
        for run in reversed(runs):
            try:
                before = Settings.of(**run)
            except UsageError:  # of another version
                continue
            if "seed" in run and all(
                getattr(before, name) == getattr(settings, name)
                for name in names(journal=True)
                # The model decides what is None or its own sampler, and the journal has its decision.
                if name != "seed"
                and (name, getattr(settings, name)) != ("sampler", AUTO)
                and (getattr(settings, name) is not None or options()[name].scope != "image")
            ):
                return before.seed
    return None


def _cut_torn_end(file: Any) -> None:
    """Remove what follows the last line end: a process was killed while it wrote."""
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
