"""New files: whole or not at all, and never over another file."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sdcli.errors import OutputError

HIDDEN = ".sdcli-"
"""Prefix of files that are being written."""


def write_new(path: Path, data: bytes) -> Path:
    """Write a new file.

    Raises:
        FileExistsError: the name is taken.
        OSError: it cannot be written; nothing is left behind.
    """
    with written_aside(data, path.absolute().parent) as aside:
        claim_name(aside, path)
    return path


@contextmanager
def written_aside(data: bytes, folder: Path, token: str = "") -> Iterator[Path]:
    """A complete file under a hidden name in `folder`, ready for `claim_name`; removed at the end.

    Args:
        data: the content.
        folder: where.
        token: end of the hidden name; by default a random one.
    """
    aside = folder / f"{HIDDEN}{token or f'one-{uuid.uuid4().hex}'}"
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink()


def claim_name(aside: Path, path: Path) -> None:
    """Give a complete file its name. Two processes never get the same name.

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
        # The file system has no hard links: claim the name with an empty file, then replace it by the complete one.
        claimed = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            os.close(claimed)
            aside.replace(path)
        except BaseException:  # an interruption must not leave the empty file either
            path.unlink(missing_ok=True)
            raise


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
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        f"cannot write to {path}",
        why=f"{error.strerror or error}.",
        fix=f"Free some space, or pass another place with {flag}." if full else f"Pass another place with {flag}.",
    )
