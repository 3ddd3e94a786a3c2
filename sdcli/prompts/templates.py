r"""Prompts in which something is open: alternatives such as `{a|b|c}`, and wildcards such as `__animals/cats__`.

    {a|b|}      one of what lies between the bars, as written; it may be empty, and hold choices and wildcards itself
    __name__    one of the lines of FOLDER/name.txt, in which things may be open as well
    \{ \| \} \_ these signs themselves; any other backslash is an ordinary sign

Braces that hold no bar of their own, or do not close, are ordinary signs too.
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
"""How deep choices and wildcards may lie in one another, far above what anyone means and below what Python bears."""

_SIGNS = re.compile(r"\\(?P<literal>[{|}_])|__(?P<name>(?!_)(?:(?!__)[\w/-])+)__|[{|}]")


class Wildcards:
    """Lists of words, one file NAME.txt each, in a folder; each read once, when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, tuple[str, ...]] = {}
        # By the wildcards' names, so that many prompts, and many lines, share what was parsed once.
        self._choices: dict[str, _Choice] = {}

    def lines(self, name: str) -> tuple[str, ...]:
        """The lines of NAME.txt, stripped, without blank ones and those that begin with `#`.

        Raises:
            InputFileError: no such file, outside the folder, unreadable, binary, not UTF-8, or no line that counts.
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
                fix="Name a file in that folder, or another folder with --wildcards FOLDER.",
            )
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise InputFileError(
                f"wildcard __{name}__ has no file {path}",
                why=self._nearest(name),
                fix=f"Say where the lists are with --wildcards FOLDER, or write \\__{name}__ for these very signs.",
            ) from None
        except OSError as error:
            raise InputFileError(
                f"wildcard file {path} cannot be read", why=f"{os.strerror(error.errno or 0)}."
            ) from error
        if b"\0" in data:
            raise InputFileError(f"wildcard file {path} is binary", fix="Give a text file, in UTF-8.")
        try:
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise InputFileError(
                f"wildcard file {path} is not UTF-8",
                why=f"Line {line} holds the byte 0x{error.object[error.start]:02x}.",
                fix=f"Convert it, for example: iconv -f LATIN1 -t UTF-8 {path} > new.txt",
            ) from error
        found = tuple(line for line in lines if line and not line.startswith("#"))
        if not found:
            raise InputFileError(
                f"wildcard file {path} is empty",
                why="Blank lines and lines that begin with # do not count.",
                fix="Write one alternative on each line.",
            )
        return found

    def _nearest(self, name: str) -> str:
        """What may have been meant by a name that has no file; a file in a subfolder may lack the folder's name."""
        if not self.folder.is_dir():
            return f"There is no folder {self.folder}."
        names = [path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.rglob("*.txt")]
        names = sorted(known for known in names if _SIGNS.fullmatch(f"__{known}__"))
        spellings = {known.rpartition("/")[2]: known for known in names} | {known: known for known in names}
        near = dict.fromkeys(spellings[spelling] for spelling in difflib.get_close_matches(name, spellings))
        return f"Did you mean {' or '.join(f'__{known}__' for known in near)}?" if near else ""


@dataclass(frozen=True)
class Template:
    """A prompt in which some things are open."""

    _parts: tuple[str | _Choice, ...]

    @classmethod
    def parse(cls, text: str, wildcards: Wildcards) -> Template:
        """The template that a text is. Every wildcard that it may come to is read, so no error is left for later.

        Raises:
            InputFileError: a wildcard that cannot be read or leads back to itself, or too much in one another.
        """
        return cls(_parse(text, wildcards, ()))

    @property
    def combinations(self) -> int:
        """How many prompts `all` gives, without listing them."""
        return math.prod(part.combinations for part in self._parts if not isinstance(part, str))

    def choose(self, seed: int, index: int) -> str:
        """One prompt, by the seed and the image's index, the same on any machine."""
        numbers = count()

        # Not `random`, which promises the same numbers in every version of Python for few of its methods.
        def decide(options: int) -> int:
            digest = sha256(f"{seed} {index} {next(numbers)}".encode()).digest()
            return int.from_bytes(digest[:8], "big") % options

        return self._decided(decide)

    def all(self) -> Iterator[str]:
        """Every combination in order, the last open thing changing fastest; the same words come once for each way."""
        return map(self._at, range(self.combinations))

    def _decided(self, decide: Callable[[int], int]) -> str:
        return "".join(
            part if isinstance(part, str) else part.options[decide(len(part.options))]._decided(decide)
            for part in self._parts
        )

    def _at(self, number: int) -> str:
        """The combination of that number, from 0: the parts are its digits, each with its own base."""
        words = []
        for part in reversed(self._parts):
            if isinstance(part, str):
                words.append(part)
            else:
                number, digit = divmod(number, part.combinations)
                words.append(part.at(digit))
        return "".join(reversed(words))


@dataclass(frozen=True)
class _Choice:
    """One of several templates: alternatives in braces, or the lines of a wildcard."""

    options: tuple[Template, ...]

    @cached_property
    def depth(self) -> int:
        """How many choices lie in one another, this one counted."""
        inner = (part.depth for option in self.options for part in option._parts if not isinstance(part, str))
        return 1 + max(inner, default=0)

    @cached_property
    def _ends(self) -> list[int]:
        """The number of combinations up to each option and with it."""
        return list(accumulate(option.combinations for option in self.options))

    @property
    def combinations(self) -> int:
        return self._ends[-1]

    def at(self, number: int) -> str:
        """The combination of that number, from 0."""
        option = bisect_right(self._ends, number)
        return self.options[option]._at(number - (self._ends[option - 1] if option else 0))


def _parse(text: str, wildcards: Wildcards, trail: tuple[str, ...]) -> tuple[str | _Choice, ...]:
    """The parts of a text.

    Args:
        trail: the wildcards that led to the text, the last of which it is a line of.
    """
    # Files of a million prompts have nothing open, most of them.
    if "{" not in text and "__" not in text and "\\" not in text:
        return (text,)
    parts: list[str | _Choice] = []
    # For each open brace, where it and its bars stand among the parts: as plain signs, which they remain unless a
    # brace closes that has bars.
    marks: list[list[int]] = []
    end = 0
    for sign in _SIGNS.finditer(text):
        parts.append(text[end : sign.start()])
        end = sign.end()
        if sign["name"]:
            parts.append(_wildcard(sign["name"], wildcards, trail))
            continue
        if sign[0] == "{":
            marks.append([])
        if marks and not sign["literal"]:
            marks[-1].append(len(parts))
        parts.append(sign["literal"] or sign[0])
        if marks and sign[0] == "}":
            places = marks.pop()
            if len(places) > 2:
                choice = _Choice(tuple(Template(tuple(parts[a + 1 : b])) for a, b in pairwise(places)))
                parts[places[0] :] = [_bearable(choice, text)]
    return (*parts, text[end:])


def _wildcard(name: str, wildcards: Wildcards, trail: tuple[str, ...]) -> _Choice:
    """The choice between a wildcard's lines."""
    if name in wildcards._choices:
        return wildcards._choices[name]
    if name in trail:
        circle = [*trail[trail.index(name) :], name]
        raise InputFileError(
            f"wildcard __{name}__ leads back to itself: {' -> '.join(circle)}",
            fix=f"Take __{name}__ out of {wildcards.folder / f'{trail[-1]}.txt'}.",
        )
    if len(trail) == DEPTH:
        raise _too_deep(f"__{trail[0]}__")
    try:
        lines = wildcards.lines(name)
    except InputFileError as error:
        if trail:
            error.why = f"{error.why} __{name}__ is asked for in {wildcards.folder / f'{trail[-1]}.txt'}.".lstrip()
        raise
    choice = _Choice(tuple(Template(_parse(line, wildcards, (*trail, name))) for line in lines))
    wildcards._choices[name] = _bearable(choice, f"__{name}__")
    return choice


def _bearable(choice: _Choice, text: str) -> _Choice:
    if choice.depth > DEPTH:
        raise _too_deep(text)
    return choice


def _too_deep(text: str) -> InputFileError:
    return InputFileError(
        f"too many choices in one another in {text if len(text) <= 60 else f'{text[:60]}...'}",
        why=f"Braces in braces, and wildcards in the lines of wildcards, may go {DEPTH} deep.",
        fix="Say the same with fewer levels.",
    )
