r"""Prompt templates: alternatives such as `{a|b|c}`, and wildcards such as `__animals/cats__`.

    {a|b|}      one of the alternatives; each may be empty, or contain choices and wildcards
    {2::a|b}    a twice as often as b
    __name__    one of the lines of FOLDER/name.txt, which may contain choices, wildcards and weights, too
    __a/b*__    one of the lines of all files in FOLDER/a that begin with b; ** stands for folders, too
    \{ \| \} \_ these characters themselves; any other backslash is an ordinary character

Braces without a bar or a weight, braces that do not close, and bars in square brackets are ordinary characters.
"""

from __future__ import annotations

import codecs
import difflib
import math
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, count, pairwise
from pathlib import Path

from sdcli.errors import InputFileError
from sdcli.prompts.files import not_utf8
from sdcli.terminal import shortened

LONGEST = 100_000
"""Characters of a prompt with choices or wildcards: more than any text encoder reads, and parsed within a second."""
DEPTH = 50
"""The deepest nesting of choices and wildcards: far above any real prompt, and below the recursion limit of Python."""

_TOKEN = re.compile(r"\\(?P<literal>[{|}_])|__(?P<name>(?![_\s])(?:(?!__)[^{|}\\\x00-\x1f])+(?<!\s))__|[{|}\[\]]")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_SEVERAL = re.compile(r"\s*[\d-]*\$\$")
_ONE = Fraction(1)
_HEAVIEST = 1_000_000
_PRECISION = 6
"""Decimal places of a weight."""


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
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        if b"\0" in data and encoding != "utf-16":
            raise InputFileError(f"wildcard file {path} is binary", fix="Use a text file in UTF-8.")
        try:
            lines = [line.strip() for line in data.decode(encoding).splitlines()]
        except UnicodeDecodeError as error:
            if encoding == "utf-16":
                raise InputFileError(f"wildcard file {path} is not UTF-16", why=f"{error.reason}.") from error
            number = error.object.count(b"\n", 0, error.start) + 1
            why, fix = not_utf8(error, str(path), f"Line {number}")
            raise InputFileError(f"wildcard file {path} is not UTF-8", why=why, fix=fix) from error
        found = tuple(line for line in lines if line and not line.startswith("#"))
        if not found:
            raise InputFileError(
                f"wildcard file {path} is empty",
                why="Blank lines and lines that begin with # are ignored.",
                fix="Write one alternative on each line.",
            )
        return found

    def matching(self, pattern: str) -> list[str]:
        """The names that a pattern with `*` matches, sorted.

        Raises:
            InputFileError: no file matches.
        """
        expression = "".join(
            {"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", pattern)
        )
        found = [name for name in self._names() if re.fullmatch(expression, name)]
        if not found:
            raise InputFileError(
                f"wildcard __{pattern}__ matches no file in {self.folder}",
                why="" if self.folder.is_dir() else f"Folder {self.folder} does not exist.",
                fix=f"Pass the folder of the files with --wildcards FOLDER, or write \\__{pattern}__ for this text "
                "itself.",
            )
        return found

    def _names(self) -> list[str]:
        """The names of all files of the folder, sorted."""
        return sorted(
            path.relative_to(self.folder).as_posix().removesuffix(".txt") for path in self.folder.rglob("*.txt")
        )

    def _nearest(self, name: str) -> str:
        """The wildcards with a similar name, as a question. The name of a subfolder may be missing from it."""
        if not self.folder.is_dir():
            return f"Folder {self.folder} does not exist."
        if len(name) > 255:
            return ""
        names = [known for known in self._names() if _TOKEN.fullmatch(f"__{known}__")]
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
            InputFileError: a wildcard cannot be read or contains itself, the nesting is deeper than `DEPTH`, or the
                text is longer than `LONGEST`.
        """
        return cls(_parse(text, wildcards, ()))

    @property
    def combinations(self) -> int:
        """The number of prompts that `all` yields."""
        return math.prod(part.combinations for part in self._parts if not isinstance(part, str))

    def has_more_than(self, limit: int) -> bool:
        """Whether `combinations` is above a limit. The number itself may have thousands of digits."""
        product = 1
        for part in self._parts:
            product *= 1 if isinstance(part, str) else part.combinations
            if product > limit:
                return True
        return False

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
        return "".join(part if isinstance(part, str) else part.pick(pick)._chosen(pick) for part in self._parts)

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
    """A choice between templates: alternatives in braces, or the lines of a wildcard.

    Attributes:
        options: the templates, without those of the weight 0.
        weights: how often each is chosen, compared with the others; None if all are chosen equally often.
    """

    options: tuple[Template, ...]
    weights: tuple[Fraction, ...] | None = None

    @classmethod
    def of(cls, weighted: Sequence[tuple[Fraction | None, Template]], text: str) -> _Choice:
        """The choice between templates. An option without a weight has the weight 1.

        Raises:
            InputFileError: every weight is 0.
        """
        if all(weight is None for weight, _ in weighted):
            return cls(tuple([option for _, option in weighted]))
        found = [(_ONE if weight is None else weight, option) for weight, option in weighted if weight != 0]
        if not found:
            raise InputFileError(f"every weight is 0 in {shortened(text)}", fix="Give one alternative another weight.")
        return cls(tuple(option for _, option in found), tuple(weight for weight, _ in found))

    @cached_property
    def _shares(self) -> Sequence[int]:
        """The sum of the weights up to each option, inclusive, in a unit in which each is a whole number."""
        if self.weights is None:
            return range(1, len(self.options) + 1)
        unit = math.lcm(*(weight.denominator for weight in self.weights))
        return list(accumulate(int(weight * unit) for weight in self.weights))

    def pick(self, pick: Callable[[int], int]) -> Template:
        """An option. `pick` returns a random number below the one that it gets."""
        return self.options[bisect_right(self._shares, pick(self._shares[-1]))]

    @cached_property
    def depth(self) -> int:
        """The number of nested choices, including this one."""
        deepest = 0
        for option in self.options:
            for part in option._parts:
                if not isinstance(part, str) and part.depth > deepest:
                    deepest = part.depth
        return deepest + 1

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


def is_plain(text: str) -> bool:
    """Whether a text has no characters that a template could read as a choice, a wildcard or an escape."""
    return not ("{" in text or "__" in text or "\\" in text)


def _parse(text: str, wildcards: Wildcards, trail: tuple[str, ...]) -> tuple[str | _Choice, ...]:
    """The parts of a text.

    Args:
        text: a prompt, or a line of a wildcard.
        wildcards: the folder of wildcards.
        trail: the wildcards that led to the text, which is a line of the last one.
    """
    # The fast path: most prompts of large files contain no choices.
    if is_plain(text):
        return (text,)
    if len(text) > LONGEST:
        raise InputFileError(
            f"a prompt with braces, wildcards or backslashes has more than {LONGEST:,} characters: {shortened(text)}",
            fix="Shorten it, or pass --compat to read it as text.",
        )
    parts: list[str | _Choice] = []
    # For each open brace, the places of the brace and its bars in `parts`. They are ordinary characters until a brace
    # with bars closes.
    open_braces: list[list[int]] = []
    # For each open square bracket, the depth of braces and the number of places before it.
    open_brackets: list[tuple[int, int]] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        if token["name"]:
            parts.append(_wildcard(token["name"], wildcards, trail))
            continue
        if token[0] == "{":
            open_braces.append([])
        if open_braces and token[0] in "{|}":
            open_braces[-1].append(len(parts))
        parts.append(token["literal"] or token[0])
        if not open_braces:
            continue
        if token[0] == "[":
            open_brackets.append((len(open_braces), len(open_braces[-1])))
        elif token[0] == "]" and open_brackets and open_brackets[-1][0] == len(open_braces):
            # Bars in square brackets belong to the syntax of the web UI: "[black|grey]" alternates between two words.
            del open_braces[-1][open_brackets.pop()[1] :]
        elif token[0] == "}":
            places = open_braces.pop()
            while open_brackets and open_brackets[-1][0] > len(open_braces):
                open_brackets.pop()
            if choice := _alternatives(parts, places, text):
                parts[places[0] :] = [_require_depth(choice, text)]
    return (*parts, text[end:])


def _alternatives(parts: Sequence[str | _Choice], places: Sequence[int], text: str) -> _Choice | None:
    """The choice between the alternatives of a pair of braces; None if the braces are ordinary characters.

    Args:
        parts: of the text so far.
        places: of the braces and the bars between them in `parts`.
        text: all of it.

    Raises:
        InputFileError: it is a choice of several alternatives, or a weight is too large.
    """
    start = parts[places[0] + 1]
    if isinstance(start, str) and "$$" in start and _SEVERAL.match(start):
        raise InputFileError(
            f"choices of several alternatives are not supported: {shortened(text)}",
            fix="Write one choice after another, such as {a|b}, {c|d}, or --compat to read braces as text.",
        )
    # Before anything is copied: braces in braces would be copied as often as they are nested.
    if len(places) == 2 and _weighted([start])[0] is None:
        return None
    weighted = [_weighted(parts[a + 1 : b]) for a, b in pairwise(places)]
    return _Choice.of([(weight, Template(parts)) for weight, parts in weighted], text)


def _weighted(parts: Sequence[str | _Choice]) -> tuple[Fraction | None, tuple[str | _Choice, ...]]:
    """The weight at the start of an alternative, or None, and the rest.

    Raises:
        InputFileError: the weight is too large.
    """
    first = parts[0] if parts else ""
    if not isinstance(first, str) or "::" not in first or not (match := _WEIGHT.match(first)):
        return None, tuple(parts)
    number = match[1]
    if len(number) > 20 or Fraction(number) > _HEAVIEST or len(number.partition(".")[2]) > _PRECISION:
        raise InputFileError(
            f"weight {shortened(number)} is not valid",
            fix=f"Use weights of at most {_HEAVIEST:,} with at most {_PRECISION} decimal places.",
        )
    return Fraction(number), (first[match.end() :], *parts[1:])


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
    several = "*" in name
    try:
        found = wildcards.matching(name) if several else wildcards.lines(name)
    except InputFileError as error:
        if trail:
            error.why = f"{error.why} {wildcards.folder / f'{trail[-1]}.txt'} contains __{name}__.".lstrip()
        raise
    options: list[tuple[Fraction | None, Template]] = []
    if several:
        for file in (_wildcard(file, wildcards, trail) for file in found):
            options += zip(file.weights or [None] * len(file.options), file.options, strict=True)
    else:
        for line in found:
            weight, parts = _weighted(_parse(line, wildcards, (*trail, name)))
            options.append((weight, Template(parts)))
    choice = _Choice.of(options, f"__{name}__")
    wildcards._choices[name] = _require_depth(choice, f"__{name}__")
    return choice


def _require_depth(choice: _Choice, text: str) -> _Choice:
    """The choice. Raises `InputFileError` if it is nested deeper than `DEPTH`."""
    if choice.depth > DEPTH:
        raise _too_deep(text)
    return choice


def _too_deep(text: str) -> InputFileError:
    return InputFileError(
        f"choices are nested too deep in {shortened(text)}",
        why=f"Braces, and wildcards in the lines of wildcards, can be nested {DEPTH} levels deep.",
        fix="Use fewer levels.",
    )
