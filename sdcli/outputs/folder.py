"""The output folder: the original's file names, complete files only, and never over another file."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from sdcli.outputs import journal
from sdcli.outputs.files import (
    HIDDEN,
    cannot_write,
    claim_name,
    create_first_free,
    make_folders,
    numbered,
    sync,
    variants,
    written_aside,
)
from sdcli.outputs.journal import SAMPLES as SAMPLES
from sdcli.outputs.journal import Journal
from sdcli.outputs.locks import FolderLocks
from sdcli.records import Key, Line

_TOKEN = re.compile(r"[0-9a-f]{32}")
_GALLERY = re.compile(r"gallery-\d{4,}\.html")


_ABANDONED = 3600
"""Seconds after which a hidden file has no writer any more, where no lock shows whether its writer is alive."""
_writing: set[str] = set()
"""Hidden files of this process: its own locks do not protect them from itself."""


class OutputFolder:
    """OUTDIR with its `samples/`, created if needed, and tested with an empty file before anything is computed.

    Args:
        path: OUTDIR.
        suffix: the suffix of numbered files.
        journal: the run's journal, with a line for every file; None for a run without one.

    Raises:
        OutputError: it cannot be created or written to.
    """

    def __init__(self, path: Path, suffix: str = ".png", journal: Journal | None = None) -> None:
        self.path = path
        self.samples = path / SAMPLES
        self.journal = journal
        try:
            make_folders(self.samples)
            for folder in (self.path, self.samples):
                with tempfile.TemporaryFile(prefix=HIDDEN, dir=folder):
                    pass
            self.locks = FolderLocks(path)
            self._remove_left_behind()
        except OSError as error:
            raise cannot_write(path, error, "--outdir") from error
        next_sample, next_grid = next_numbers(path)
        self._sample_names = numbered(self.samples, f"{{:05}}{suffix}", next_sample)
        self._grid_names = numbered(self.path, f"grid-{{:04}}{suffix}", next_grid)

    def save_sample(self, data: bytes, key: Key, name: str | None = None, **line: Any) -> Path:
        """Write an image.

        Args:
            data: the file.
            key: of its job.
            name: below `samples/`, as `names.name_of` returns it; a number is appended if it is taken. By default the
                next of `00000.png` and so on.
            line: further fields of its line in the journal.

        Raises:
            OutputError: the disk is full, or the folder was removed; nothing incomplete stays.
        """
        paths = self._sample_names if name is None else variants(self.samples / name)
        return self._save(data, "picture", key, paths, line)

    def save_grid(self, data: bytes, key: Key, name: str | None = None, **line: Any) -> Path:
        """Write a page of the grid, the next `grid-0000.png`; the rest as `save_sample`."""
        paths = self._grid_names if name is None else variants(self.path / name)
        return self._save(data, "grid", key, paths, line)

    def begin(self) -> None:
        """Start the run's journal, if it has one.

        Raises:
            OutputError: it cannot be written.
        """
        if self.journal is not None:
            with self._recording():
                self.journal.begin()

    def note(self, line: Line) -> None:
        """Write a line without a file into the run's journal, if it has one.

        Raises:
            OutputError: it cannot be written.
        """
        if self.journal is not None:
            with self._recording():
                self.journal.append(line)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            with self.locks.writing():
                yield
        except OSError as error:
            raise cannot_write(self.path, error, "--outdir") from error

    def has_gallery(self) -> bool:
        """Whether the folder has a gallery."""
        return any(_GALLERY.fullmatch(path.name) for path in self.path.glob("gallery-*"))

    def new_gallery(self) -> Path:
        """An empty new `gallery-0000.html`, for a page that grows."""
        number = sum(1 for entry in os.scandir(self.path) if _GALLERY.fullmatch(entry.name))
        try:
            return create_first_free(numbered(self.path, "gallery-{:04}.html", number))
        except OSError as error:
            raise cannot_write(self.path, error, "--outdir") from error

    def _save(self, data: bytes, kind: str, key: Key, paths: Iterator[Path], fields: dict[str, Any]) -> Path:
        """Write `data` under the first free name, after its line."""
        first = path = next(paths)
        try:
            make_folders(path.parent)
            with self._aside(data, path.parent) as aside, self.locks.writing():
                for path in chain([first], paths):
                    if os.path.lexists(path):
                        continue
                    file = path.relative_to(self.path).as_posix()
                    line = Line.new(kind, key, file=file, **fields, sha256=hashlib.sha256(data).hexdigest())
                    if self._name(aside, path, line):
                        break
            sync(path.parent)
        except OSError as error:
            raise cannot_write(path.parent, error, "--outdir") from error
        return path

    def _name(self, aside: Path, path: Path, line: Line) -> bool:
        """Write the line, then give the file its name; False if another program took the name meanwhile."""
        if self.journal is not None:
            self.journal.append(line)
        try:
            claim_name(aside, path)
        except OSError as error:
            # Not after an interruption, when the file may already have its name.
            if self.journal is not None:
                self.journal.remove_last()
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    @contextmanager
    def _aside(self, data: bytes, folder: Path) -> Iterator[Path]:
        """As `written_aside`, with a lock that shows other processes whether this one is alive."""
        token = uuid.uuid4().hex
        _writing.add(token)
        self.locks.claim(token)
        try:
            with written_aside(data, folder, token) as aside:
                yield aside
        finally:
            self.locks.release(token)
            _writing.discard(token)

    def _remove_left_behind(self) -> None:
        """Remove incomplete files of killed processes."""
        folders = [self.path, *(Path(folder) for folder, _, _ in os.walk(self.samples))]
        for entry in (entry for folder in folders for entry in os.scandir(folder)):
            token = entry.name.removeprefix(HIDDEN)
            if not (entry.name.startswith(HIDDEN) and _TOKEN.fullmatch(token)) or token in _writing:
                continue
            if self.locks.claim(token):
                # Its process may have finished it meanwhile.
                with suppress(FileNotFoundError):
                    if self.locks.work or time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                        Path(entry.path).unlink()
                self.locks.release(token)


def next_numbers(path: Path) -> tuple[int, int]:
    """The numbers of the next sample and of the next page of the grid, if those names are free."""
    # `samples` itself is one of OUTDIR's entries.
    return _count(path / SAMPLES), max(0, _count(path) - 1)


def _count(folder: Path) -> int:
    """The number of entries as the original counts them, without hidden files, journals and galleries."""
    found = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
    return sum(
        1 for name in found if not (name.startswith(".") or _GALLERY.fullmatch(name) or journal.NAME.fullmatch(name))
    )
