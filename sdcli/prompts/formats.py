"""Formats of prompt files: each reads a `PromptFile` into rows. `PROMPT_FORMATS` in `sdcli/settings.py` lists them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

from sdcli.errors import InputFileError
from sdcli.prompts.files import PromptFile, Rows, row_settings
from sdcli.settings import spellings
from sdcli.suggestions import spelling
from sdcli.terminal import shortened

_LARGEST_JSON = 100_000_000
"""Bytes of a JSON array, which is parsed as a whole."""
_OTHER_SUFFIXES = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".xml": "XML"}
_ARRAY = re.compile(r'\[\s*(?:$|\]\s*$|\{\s*(?:"|$)|"(?:[^"\\]|\\.)*"\s*(?:[,\]]?\s*$|,\s*"))')
_OBJECT = re.compile(r'\{\s*(?:$|"[^"]*"\s*:)')
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


def every_line(file: PromptFile) -> Rows:
    """Text as the original reads it: every line of `str.splitlines` is a prompt."""
    for place, text in file.decoded():
        if isinstance(text, InputFileError):
            yield place, text
        else:
            yield from ((place, line) for line in text.splitlines())


def text(file: PromptFile) -> Rows:
    """Text without blank lines and lines that begin with #."""
    first = True
    for place, line in every_line(file):
        if isinstance(line, str):
            if not line.strip() or line.startswith("#"):
                continue
            if first and line.startswith("{") and isinstance(_parsed(line), dict):
                raise _not_text(place, "a JSON object", "jsonl", "--compat")
        first = False
        yield place, line


def by_content(file: PromptFile) -> Rows:
    """Text in a file that no suffix names. A file that is clearly another format is refused."""
    if file.path is not None and (name := _OTHER_SUFFIXES.get(file.path.suffix.lower())):
        raise InputFileError(
            f"prompt file {file.name} is {name}, which sdcli does not read",
            fix="Convert it to JSON Lines or CSV, or pass --prompt-format text if each line is a prompt.",
        )
    first = True
    for place, line in text(file):
        if first and isinstance(line, str):
            plain = line.strip()
            if _ARRAY.match(plain):
                raise _not_text(place, "the start of a JSON array", "json", "--prompt-format text")
            if _OBJECT.match(plain):
                raise _not_text(place, "the start of a JSON object", "json", "--prompt-format text")
            if _is_header(line):
                raise _not_text(place, "a header with tabs", "tsv", "--prompt-format text")
        first = False
        yield place, line


def _not_text(place: str, what: str, format: str, otherwise: str) -> InputFileError:
    return InputFileError(
        f"{place}: the line is {what}, and the file is read as text",
        fix=f"Pass --prompt-format {format}, or {otherwise} if it is a prompt.",
    )


def _is_header(line: str) -> bool:
    """Whether a line has names between tabs, and one of them is the prompt."""
    columns = [column.strip(' "').lower() for column in line.split("\t")]
    return len(columns) > 1 and "prompt" in columns


def json_lines(file: PromptFile) -> Rows:
    """JSON Lines: an object on each line."""
    for place, line in file.decoded():
        if isinstance(line, InputFileError):
            yield place, line
        elif line.strip():
            value = _parsed(line)
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


def json_array(file: PromptFile) -> Rows:
    """A JSON array of prompts or of objects. It is read as a whole.

    Raises:
        InputFileError: it is not a JSON array, or larger than `_LARGEST_JSON`.
    """
    lines, size = [], 0
    for _, line in file.decoded():
        if isinstance(line, InputFileError):
            raise line
        lines.append(line)
        size += len(line)
        if size > _LARGEST_JSON:
            raise InputFileError(
                f"prompt file {file.name} is a JSON array of more than {_LARGEST_JSON // 10**6} MB",
                fix="Convert it to JSON Lines, for example: jq -c '.[]' FILE > prompts.jsonl",
            )
    whole = "".join(lines)
    if not whole.strip():
        return
    rows = _parsed(whole)
    if isinstance(rows, ValueError):
        several = isinstance(rows, json.JSONDecodeError) and rows.msg == "Extra data" and whole.lstrip()[:1] == "{"
        raise InputFileError(
            f"prompt file {file.name} is not JSON",
            why=f"{rows}.",
            fix="If it has an object on each line, pass --prompt-format jsonl." if several else "",
        )
    if not isinstance(rows, list):
        raise InputFileError(
            f"prompt file {file.name} is not a JSON array",
            fix='Write rows such as ["a cat", {"prompt": "a dog", "seed": 7}].',
        )
    for number, row in enumerate(rows, 1):
        place = f"{file.name}, item {number}"
        if isinstance(row, (str, dict)):
            yield place, {"prompt": row} if isinstance(row, str) else row
        else:
            yield place, InputFileError(f"{place}: {shortened(json.dumps(row))} is not a prompt or a JSON object")


def _parsed(text: str) -> Any:
    """The JSON value, or the error that it is not valid."""
    try:
        return _JSON.decode(text)
    except RecursionError:
        return ValueError("it is nested too deep")
    except ValueError as error:
        return error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` if a name is set twice."""
    if len(found := dict(pairs)) < len(pairs):
        twice = min(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"{shortened(twice)} is set twice")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_once)


def comma_separated(file: PromptFile) -> Rows:
    """CSV with a header. Semicolons, as Excel writes in many countries, and tabs separate the columns too."""
    return _table(file, None)


def tab_separated(file: PromptFile) -> Rows:
    """As CSV, with tabs."""
    return _table(file, "\t")


def _table(file: PromptFile, delimiter: str | None) -> Rows:
    """A table with a header. A row may span lines; its place is its last line.

    Args:
        file: the file.
        delimiter: the character between columns; None if the header decides.
    """
    wrong: list[InputFileError] = []

    def lines() -> Iterator[str]:
        for place, line in file.lines():
            decoded = file.decode(line, place)
            if isinstance(decoded, InputFileError):
                wrong.append(decoded)
                # Its quotes and commas still decide where the row ends.
                decoded = line.decode(errors="replace")
            yield decoded

    rest = lines()
    before: list[str] = []
    for line in rest:
        before.append(line)
        if not line.strip():
            continue
        separator = re.fullmatch(r'"?sep=([,;\t])"?', line.rstrip("\r\n"), re.IGNORECASE)
        if separator is None:
            break
        # A line that Excel reads. It counts, but it is not a row.
        delimiter, before[-1] = separator[1], "\n"
    if delimiter is None:
        header_line = before[-1] if before else ""
        delimiter = next((mark for mark in ",;\t" if mark in header_line), ",")
    reader = csv.reader(chain(before, rest), strict=True, delimiter=delimiter)
    header: list[str] = []
    while True:
        if header:
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
                    fix='Put a field that contains a comma in quotes: "a cat, asleep".'
                    if delimiter == ","
                    else f"Put a field that contains the separator {delimiter!r} in quotes.",
                ),
            )
        else:
            # An empty field is CSV's only way to leave a setting out.
            found = {name: field for name, field in zip(header, fields, strict=True) if field}
            yield place, _with_points(found) if delimiter != "," else found


def _with_points(row: dict[str, str]) -> dict[str, str]:
    """The fields of a row with decimal points: where Excel writes semicolons, it writes decimal commas."""
    numbers = {each for each, name in spellings().items() if name in ("scale", "eta")}
    return {
        name: field.replace(",", ".")
        if spelling(name).lower() in numbers and _DECIMAL_COMMA.fullmatch(field)
        else field
        for name, field in row.items()
    }


def _line(file: PromptFile, reader: Any) -> str:
    return f"{file.name}, line {reader.line_num}"
