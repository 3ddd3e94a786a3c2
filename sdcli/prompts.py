"""Where prompts come from: a flag, or a file of one prompt a line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdcli.errors import InputFileError
from sdcli.settings import Settings


def read(settings: Settings) -> list[str]:
    """The prompts of one pass: the file's lines, or the one prompt `n_samples` times.

    A file is read once, so that a pipe does as well.

    Raises:
        InputFileError: a prompt file that cannot be read as one.
    """
    if settings.from_file is None:
        return [settings.prompt] * settings.n_samples
    return read_lines(Path(settings.from_file))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, with or without a byte order mark.

    Every line counts, an empty one too, and lines end where the original ends them (`str.splitlines`).

    Raises:
        InputFileError: missing, a folder, unreadable, empty, binary or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputFileError(f"prompt file {path} does not exist", fix="Check the path.") from None
    except IsADirectoryError:
        raise InputFileError(f"prompt file {path} is a folder", fix="Name a text file in it.") from None
    except OSError as error:
        raise InputFileError(f"prompt file {path} cannot be read", why=f"{os.strerror(error.errno or 0)}.") from error
    if b"\0" in data:
        raise InputFileError(
            f"prompt file {path} is binary",
            why=f"There is a zero byte in line {_line_of(data, data.index(0))}.",
            fix="Give a text file, one prompt on each line, in UTF-8.",
        )
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputFileError(
            f"prompt file {path} is not UTF-8",
            why=f"Line {_line_of(error.object, error.start)} holds the byte 0x{error.object[error.start]:02x}.",
            fix=f"Convert it, for example: iconv -f LATIN1 -t UTF-8 {path} > prompts.txt",
        ) from error
    if not lines:
        raise InputFileError(f"prompt file {path} is empty", fix="Write one prompt on each line.")
    return lines


def _line_of(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def batches(prompts: Sequence[str], settings: Settings) -> Iterator[Sequence[str]]:
    """The run's prompts in the original's order: cut into batches of at most `n_samples`, all of it `n_iter` times."""
    for _ in range(settings.n_iter):
        for start in range(0, len(prompts), settings.n_samples):
            yield prompts[start : start + settings.n_samples]
