"""The output folder: names as the original's, complete files or none, never over another's."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdcli.errors import OutputError

SAMPLES = "samples"
_BEING_WRITTEN = ".sdcli-"
_GALLERY = re.compile(r"gallery-\d{4,}\.html")


class OutputFolder:
    """OUTDIR with its `samples/`, made if need be, and tried with an empty file before any computing.

    Args:
        path: OUTDIR.
        suffix: the files' ending.

    Raises:
        OutputError: it cannot be made, or not be written to.
    """

    def __init__(self, path: Path, suffix: str = ".png") -> None:
        self.path = path
        self.suffix = suffix
        self.samples = path / SAMPLES
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.samples):
                with tempfile.TemporaryFile(prefix=_BEING_WRITTEN, dir=folder):
                    pass
        except OSError as error:
            raise cannot_write(path, error, "--outdir") from error
        self.next_sample = _count(self.samples)
        # `samples` itself is one of the entries.
        self.next_grid = _count(path) - 1

    def save_sample(self, data: bytes) -> Path:
        """Write the next `samples/00000.png`."""
        path, self.next_sample = _save(
            data, lambda number: self.samples / f"{number:05}{self.suffix}", self.next_sample
        )
        return path

    def save_grid(self, data: bytes) -> Path:
        """Write the next `grid-0000.png`."""
        path, self.next_grid = _save(data, lambda number: self.path / f"grid-{number:04}{self.suffix}", self.next_grid)
        return path

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


def _count(folder: Path) -> int:
    """Entries as the original counts them; hidden ones, such as files being written, and galleries are none."""
    names = (entry.name for entry in os.scandir(folder))
    return sum(1 for name in names if not name.startswith(".") and not _GALLERY.fullmatch(name))


def _save(data: bytes, name: Callable[[int], Path], number: int) -> tuple[Path, int]:
    """Write `data` under the first free name from `number` on; returns it and the number after it.

    Raises:
        OutputError: a full disk, a folder that has gone; nothing half-written stays.
    """
    folder = name(number).parent
    try:
        with written_aside(data, folder) as aside:
            while True:
                path = name(number)
                number += 1
                with suppress(FileExistsError):
                    claim(aside, path)
                    return path, number
    except OSError as error:
        raise cannot_write(folder, error, "--outdir") from error


@contextmanager
def written_aside(data: bytes, folder: Path) -> Iterator[Path]:
    """A complete file in `folder` under a hidden name, for `claim` to name; gone afterwards."""
    aside = folder / f"{_BEING_WRITTEN}{uuid.uuid4().hex}"
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
        # No hard links on this file system: claim the name with an empty file, then put the picture in its place.
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
