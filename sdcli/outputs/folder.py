"""The output folder: names as the original's, complete files or none, never over another's."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from sdcli.errors import OutputError
from sdcli.outputs import journal
from sdcli.outputs.journal import Journal
from sdcli.outputs.locks import FolderLocks

SAMPLES = "samples"
_BEING_WRITTEN = ".sdcli-"
_MARK = re.compile(r"[0-9a-f]{32}")
_GALLERY = re.compile(r"gallery-\d{4,}\.html")


_writing: set[str] = set()
"""What this process writes: its own locks do not keep it out."""


class OutputFolder:
    """OUTDIR with its `samples/`, made if need be, and tried with an empty file before any computing.

    Args:
        path: OUTDIR.
        suffix: the ending of files that are numbered.
        journal: the run's record, which has a line of every file; None for a run without one.

    Raises:
        OutputError: it cannot be made, or not be written to.
    """

    def __init__(self, path: Path, suffix: str = ".png", journal: Journal | None = None) -> None:
        self.path = path
        self.suffix = suffix
        self.samples = path / SAMPLES
        self.journal = journal
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.samples):
                with tempfile.TemporaryFile(prefix=_BEING_WRITTEN, dir=folder):
                    pass
            self.locks = FolderLocks(path)
            self._remove_left_behind()
        except OSError as error:
            raise cannot_write(path, error, "--outdir") from error
        self.next_sample, self.next_grid = next_numbers(path)

    def save_sample(self, data: bytes, name: str | None = None, **line: Any) -> Path:
        """Write an image.

        Args:
            data: the file.
            name: below `samples/`, as `names.name_of` gives it; where it is taken, a number is put to it. By default
                the next of `00000.png` and on.
            line: what the run's record says of it.

        Raises:
            OutputError: a full disk, a folder that has gone; nothing half-written stays.
        """
        if name is not None:
            return self._save(data, "picture", variants(self.samples / name), line)
        return self._save(data, "picture", self._numbered_samples(), line)

    def save_grid(self, data: bytes, name: str | None = None, **line: Any) -> Path:
        """Write a page of the grid, the next `grid-0000.png`; the rest as with `save_sample`."""
        if name is not None:
            return self._save(data, "grid", variants(self.path / name), line)
        return self._save(data, "grid", self._numbered_grids(), line)

    def begin(self) -> None:
        """Begin the run's record, if it has one.

        Raises:
            OutputError: it cannot be written.
        """
        if self.journal is not None:
            with self._recording():
                self.journal.begin()

    def note(self, kind: str, **line: Any) -> None:
        """Put a line without a file into the run's record.

        Raises:
            OutputError: it cannot be written.
        """
        if self.journal is not None:
            with self._recording():
                self.journal.append(kind, **line)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            with self.locks.writing():
                yield
        except OSError as error:
            raise cannot_write(self.path, error, "--outdir") from error

    def new_gallery(self) -> Path:
        """An empty new `gallery-0000.html`, for a page that grows."""
        number = sum(1 for entry in os.scandir(self.path) if _GALLERY.fullmatch(entry.name))
        try:
            while True:
                path = self.path / f"gallery-{number:04}.html"
                number += 1
                with suppress(FileExistsError):
                    path.touch(exist_ok=False)
                    return path
        except OSError as error:
            raise cannot_write(self.path, error, "--outdir") from error

    def _numbered_samples(self) -> Iterator[Path]:
        while True:
            self.next_sample += 1
            yield self.samples / f"{self.next_sample - 1:05}{self.suffix}"

    def _numbered_grids(self) -> Iterator[Path]:
        while True:
            self.next_grid += 1
            yield self.path / f"grid-{self.next_grid - 1:04}{self.suffix}"

    def _save(self, data: bytes, kind: str, paths: Iterator[Path], line: dict[str, Any]) -> Path:
        """Write `data` under the first of the names that is free, and its line before it."""
        path = self.samples / "any"
        try:
            with self._aside(data) as aside, self.locks.writing():
                for path in paths:
                    if os.path.lexists(path):
                        continue
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if self._claimed(aside, path, kind, line | {"sha256": hashlib.sha256(data).hexdigest()}):
                        break
        except OSError as error:
            raise cannot_write(path.parent, error, "--outdir") from error
        return path

    def _claimed(self, aside: Path, path: Path, kind: str, line: dict[str, Any]) -> bool:
        """Give a file its name with its line in the record; False where a stranger was faster."""
        if self.journal is not None:
            self.journal.append(kind, file=path.relative_to(self.path).as_posix(), **line)
        try:
            claim(aside, path)
        except OSError as error:
            # Not at an interruption, which may come when the file has its name already.
            if self.journal is not None:
                self.journal.take_back()
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    @contextmanager
    def _aside(self, data: bytes) -> Iterator[Path]:
        """As `written_aside`, with a lock that tells others whether whoever writes is still alive."""
        mark = uuid.uuid4().hex
        _writing.add(mark)
        self.locks.claim(mark)
        try:
            with written_aside(data, self.samples, mark) as aside:
                yield aside
        finally:
            self.locks.free(mark)
            _writing.discard(mark)

    def _remove_left_behind(self) -> None:
        """Take away files that killed runs had not finished writing."""
        for entry in os.scandir(self.samples):
            mark = entry.name.removeprefix(_BEING_WRITTEN)
            if not (entry.name.startswith(_BEING_WRITTEN) and _MARK.fullmatch(mark)) or mark in _writing:
                continue
            if self.locks.claim(mark):
                # Whoever writes it may have finished it meanwhile.
                with suppress(FileNotFoundError):
                    Path(entry.path).unlink()
                self.locks.free(mark)


def next_numbers(path: Path) -> tuple[int, int]:
    """The numbers that the next sample and the next grid get, where those names are free."""
    # `samples` itself is one of OUTDIR's entries.
    return _count(path / SAMPLES), max(0, _count(path) - 1)


def variants(path: Path) -> Iterator[Path]:
    """The name, and where it is taken `name-2.png` and on."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))


def _count(folder: Path) -> int:
    """Entries as the original counts them; hidden ones, such as files being written, records and galleries are none."""
    names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
    return sum(
        1 for name in names if not (name.startswith(".") or _GALLERY.fullmatch(name) or journal.NAME.fullmatch(name))
    )


@contextmanager
def written_aside(data: bytes, folder: Path, mark: str = "") -> Iterator[Path]:
    """A complete file in `folder` under a hidden name, for `claim` to name; gone afterwards.

    Args:
        mark: ends the name; by default something that nobody has.
    """
    aside = folder / f"{_BEING_WRITTEN}{mark or f'one-{uuid.uuid4().hex}'}"
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink()


def claim(aside: Path, path: Path) -> None:
    """Give a complete file its name; two programs at once never get the same one.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        # No hard links on this file system: claim the name with an empty file, then put the image in its place.
        claimed = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            os.close(claimed)
            aside.replace(path)
        except BaseException:  # an interruption too must not leave the empty file
            path.unlink(missing_ok=True)
            raise


def cannot_write(path: Path, error: OSError, flag: str) -> OutputError:
    """The system's error as words; `flag` is the one that names another place."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        f"cannot write to {path}",
        why=f"{error.strerror or error}.",
        fix=f"Free some space, or name another place with {flag}." if full else f"Name another place with {flag}.",
    )
