"""Prompt files: rows of text, JSON Lines or CSV, read line by line and never held."""

from __future__ import annotations

import csv
import difflib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from sdcli.errors import InputFileError
from sdcli.settings import PromptFormat, spellings

STDIN = "-"
ROW_SETTINGS = (
    "prompt", "negative_prompt", "seed", "rng", "steps", "sampler", "scale", "eta", "height", "width", "precision",
    "images_per_prompt",
)  # fmt: skip
"""What a row of JSON Lines or CSV may say of its images, beside `out`, the name of their file."""
_NAMES = spellings()

Said = str | Mapping[str, Any] | InputFileError
"""What a row holds: a prompt, or settings as they are spelt there; or why it cannot be read."""


def by_name(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says, by the settings' own names; what is null or empty is not said.

    Raises:
        InputFileError: an unknown or repeated name, or no prompt.
    """
    values: dict[str, Any] = {}
    for key, value in said.items():
        name = "out" if key == "out" else _NAMES.get(str(key).lstrip("-").replace("-", "_"))
        if name != "out" and name not in ROW_SETTINGS:
            near = difflib.get_close_matches(str(key), [*ROW_SETTINGS, "out"], n=1)
            raise InputFileError(
                f"an image has no setting {key}",
                why=f"Did you mean {near[0]}?" if near else "",
                fix=f"Those that a row may say: {', '.join(ROW_SETTINGS)}, out.",
            )
        if value is None or (value == "" and name not in ("prompt", "negative_prompt")):
            continue
        if name in values:
            raise InputFileError(f"{name} is there twice", fix="Leave one of the two out.")
        values[name] = value.replace("-", "_") if name == "sampler" and isinstance(value, str) else value
    if "prompt" not in values:
        raise InputFileError("there is no prompt", fix="Every row needs one; a CSV file a column of that name.")
    for name in ("prompt", "out"):
        if not isinstance(values.get(name, ""), str):
            raise InputFileError(f"{name} {values[name]!r} is no text", fix="Put it between quotes.")
    for name, value in values.items():
        # JSON can write it, and no file could hold it.
        if isinstance(value, str) and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise InputFileError(f"{name} {value!r} holds half of a character", fix="Write both halves, or none.")
    return values


class PromptFile:
    """A file of rows, read once a pass. What cannot be read twice is kept aside on disk if it is to be.

    Args:
        name: its path; `-` is standard input.
        again: whether there will be another pass.

    Raises:
        InputFileError: it is missing, or no file.
    """

    def __init__(self, name: str, *, again: bool) -> None:
        self.name = "standard input" if name == STDIN else name
        self.path = None if name == STDIN else Path(name)
        self.again = again
        self.kept: IO[bytes] | None = None
        try:
            self.is_stream = self.path is None or not stat.S_ISREG(self.path.stat().st_mode)
            if self.path is not None and self.path.is_dir():
                raise InputFileError(f"prompt file {name} is a folder", fix="Name a text file in it.")
        except FileNotFoundError:
            raise InputFileError(f"prompt file {name} does not exist", fix="Check the path.") from None
        except OSError as error:
            raise InputFileError(f"prompt file {name} cannot be read", why=f"{error.strerror}.") from error

    def rows(self, kind: PromptFormat, *, every_line: bool = False) -> Iterator[tuple[str, Said]]:
        """Where each row stands, for people, and what it holds.

        Args:
            kind: "jsonl", "csv", or else text.
            every_line: of text, also what is blank or begins with #, as the original has it.

        Raises:
            InputFileError: the file cannot be read, or is of another kind.
        """
        read = {"jsonl": _json_lines, "csv": _csv}.get(kind, _every_line if every_line else _text)
        return read(self)

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Where each line stands, and the line with its end."""
        try:
            yield from ((f"{self.name}, line {number}", line) for number, line in enumerate(self._read(), 1))
        except OSError as error:
            raise InputFileError(
                f"prompt file {self.name} cannot be read", why=f"{os.strerror(error.errno or 0)}."
            ) from error

    def decoded(self) -> Iterator[tuple[str, str | InputFileError]]:
        """As `lines`, as text; an error in place of what is none."""
        for place, line in self.lines():
            yield place, _decoded(line, place)

    def _read(self) -> Iterator[bytes]:
        if self.kept is not None:
            self.kept.seek(0)
            yield from self.kept
            return
        if self.path is None:
            if sys.stdin is None:
                raise InputFileError("standard input is closed", fix="Send prompts to it, or name a file.")
            yield from self._keeping(sys.stdin.buffer)
            return
        with self.path.open("rb") as file:
            yield from self._keeping(file)

    def _keeping(self, file: IO[bytes]) -> Iterator[bytes]:
        if not (self.is_stream and self.again):
            yield from file
            return
        self.kept = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the run
        for line in file:
            self.kept.write(line)
            yield line


def _decoded(line: bytes, place: str) -> str | InputFileError:
    if b"\0" in line:
        return InputFileError(
            f"{place}: this is binary",
            why="There is a zero byte in it.",
            fix="Give a text file, one prompt on each line, in UTF-8.",
        )
    try:
        return line.decode("utf-8-sig" if place.endswith(", line 1") else "utf-8")
    except UnicodeDecodeError as error:
        return InputFileError(
            f"{place}: this is not UTF-8",
            why=f"It holds the byte 0x{line[error.start]:02x}.",
            fix="Convert the file, for example: iconv -f LATIN1 -t UTF-8 FILE > prompts.txt",
        )


def _every_line(file: PromptFile) -> Iterator[tuple[str, str | InputFileError]]:
    """Text as the original reads it: every line is a prompt, and ends where `str.splitlines` ends it."""
    for place, text in file.decoded():
        if isinstance(text, InputFileError):
            yield place, text
        else:
            yield from ((place, line) for line in text.splitlines())


def _text(file: PromptFile) -> Iterator[tuple[str, str | InputFileError]]:
    """Text without its blank lines and those that begin with #."""
    first = True
    for place, line in _every_line(file):
        if isinstance(line, str) and (not line.strip() or line.startswith("#")):
            continue
        if first and isinstance(line, str) and line.startswith("{") and isinstance(_parsed(line), dict):
            raise InputFileError(
                f"{place}: this is a row of JSON, and the file is read as text",
                fix="Say --prompt-format jsonl, or --compat if it is a prompt indeed.",
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
                yield place, InputFileError(f"{place}: this is not JSON", why=f"{value}.")
            else:
                yield (
                    place,
                    InputFileError(
                        f"{place}: this is no JSON object", fix='Write rows such as {"prompt": "a cat", "seed": 7}.'
                    ),
                )


def _parsed(text: str) -> Any:
    """The JSON value, or the error that it is none."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} is there twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        return ValueError("it is nested too deep")
    except ValueError as error:
        return error


def _csv(file: PromptFile) -> Iterator[tuple[str, Mapping[str, Any] | InputFileError]]:
    """CSV with a header; a row may be several lines, and stands where it ends."""
    wrong: list[InputFileError] = []

    def lines() -> Iterator[str]:
        for place, line in file.lines():
            text = _decoded(line, place)
            if isinstance(text, InputFileError):
                wrong.append(text)
                # Its quotes and commas count all the same: they tell where the row ends.
                text = line.decode(errors="replace")
            yield text

    reader = csv.reader(lines(), strict=True)
    header: list[str] = []
    while True:
        wrong.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield _line(file, reader), InputFileError(f"{_line(file, reader)}: this is not CSV", why=f"{error}.")
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
            # Wrong names are wrong for every row, so they are told of the header.
            try:
                if len(set(header)) < len(header):
                    raise InputFileError("a name is there twice", fix="Leave one of the two columns out.")
                by_name(dict.fromkeys(header, "name"))
            except InputFileError as error:
                raise InputFileError(f"{place}, the header: {error.what}", why=error.why, fix=error.fix) from None
        elif len(fields) != len(header):
            yield (
                place,
                InputFileError(
                    f"{place}: there are {len(fields)} fields, and {len(header)} in the header",
                    fix='Put a field with a comma between quotes: "a cat, asleep".',
                ),
            )
        else:
            # CSV has no other way to say nothing.
            yield place, {name: field for name, field in zip(header, fields, strict=True) if field}


def _line(file: PromptFile, reader: Any) -> str:
    return f"{file.name}, line {reader.line_num}"
