r"""Prompt templates: alternatives such as `{a|b|c}`, and wildcards such as `__animals/cats__`.

    {a|b|}      one of the alternatives; each may be empty, or contain choices and wildcards
    __name__    one of the lines of FOLDER/name.txt, which may contain choices and wildcards, too
    \{ \| \} \_ these characters themselves; any other backslash is an ordinary character

Braces without a bar, and braces that do not close, are ordinary characters.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, count, pairwise
from pathlib import Path

from sdcli.errors import InputFileError

DEPTH = 50
"""The deepest nesting of choices and wildcards: far above any real prompt, and below the recursion limit of Python."""

_TOKEN = re.compile(r"\\(?P<literal>[{|}_])|__(?P<name>(?!_)(?:(?!__)[\w/-])+)__|[{|}]")


class Wildcards:
    """The files NAME.txt of a folder. Each is read once, when a prompt first names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, tuple[str, ...]] = {}
        # By name, so each wildcard is parsed once for all prompts.
        self._choices: dict[str, _Choice] = {}

    def lines(self, name: str) -> tuple[str, ...]:
        """The lines of NAME.txt, stripped, without blank lines and lines that begin with `#`.

        Raises:
            InputFileError: the file does not exist, is outside the folder, cannot be read, is not UTF-8, or is empty.
        """
        if name not in self._lines:
            self._lines[name] = self._read(name)
        return self._lines[name]

    def _read(self, name: str) -> tuple[str, ...]:
        relative = Path(f"{name}.txt")
        path = self.folder / relative
        if relative.anchor or ".." in relative.parts:
            raise InputFileError(
                f"wildcard __{name}__ would leave the folder {self.folder}",
                fix="Name a file in that folder, or pass another folder with --wildcards FOLDER.",
            )
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise InputFileError(
                f"wildcard __{name}__ has no file {path}",
                why=self._nearest(name),
                fix=f"Pass the folder of the file with --wildcards FOLDER, or write \\__{name}__ for this text itself.",
            ) from None
        except OSError as error:
            raise InputFileError(
                f"wildcard file {path} cannot be read", why=f"{os.strerror(error.errno or 0)}."
            ) from error
        if b"\0" in data:
            raise InputFileError(f"wildcard file {path} is binary", fix="Use a text file in UTF-8.")
        try:
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise InputFileError(
                f"wildcard file {path} is not UTF-8",
                why=f"Line {line} contains the byte 0x{error.object[error.start]:02x}.",
                fix=f"Convert it, for example: iconv -f LATIN1 -t UTF-8 {path} > new.txt",
            ) from error
        found = tuple(line for line in lines if line and not line.startswith("#"))
        if not found:
            raise InputFileError(
                f"wildcard file {path} is empty",
                why="Blank lines and lines that begin with # are ignored.",
                fix="Write one alternative on each line.",
            )
        return found

    def _nearest(self, name: str) -> str:
        """The wildcards with a similar name, as a question. The name of a subfolder may be missing from it."""
        if not self.folder.is_dir():
            return f"Folder {self.folder} does not exist."
        names = [path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.rglob("*.txt")]
        names = sorted(known for known in names if _TOKEN.fullmatch(f"__{known}__"))
        spellings = {known.rpartition("/")[2]: known for known in names} | {known: known for known in names}
        near = dict.fromkeys(spellings[spelling] for spelling in difflib.get_close_matches(name, spellings))
        return f"Did you mean {' or '.join(f'__{known}__' for known in near)}?" if near else ""


@dataclass(frozen=True)
class Template:
    """A parsed prompt: fixed text and choices, in order."""

    _parts: tuple[str | _Choice, ...]

    @classmethod
    def parse(cls, text: str, wildcards: Wildcards) -> Template:
        """Parse a prompt. Every wildcard that it can reach is read, so all errors are raised now.

        Raises:
            InputFileError: a wildcard cannot be read or contains itself, or the nesting is deeper than `DEPTH`.
        """
        return cls(_parse(text, wildcards, ()))

    @property
    def combinations(self) -> int:
        """The number of prompts that `all` yields."""
        return math.prod(part.combinations for part in self._parts if not isinstance(part, str))

    def choose(self, seed: int, index: int) -> str:
        """One prompt, chosen by the seed and the image's index. It is the same on any machine."""
        numbers = count()

        # SHA-256, because `random` may give other numbers in another version of Python.
        def pick(options: int) -> int:
            digest = sha256(f"{seed} {index} {next(numbers)}".encode()).digest()
            return int.from_bytes(digest[:8], "big") % options

        return self._chosen(pick)

    def all(self) -> Iterator[str]:
        """Every combination in order; the last choice changes fastest. Equal combinations are repeated."""
        return map(self._at, range(self.combinations))

    def _chosen(self, pick: Callable[[int], int]) -> str:
        return "".join(
            part if isinstance(part, str) else part.options[pick(len(part.options))]._chosen(pick)
            for part in self._parts
        )

    def _at(self, number: int) -> str:
        """The combination of a number, from 0. Its digits are the parts, each with its own base."""
        texts = []
        for part in reversed(self._parts):
            if isinstance(part, str):
                texts.append(part)
            else:
                number, digit = divmod(number, part.combinations)
                texts.append(part.at(digit))
        return "".join(reversed(texts))


@dataclass(frozen=True)
class _Choice:
    """A choice between templates: alternatives in braces, or the lines of a wildcard."""

    options: tuple[Template, ...]

    @cached_property
    def depth(self) -> int:
        """The number of nested choices, including this one."""
        inner = (part.depth for option in self.options for part in option._parts if not isinstance(part, str))
        return 1 + max(inner, default=0)

    @cached_property
    def _ends(self) -> list[int]:
        """The number of combinations up to each option, inclusive."""
        return list(accumulate(option.combinations for option in self.options))

    @property
    def combinations(self) -> int:
        return self._ends[-1]

    def at(self, number: int) -> str:
        """The combination of a number, from 0."""
        option = bisect_right(self._ends, number)
        return self.options[option]._at(number - (self._ends[option - 1] if option else 0))


def _parse(text: str, wildcards: Wildcards, trail: tuple[str, ...]) -> tuple[str | _Choice, ...]:
    """The parts of a text.

    Args:
        text: a prompt, or a line of a wildcard.
        wildcards: the folder of wildcards.
        trail: the wildcards that led to the text, which is a line of the last one.
    """
    # The fast path: most prompts of large files contain no choices.
    if "{" not in text and "__" not in text and "\\" not in text:
        return (text,)
    parts: list[str | _Choice] = []
    # For each open brace, the places of the brace and its bars in `parts`. They are ordinary characters until a brace
    # with bars closes.
    open_braces: list[list[int]] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        if token["name"]:
            parts.append(_wildcard(token["name"], wildcards, trail))
            continue
        if token[0] == "{":
            open_braces.append([])
        if open_braces and not token["literal"]:
            open_braces[-1].append(len(parts))
        parts.append(token["literal"] or token[0])
        if open_braces and token[0] == "}":
            places = open_braces.pop()
            if len(places) > 2:
                choice = _Choice(tuple(Template(tuple(parts[a + 1 : b])) for a, b in pairwise(places)))
                parts[places[0] :] = [_require_depth(choice, text)]
    return (*parts, text[end:])


def _wildcard(name: str, wildcards: Wildcards, trail: tuple[str, ...]) -> _Choice:
    """The choice between the lines of a wildcard."""
    if name in wildcards._choices:
        return wildcards._choices[name]
    if name in trail:
        cycle = [*trail[trail.index(name) :], name]
        raise InputFileError(
            f"wildcard __{name}__ contains itself: {' -> '.join(cycle)}",
            fix=f"Remove __{name}__ from {wildcards.folder / f'{trail[-1]}.txt'}.",
        )
    if len(trail) == DEPTH:
        raise _too_deep(f"__{trail[0]}__")
    try:
        lines = wildcards.lines(name)
    except InputFileError as error:
        if trail:
            error.why = f"{error.why} {wildcards.folder / f'{trail[-1]}.txt'} contains __{name}__.".lstrip()
        raise
    choice = _Choice(tuple(Template(_parse(line, wildcards, (*trail, name))) for line in lines))
    wildcards._choices[name] = _require_depth(choice, f"__{name}__")
    return choice


def _require_depth(choice: _Choice, text: str) -> _Choice:
    """The choice. Raises `InputFileError` if it is nested deeper than `DEPTH`."""
    if choice.depth > DEPTH:
        raise _too_deep(text)
    return choice


def _too_deep(text: str) -> InputFileError:
    return InputFileError(
        f"choices are nested too deep in {text if len(text) <= 60 else f'{text[:60]}...'}",
        why=f"Braces, and wildcards in the lines of wildcards, can be nested {DEPTH} levels deep.",
        fix="Use fewer levels.",
    )
