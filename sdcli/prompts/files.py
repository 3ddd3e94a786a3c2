"""Prompt files: rows with the place of each, decoded line by line."""

from __future__ import annotations

import codecs
import os
import shlex
import stat
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from sdcli.errors import InputFileError
from sdcli.settings import RANDOM, is_text, names, seeds, spellings
from sdcli.suggestions import did_you_mean, elsewhere, near, spelling
from sdcli.terminal import shortened

STDIN = "-"
LONGEST_LINE = 10_000_000
"""Bytes of a line. A longer one is not a prompt; the lines of some devices never end."""
_IN_MEMORY = 2**24
"""Bytes of a file that are kept in memory between the passes; a longer file is copied to a temporary file."""

Content = str | Mapping[str, Any] | InputFileError
"""A row: a prompt, or settings by the names that the file uses, or the error that makes it unreadable."""
Rows = Iterator[tuple[str, Content]]
"""Each row's place, for messages, and its content."""


def row_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row by their own names. Null and empty values are left out, and so is the seed -1 or random:
    the row then has the seed of the run, so that a run can be resumed.

    Raises:
        InputFileError: an unknown or repeated name, or no prompt.
    """
    allowed = [*names(row=True), "out"]
    known = spellings()
    values: dict[str, Any] = {}
    for key, value in row.items():
        plain = spelling(key)
        name = "out" if plain.lower() == "out" else known.get(plain) or known.get(plain.lower())
        if name not in allowed:
            raise InputFileError(
                f"an image has no setting {shortened(key)}",
                why=elsewhere(key) or did_you_mean(near(key, allowed, most=1)),
                fix=f"A row can set: {', '.join(allowed)}.",
            )
        if value is None or (value == "" and name not in ("prompt", "negative_prompt")):
            continue
        if name == "seed" and seeds(value) == RANDOM:
            continue
        if name in values:
            raise InputFileError(f"{name} is set twice", fix="Remove one of them.")
        values[name] = value
    if "prompt" not in values:
        raise InputFileError("the row has no prompt", fix="Every row needs one; a CSV file needs a column prompt.")
    for name in ("prompt", "out"):
        if not isinstance(values.get(name, ""), str):
            raise InputFileError(f"{name} {shortened(repr(values[name]))} is not text", fix="Put it in quotes.")
    for name, value in values.items():
        # JSON can express it, and no file can store it.
        if isinstance(value, str) and not is_text(value):
            raise InputFileError(f"{name} {value!r} contains half of a character", fix="Write both halves, or neither.")
    return values


def not_utf8(error: UnicodeDecodeError, name: str, where: str = "It") -> tuple[str, str]:
    """Why bytes are not UTF-8, and the command that converts the file.

    Args:
        error: of decoding them.
        name: the path of the file.
        where: the part of the file that contains them, as the subject of a sentence.
    """
    why = f"{where} contains the byte 0x{error.object[error.start]:02x}."
    try:
        # What Windows calls ANSI. It equals Latin-1, except that it has letters and quotes for 0x80 to 0x9f.
        error.object.decode("cp1252")
    except UnicodeDecodeError:
        return why, f"Convert it to UTF-8 with iconv; the command file {shlex.quote(name)} guesses its encoding."
    return why, f"Convert it, for example: iconv -f CP1252 -t UTF-8 {shlex.quote(name)} > new.txt"


class PromptFile:
    """A file of rows, read once for each pass, with the content that it has when it is first read.

    Args:
        name: its path; `-` is standard input.
        again: whether there is more than one pass.

    Raises:
        InputFileError: it does not exist, is not a file, or is standard input without content.
    """

    def __init__(self, name: str, *, again: bool) -> None:
        self.name = "standard input" if name == STDIN else name
        self.path = None if name == STDIN else Path(name)
        self.again = again
        self.kept: IO[bytes] | None = None
        if self.path is None and _is_nothing(sys.stdin):
            raise self.empty()
        try:
            mode = 0 if self.path is None else self.path.stat().st_mode
            self.is_stream = not stat.S_ISREG(mode)
            if stat.S_ISDIR(mode):
                raise InputFileError(f"prompt file {name} is a folder", fix="Pass a file in it.")
            if self.path is not None and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not _is_terminal(self.path):
                raise InputFileError(f"prompt file {name} is a device", fix="Pass a file, a pipe, or - .")
        except FileNotFoundError:
            raise InputFileError(f"prompt file {name} does not exist", fix="Check the path.") from None
        except OSError as error:
            raise InputFileError(f"prompt file {name} cannot be read", why=f"{error.strerror}.") from error

    def empty(self) -> InputFileError:
        """The error of a file without rows."""
        return InputFileError(f"prompt file {self.name} is empty", fix="Write one prompt on each line.")

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Each line's place, and the line in UTF-8 with its line end.

        Raises:
            InputFileError: the file cannot be read, or a line is longer than `LONGEST_LINE`.
        """
        number = 0
        try:
            for number, line in enumerate(self._in_utf8(self._read()), 1):
                yield f"{self.name}, line {number}", line
        except UnicodeDecodeError as error:
            raise InputFileError(
                f"{self.name}, line {number + 1}: the line is not UTF-16",
                why=f"The file begins as UTF-16, and {error.reason}.",
                fix="Save it as UTF-8.",
            ) from None
        except OSError as error:
            raise InputFileError(
                f"prompt file {self.name} cannot be read", why=f"{os.strerror(error.errno or 0)}."
            ) from error

    def decoded(self) -> Iterator[tuple[str, str | InputFileError]]:
        """As `lines`, decoded; an error in place of a line that is not text."""
        for place, line in self.lines():
            yield place, self.decode(line, place)

    def decode(self, line: bytes, place: str) -> str | InputFileError:
        """A line, decoded, or the error that it is not text."""
        if b"\0" in line:
            return InputFileError(
                f"{place}: the file is binary",
                why="It contains a zero byte.",
                fix="Pass a text file in UTF-8, one prompt on each line.",
            )
        try:
            return line.decode("utf-8-sig" if place.endswith(", line 1") else "utf-8")
        except UnicodeDecodeError as error:
            why, fix = not_utf8(error, "FILE" if self.path is None else str(self.path))
            return InputFileError(f"{place}: the line is not UTF-8", why=why, fix=fix)

    @staticmethod
    def _in_utf8(lines: Iterable[bytes]) -> Iterator[bytes]:
        """The lines of a file in UTF-8, or in UTF-16 with a byte order mark, as Windows writes it."""
        decoder: codecs.IncrementalDecoder | None = None
        text = ""
        for number, line in enumerate(lines):
            if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                decoder = codecs.getincrementaldecoder("utf-16")()
            if decoder is None:
                yield line
                continue
            *whole, text = (text + decoder.decode(line)).split("\n")
            yield from (f"{part}\n".encode() for part in whole)
        if decoder is not None:
            text += decoder.decode(b"", final=True)
            if text:
                yield text.encode()

    def _read(self) -> Iterator[bytes]:
        if self.kept is not None:
            self.kept.seek(0)
            yield from self._split(self.kept)
        elif self.path is None:
            if sys.stdin is None:
                raise InputFileError("standard input is closed", fix="Pipe prompts to it, or pass a file.")
            yield from self._stream(sys.stdin.buffer)
        else:
            with self.path.open("rb") as file:
                if self.is_stream:
                    yield from self._stream(file)
                    return
                # A copy: another process may append to the file, or write another one, during the run.
                kept = self._new_copy()
                left = os.fstat(file.fileno()).st_size
                while left > 0 and (data := file.read(min(left, 2**20))):
                    kept.write(data)
                    left -= len(data)
            self.kept = kept
            yield from self._read()

    def _stream(self, file: IO[bytes]) -> Iterator[bytes]:
        if not self.again:
            yield from self._split(file)
            return
        self.kept = kept = self._new_copy()
        for line in self._split(file):
            kept.write(line)
            yield line

    def _split(self, file: IO[bytes]) -> Iterator[bytes]:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise InputFileError(
                    f"{self.name}, line {number}: the line is longer than {LONGEST_LINE // 10**6} MB",
                    fix="Write one prompt on each line.",
                )
            yield line

    def _new_copy(self) -> IO[bytes]:
        kept = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        # Open for as long as the prompts may be read again.
        weakref.finalize(self, kept.close)
        return kept


def _is_nothing(stream: IO[str] | None) -> bool:
    """Whether a stream is the null device or an empty file, which is known before it is read."""
    if stream is None:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a file
        return False
    null = stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116
    return null or (stat.S_ISREG(found.st_mode) and found.st_size == 0)


def _is_terminal(path: Path) -> bool:
    with path.open("rb", buffering=0) as device:
        return device.isatty()
