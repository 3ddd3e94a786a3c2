"""Where prompts come from: a flag, or a file of text, JSON Lines or CSV, read line by line and never held.

What is asked for leaves this room as one `Request` a picture, in the order of the run.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sdcli.errors import InputFileError, SdcliError
from sdcli.expansion import Template, Wildcards
from sdcli.settings import Settings, prompt_format, spellings

STDIN = "-"
ROW_SETTINGS = (
    "prompt", "negative_prompt", "seed", "rng", "steps", "sampler", "scale", "eta", "height", "width", "precision",
    "images_per_prompt",
)  # fmt: skip
"""What a row of JSON Lines or CSV may say of its pictures, beside `out`, the name of their file."""
_NAMES = spellings()


@dataclass(frozen=True)
class Row:
    """One row of what is to be drawn.

    settings: the run's, with what the row says over them.
    said: the settings that the row says, by name.
    out: the name that the row gives its file.
    """

    prompt: str
    settings: Settings
    said: frozenset[str] = frozenset()
    out: str | None = None


@dataclass(frozen=True)
class Request:
    """One picture, as it is asked for.

    prompt: with every choice made.
    settings: of its row.
    index: its place in the run, from 0.
    iteration: which pass over the prompts it is in, from 0; a batch ends where its pass does.
    seed: the picture's own; None where it takes its noise from the run's stream.
    out: the name that its row gives the file.
    """

    prompt: str
    settings: Settings
    index: int
    iteration: int
    seed: int | None = None
    out: str | None = None


class Prompts:
    """The prompts of a run.

    Args:
        settings: the run's.
        check: raises an error for a row that cannot be drawn.
        on_bad: is told of each row that is wrong, and the run goes on without it; by default it ends there.
    """

    def __init__(
        self,
        settings: Settings,
        check: Callable[[Row], None] = lambda row: None,
        on_bad: Callable[[InputFileError], None] | None = None,
    ) -> None:
        self.settings = settings
        self._check = check
        self._on_bad = on_bad
        self._wildcards = Wildcards(Path(settings.wildcards))
        self._file = None if settings.from_file is None else _File(settings.from_file, again=settings.n_iter > 1)
        self._run_said = {
            name: getattr(settings, name) for name in settings.model_fields_set - {"plms", "dpm_solver", "laion400m"}
        }

    def look(self) -> int | None:
        """Read all before anything is drawn, and count the pictures; None for a stream, which cannot be read twice.

        Raises:
            InputFileError: a row is wrong and the run is to end there, or there is no right one.
        """
        if self._file is not None and self._file.is_stream:
            return None
        return sum(self._pictures(row)[0] for row in self._rows(tell=False)) * self.settings.n_iter

    def __iter__(self) -> Iterator[Request]:
        """Every picture in order; a stream is read as it comes.

        Raises:
            InputFileError: as `look`.
        """
        run = self.settings
        index = 0
        for iteration in range(run.n_iter):
            for row in self._rows(tell=iteration == 0):
                count, prompts = self._pictures(row)
                for number, prompt in enumerate(prompts):
                    seed = None
                    if "seed" in row.said:
                        # Of the same row again another picture, not the same.
                        seed = (row.settings.seed + iteration * count + number) % 2**64
                    elif run.seed_mode == "image":
                        seed = (run.seed + index) % 2**64
                    if isinstance(prompt, Template):
                        prompt = prompt.choose(run.seed if seed is None else seed, index)
                    yield Request(prompt, row.settings, index, iteration, seed, row.out)
                    index += 1

    def _pictures(self, row: Row) -> tuple[int, Iterator[str | Template]]:
        """How many pictures a row asks for in a pass, and their prompts; a template has its choices still to make."""
        alone = self._file is None and not self.settings.matrix
        of_each = row.settings.images_per_prompt or (self.settings.n_samples if alone else 1)
        if self.settings.compat:
            return of_each, (row.prompt for _ in range(of_each))
        template = Template.parse(row.prompt, self._wildcards)
        if self.settings.matrix:
            return template.combinations * of_each, (one for one in template.all() for _ in range(of_each))
        return of_each, (template for _ in range(of_each))

    def _rows(self, *, tell: bool) -> Iterator[Row]:
        """The right rows of one pass; `tell` of the wrong ones."""
        if self._file is None:
            row = Row(self.settings.prompt, self.settings)
            self._check(row)
            yield row
            return
        kind = prompt_format(self.settings.from_file, self.settings.prompt_format)
        read = {"jsonl": _json_lines, "csv": _csv}.get(kind, _every_line if self.settings.compat else _text)
        right, wrong = False, None
        for place, said in read(self._file):
            try:
                row = self._row(said, place)
            except InputFileError as error:
                if self._on_bad is None:
                    raise
                if tell:
                    self._on_bad(error)
                wrong = wrong or error
                continue
            right = True
            yield row
        if right:
            return
        if wrong is not None:
            raise InputFileError(
                f"prompt file {self._file.name} has no row that can be drawn", why=f"{wrong.what}.", fix=wrong.fix
            )
        raise InputFileError(f"prompt file {self._file.name} is empty", fix="Write one prompt on each line.")

    def _row(self, said: str | Mapping[str, Any] | InputFileError, place: str) -> Row:
        """Raises `InputFileError` for a row that is wrong."""
        if isinstance(said, InputFileError):
            raise said
        try:
            if isinstance(said, str):
                row = Row(said, self.settings)
            else:
                values = _by_name(said)
                prompt, out = values.pop("prompt"), values.pop("out", None)
                settings = Settings.of(**(self._run_said | values)) if values else self.settings
                row = Row(prompt, settings, frozenset(values), out)
            self._check(row)
            # That the wildcards of the prompt are there.
            self._pictures(row)
        except SdcliError as error:
            raise InputFileError(f"{place}: {error.what}", why=error.why, fix=error.fix) from error
        return row


def _by_name(said: Mapping[str, Any]) -> dict[str, Any]:
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
                f"a picture has no setting {key}",
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


class _File:
    """A file of lines, read once a pass. What cannot be read twice is kept aside on disk if it is to be."""

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


def _every_line(file: _File) -> Iterator[tuple[str, str | InputFileError]]:
    """Text as the original reads it: every line is a prompt, and ends where `str.splitlines` ends it."""
    for place, text in file.decoded():
        if isinstance(text, InputFileError):
            yield place, text
        else:
            yield from ((place, line) for line in text.splitlines())


def _text(file: _File) -> Iterator[tuple[str, str | InputFileError]]:
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


def _json_lines(file: _File) -> Iterator[tuple[str, Mapping[str, Any] | InputFileError]]:
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


def _csv(file: _File) -> Iterator[tuple[str, Mapping[str, Any] | InputFileError]]:
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
                _by_name(dict.fromkeys(header, "name"))
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


def _line(file: _File, reader: Any) -> str:
    return f"{file.name}, line {reader.line_num}"
