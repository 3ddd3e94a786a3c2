"""New files: whole or not at all, and never over another file."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from sdcli.errors import OutputError

HIDDEN = ".sdcli-"
"""Prefix of files that are being written."""
_ALONE = "one-"
"""Then, if they are not in an output folder, where `FolderLocks` shows whether their process is alive."""

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def write_new(path: Path, data: bytes) -> Path:
    """Write a new file. It is on the disk, with its name, when this returns.

    Raises:
        FileExistsError: the name is taken.
        OSError: it cannot be written; nothing is left behind.
    """
    folder = path.absolute().parent
    _remove_left_behind(folder)
    with written_aside(data, folder) as aside:
        claim_name(aside, path)
    sync(folder)
    return path


@contextmanager
def written_aside(data: bytes, folder: Path, token: str = "") -> Iterator[Path]:
    """A complete file under a hidden name in `folder`, ready for `claim_name`; removed at the end.

    Args:
        data: the content.
        folder: that of the final name: a name in another folder may be on another file system.
        token: end of the hidden name; by default a random one.
    """
    aside = folder / f"{HIDDEN}{token or f'{_ALONE}{uuid.uuid4().hex}'}"
    try:
        with _new_locked(aside) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            yield aside
    finally:
        with suppress(OSError):
            aside.unlink()


def _new_locked(path: Path) -> io.BufferedWriter:
    """A new file, locked. If another process removed it before it was locked, it is created again."""
    while True:
        file = path.open("xb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


@cache
def _remove_left_behind(folder: Path) -> None:
    """Remove the hidden files of `write_new` that no process has locked: theirs was killed. Once for each folder."""
    with suppress(OSError):  # a folder that cannot be listed
        for name in os.listdir(folder):  # noqa: PTH208
            if name.startswith(f"{HIDDEN}{_ALONE}"):
                with suppress(OSError), open_regular(folder / name) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (folder / name).unlink()


def claim_name(aside: Path, path: Path) -> None:
    """Give a complete file its name, in the same folder, in one step: the name is free or belongs to a whole file.

    Two processes never get the same name.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(aside, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_new(aside, path)


_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


def _rename_new(aside: Path, path: Path) -> None:
    """Rename a file to a name that is free, on a file system without hard links."""
    try:
        _rename_without_replacing(aside, path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    else:
        return
    # Not in one step, so the folder is locked: other processes that come here wait.
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        aside.rename(path)
    finally:
        os.close(folder)


def _rename_without_replacing(aside: Path, path: Path) -> None:
    """`renameat2` of Linux, which Python does not have.

    Raises:
        OSError: FileExistsError if the name is taken; ENOSYS or EINVAL if the system or the file system cannot do it.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(aside), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def sync(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a file that was just named survives a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder that can be written, but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Create a folder and those above it, if they are missing, and write their names to the disk.

    Raises:
        OSError: one of them cannot be created, or is a file.
    """
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> io.BufferedReader | io.FileIO:
    """Open an existing file, unbuffered if it is written to. It is never a link, a device, or a pipe, which may block.

    Args:
        path: the file.
        flags: as for `os.open`: O_RDONLY or O_RDWR.

    Raises:
        OSError: it does not exist, is not a regular file, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is not a regular file", str(path))
    return os.fdopen(descriptor, "rb") if flags == os.O_RDONLY else io.FileIO(descriptor, "r+b")


def create_first_free(paths: Iterable[Path]) -> Path:
    """An empty new file under the first free name.

    Raises:
        OSError: it cannot be created.
    """
    for path in paths:
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
    raise FileExistsError(errno.EEXIST, "no name is free")


def numbered(folder: Path, name: str, first: int) -> Iterator[Path]:
    """Paths in `folder` by a pattern such as "grid-{:04}.png", counting from `first`."""
    return (folder / name.format(number) for number in count(first))


def variants(path: Path) -> Iterator[Path]:
    """The path, then `name-2.png`, `name-3.png` and so on."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))


def cannot_write(path: Path, error: OSError, flag: str) -> OutputError:
    """The system's error as an `OutputError`. `flag` names another place."""
    fix = f"Pass another place with {flag}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = f"Free some space, or pass another place with {flag}."
    elif error.errno == errno.EFBIG:
        fix = "Raise the limit of file sizes, for example with: ulimit -f unlimited"
    return OutputError(f"cannot write to {path}", why=f"{error.strerror or error}.", fix=fix)
