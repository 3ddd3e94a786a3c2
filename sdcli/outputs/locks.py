"""Locks on an output folder: one for writing, and one per job. The system releases the locks of a process that exits.

The locks are POSIX byte-range locks on one hidden, empty file: byte 0 for writing, and one byte for each job or file,
computed from its key. POSIX locks belong to the whole process, so a `threading.RLock` excludes other threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = ".sdcli-lock"
_WRITER = 0
# Closing any descriptor of a file releases all locks of the process on that file, so each file is opened only once.
_open: dict[tuple[int, int], int] = {}
_threads = threading.RLock()


class FolderLocks:
    """The locks of an output folder.

    Args:
        folder: an existing folder.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        with _threads:
            path = folder / NAME
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, f"{path} is not a regular file")
            key = (status.st_dev, status.st_ino)
            if key not in _open:
                _open[key] = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._file = _open[key]
            self.work = True
            """Whether the file system has locks; known after the first lock."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lock for writing, so that no other process or thread names files or writes to the journal."""
        with _threads:
            self._lock(fcntl.LOCK_EX, _WRITER)
            try:
                yield
            finally:
                self._lock(fcntl.LOCK_UN, _WRITER)

    def claim(self, key: str) -> bool:
        """Claims a job or a file by its key, 16 or more hexadecimal digits; returns False if another process has it."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, _offset(key))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, key: str) -> None:
        """Releases the claim on a job or a file."""
        self._lock(fcntl.LOCK_UN, _offset(key))

    def _lock(self, operation: int, offset: int) -> None:
        try:
            fcntl.lockf(self._file, operation, 1, offset)
        except OSError as error:
            # On a file system without locks, a single process still works.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
                raise
            self.work = False


def _offset(key: str) -> int:
    """Returns the byte for a key, one of 2^62."""
    return 1 + (int(key[:16], 16) >> 2)
