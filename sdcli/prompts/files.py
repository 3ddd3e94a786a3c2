"""Prompt files: rows of text, JSON Lines or CSV, read line by line and never held in memory."""

from __future__ import annotations

import csv
import difflib
import json
import os
import stat
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from sdcli.errors import InputFileError
from sdcli.settings import PromptFormat, as_choice, names, spellings

STDIN = "-"

Content = str | Mapping[str, Any] | InputFileError
"""A row: a prompt, or settings by the names that the file uses, or the error that makes it unreadable."""


def row_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row by their own names. Null and empty values are left out.

    Raises:
        InputFileError: an unknown or repeated name, or no prompt.
    """
    allowed = [*names(row=True), "out"]
    known = spellings()
    values: dict[str, Any] = {}
    for key, value in row.items():
        name = "out" if key == "out" else known.get(str(key).lstrip("-").replace("-", "_"))
        if name not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            raise InputFileError(
                f"an image has no setting {key}",
                why=f"Did you mean {near[0]}?" if near else "",
                fix=f"A row can set: {', '.join(allowed)}.",
            )
        if value is None or (value == "" and name not in ("prompt", "negative_prompt")):
            continue
        if name in values:
            raise InputFileError(f"{name} is set twice", fix="Remove one of them.")
        values[name] = value if name == "out" else as_choice(name, value)
    if "prompt" not in values:
        raise InputFileError("the row has no prompt", fix="Every row needs one; a CSV file needs a column prompt.")
    for name in ("prompt", "out"):
        if not isinstance(values.get(name, ""), str):
            raise InputFileError(f"{name} {values[name]!r} is not text", fix="Put it in quotes.")
    for name, value in values.items():
        # JSON can express it, and no file can store it.
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputFileError(f"{name} {value!r} contains half of a character", fix="Write both halves, or neither.")
    return values


class PromptFile:
    """A file of rows, read once for each pass. A stream is copied to a temporary file if it is read again.

    Args:
        name: its path; `-` is standard input.
        again: whether there is more than one pass.

    Raises:
        InputFileError: it does not exist, or is not a file.
    """

    def __init__(self, name: str, *, again: bool) -> None:
        self.name = "standard input" if name == STDIN else name
        self.path = None if name == STDIN else Path(name)
        self.again = again
        self.kept: IO[bytes] | None = None
        try:
            self.is_stream = self.path is None or not stat.S_ISREG(self.path.stat().st_mode)
            if self.path is not None and self.path.is_dir():
                raise InputFileError(f"prompt file {name} is a folder", fix="Pass a file in it.")
        except FileNotFoundError:
            raise InputFileError(f"prompt file {name} does not exist", fix="Check the path.") from None
        except OSError as error:
            raise InputFileError(f"prompt file {name} cannot be read", why=f"{error.strerror}.") from error

    def rows(self, kind: PromptFormat, *, every_line: bool = False) -> Iterator[tuple[str, Content]]:
        """Each row's place, for messages, and its content.

        Args:
            kind: "jsonl", "csv", or else text.
            every_line: for text, keep blank lines and lines that begin with #, as the original does.

        Raises:
            InputFileError: the file cannot be read, or has another format.
        """
        read = {"jsonl": _json_lines, "csv": _csv}.get(kind, _every_line if every_line else _text)
        return read(self)

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Each line's place, and the line with its line end."""
        try:
            yield from ((f"{self.name}, line {number}", line) for number, line in enumerate(self._read(), 1))
        except OSError as error:
            raise InputFileError(
                f"prompt file {self.name} cannot be read", why=f"{os.strerror(error.errno or 0)}."
            ) from error

    def decoded(self) -> Iterator[tuple[str, str | InputFileError]]:
        """As `lines`, decoded; an error in place of a line that is not text."""
        for place, line in self.lines():
            yield place, _decoded(line, place)

    def _read(self) -> Iterator[bytes]:
        if self.kept is not None:
            self.kept.seek(0)
            yield from self.kept
            return
        if self.path is None:
            if sys.stdin is None:
                raise InputFileError("standard input is closed", fix="Pipe prompts to it, or pass a file.")
            yield from self._keeping(sys.stdin.buffer)
            return
        with self.path.open("rb") as file:
            yield from self._keeping(file)

    def _keeping(self, file: IO[bytes]) -> Iterator[bytes]:
        if not (self.is_stream and self.again):
            yield from file
            return
        self.kept = tempfile.TemporaryFile()  # noqa: SIM115
        # Open for as long as the prompts may be read again.
        weakref.finalize(self, self.kept.close)
        for line in file:
            self.kept.write(line)
            yield line


def _decoded(line: bytes, place: str) -> str | InputFileError:
    if b"\0" in line:
        return InputFileError(
            f"{place}: the file is binary",
            why="It contains a zero byte.",
            fix="Pass a text file in UTF-8, one prompt on each line.",
        )
    try:
        return line.decode("utf-8-sig" if place.endswith(", line 1") else "utf-8")
    except UnicodeDecodeError as error:
        return InputFileError(
            f"{place}: the line is not UTF-8",
            why=f"It contains the byte 0x{line[error.start]:02x}.",
            fix="Convert the file, for example: iconv -f LATIN1 -t UTF-8 FILE > prompts.txt",
        )


def _every_line(file: PromptFile) -> Iterator[tuple[str, str | InputFileError]]:
    """Text as the original reads it: every line of `str.splitlines` is a prompt."""
    for place, text in file.decoded():
        if isinstance(text, InputFileError):
            yield place, text
        else:
            yield from ((place, line) for line in text.splitlines())


def _text(file: PromptFile) -> Iterator[tuple[str, str | InputFileError]]:
    """Text without blank lines and lines that begin with #."""
    first = True
    for place, line in _every_line(file):
        if isinstance(line, str) and (not line.strip() or line.startswith("#")):
            continue
        if first and isinstance(line, str) and line.startswith("{") and isinstance(_parsed(line), dict):
            raise InputFileError(
                f"{place}: the line is a JSON object, and the file is read as text",
                fix="Pass --prompt-format jsonl, or --compat if it is a prompt.",
            )
        first = False
        yield place, line


def _json_lines(file: PromptFile) -> Iterator[tuple[str, Mapping[str, Any] | InputFileError]]:
    for place, text in file.decoded():
        if isinstance(text, InputFileError):
            yield place, text
        elif text.strip():
            value = _parsed(text)
            if isinstance(value, dict):
                yield place, value
            elif isinstance(value, ValueError):
                yield place, InputFileError(f"{place}: the line is not JSON", why=f"{value}.")
            else:
                yield (
                    place,
                    InputFileError(
                        f"{place}: the line is not a JSON object",
                        fix='Write rows such as {"prompt": "a cat", "seed": 7}.',
                    ),
                )


def _parsed(text: str) -> Any:
    """The JSON value, or the error that it is not valid."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} is set twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        return ValueError("it is nested too deep")
    except ValueError as error:
        return error


def _csv(file: PromptFile) -> Iterator[tuple[str, Mapping[str, Any] | InputFileError]]:
    """CSV with a header. A row may span lines; its place is its last line."""
    wrong: list[InputFileError] = []

    def lines() -> Iterator[str]:
        for place, line in file.lines():
            text = _decoded(line, place)
            if isinstance(text, InputFileError):
                wrong.append(text)
                # Its quotes and commas still decide where the row ends.
                text = line.decode(errors="replace")
            yield text

    reader = csv.reader(lines(), strict=True)
    header: list[str] = []
    while True:
        wrong.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield _line(file, reader), InputFileError(f"{_line(file, reader)}: the row is not CSV", why=f"{error}.")
            continue
        if fields is None:
            return
        if wrong and not header:
            raise wrong[0]
        if wrong:
            yield _line(file, reader), wrong[0]
            continue
        if not any(field.strip() for field in fields):
            continue
        place = _line(file, reader)
        if not header:
            header = [field.strip() for field in fields]
            # A wrong name is wrong for every row, so the error names the header.
            try:
                if len(set(header)) < len(header):
                    raise InputFileError("a column name is used twice", fix="Remove one of the two columns.")
                row_settings(dict.fromkeys(header, "name"))
            except InputFileError as error:
                raise InputFileError(f"{place}, the header: {error.what}", why=error.why, fix=error.fix) from None
        elif len(fields) != len(header):
            yield (
                place,
                InputFileError(
                    f"{place}: the row has {len(fields)} fields, and the header has {len(header)}",
                    fix='Put a field that contains a comma in quotes: "a cat, asleep".',
                ),
            )
        else:
            # An empty field is CSV's only way to leave a setting out.
            yield place, {name: field for name, field in zip(header, fields, strict=True) if field}


def _line(file: PromptFile, reader: Any) -> str:
    return f"{file.name}, line {reader.line_num}"
