"""Locks on an output folder: who writes now, and who draws which job. The system frees a lock when its owner dies.

They are byte ranges of one hidden file that stays empty: a byte for the writer, and one for each job or file, at a
place that its key gives. POSIX locks are a process's own, so a lock of the usual kind keeps threads apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".sdcli-lock"
_WRITER = 0
# Closing any descriptor of a file frees all locks that the process has on it, so each file is opened once.
_open: dict[tuple[int, int], int] = {}
_threads = threading.RLock()


class FolderLocks:
    """The locks of an output folder.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        with _threads:
            path = folder / NAME
            if not path.exists():
                path.touch()
            stat = path.stat()
            key = (stat.st_dev, stat.st_ino)
            if key not in _open:
                _open[key] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._file = _open[key]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The only one to name files and write records in this folder."""
        with _threads:
            self._lock(fcntl.LOCK_EX, _WRITER)
            try:
                yield
            finally:
                self._lock(fcntl.LOCK_UN, _WRITER)

    def claim(self, key: str) -> bool:
        """Take a job, or a file, by its key of hexadecimal digits; False where another process has it."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, _place(key))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def free(self, key: str) -> None:
        """Give a job back."""
        self._lock(fcntl.LOCK_UN, _place(key))

    def _lock(self, how: int, place: int) -> None:
        try:
            fcntl.lockf(self._file, how, 1, place)
        except OSError as error:
            # A file system without locks: one process draws there as well as anywhere.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise


def _place(key: str) -> int:
    """The byte that stands for a job, of 2^62."""
    return 1 + (int(key[:16], 16) >> 2)
