"""Where prompts come from: a flag, or a file of one prompt a line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sdcli.errors import InputFileError
from sdcli.settings import Settings


class PromptFile:
    """A text file of prompts, one a line, checked once and read anew on each pass.

    Every line counts, an empty one too, as in the original. UTF-8, with or without a byte order mark, with LF or CRLF.

    Raises:
        InputFileError: missing, a folder, unreadable, empty, binary or not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = sum(1 for _ in self)
        if not self.count:
            raise InputFileError(f"prompt file {path} is empty", fix="Write one prompt on each line.")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield self._decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number)
        except FileNotFoundError:
            raise InputFileError(f"prompt file {self.path} does not exist", fix="Check the path.") from None
        except IsADirectoryError:
            raise InputFileError(f"prompt file {self.path} is a folder", fix="Name a text file in it.") from None
        except OSError as error:
            raise InputFileError(f"prompt file {self.path} cannot be read", why=os.strerror(error.errno or 0)) from None

    def _decode(self, line: bytes, number: int) -> str:
        if b"\0" in line:
            raise InputFileError(
                f"prompt file {self.path} is binary",
                why=f"There is a zero byte in line {number}.",
                fix="Give a text file, one prompt on each line, in UTF-8.",
            )
        try:
            return line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputFileError(
                f"prompt file {self.path} is not UTF-8",
                why=f"Line {number} holds the byte 0x{line[error.start]:02x}.",
                fix=f"Convert it, for example: iconv -f LATIN1 -t UTF-8 {self.path} > prompts.txt",
            ) from None


def chunks(settings: Settings) -> Iterator[list[str]]:
    """The run's prompts, cut into batches of at most `n_samples`, in the original's order.

    One prompt fills each batch with itself. A file is cut into batches of its lines, the last one maybe short, and
    repeated as a whole `n_iter` times.
    """
    file = PromptFile(Path(settings.from_file)) if settings.from_file is not None else None
    for _ in range(settings.n_iter):
        if file is None:
            yield [settings.prompt] * settings.n_samples
            continue
        batch: list[str] = []
        for line in file:
            batch.append(line)
            if len(batch) == settings.n_samples:
                yield batch
                batch = []
        if batch:
            yield batch


def count(settings: Settings) -> int:
    """How many pictures the run draws; reads the prompt file through, so a bad one is refused here."""
    if settings.from_file is None:
        return settings.n_samples * settings.n_iter
    return len(PromptFile(Path(settings.from_file))) * settings.n_iter
