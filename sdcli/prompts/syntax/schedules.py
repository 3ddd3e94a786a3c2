"""Parts of a prompt that change with the steps: `[from:to:when]` and `[a|b]`, as the web UI reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sdcli.prompts.syntax import MOST_OPEN

_TOKEN = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_CLOSING = {")": "(", "]": "["}


@dataclass(frozen=True)
class _Change:
    """Texts that take turns.

    Attributes:
        options: the texts.
        when: the last step of the first one; None if they alternate from step to step.
    """

    options: tuple[tuple[_Item, ...], ...]
    when: str | None = None

    def at(self, step: int, steps: int) -> str:
        """The text in a step, from 1."""
        if self.when is None:
            return _text(self.options[(step - 1) % len(self.options)], step, steps)
        return _text(self.options[0 if step <= _last(self.when, steps) else 1], step, steps)

    def ends(self, steps: int) -> set[int]:
        """The steps after which the text changes."""
        own = set(range(1, steps + 1)) if self.when is None else {_last(self.when, steps)}
        return own.union(*(_ends(option, steps) for option in self.options))


_Item = str | _Change


@dataclass
class _Open:
    """An open bracket: its kind, and the texts in it so far with what separates them."""

    kind: str
    texts: list[list[_Item]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def literally(self) -> list[_Item]:
        """The bracket and what follows, as text."""
        items: list[_Item] = [self.kind, *self.texts[0]]
        for separator, text in zip(self.separators, self.texts[1:], strict=True):
            items += [separator, *text]
        return items


def stages(text: str, steps: int) -> list[tuple[int, str]]:
    """The texts of a prompt: (last step, text), in order.

    Brackets that fit no rule are text. A bar outside of `[a|b]` makes the whole prompt text, as in the web UI.

    Args:
        text: a prompt.
        steps: the sampling steps of the image.
    """
    items = _parse(text) if "[" in text else None
    if items is None:
        return [(steps, text)]
    ends = sorted({end for end in _ends(items, steps) if end >= 1} | {steps})
    found: list[tuple[int, str]] = []
    for end in ends:
        shown = _text(items, end, steps)
        if found and found[-1][1] == shown:
            found.pop()
        found.append((end, shown))
    return found


def _parse(text: str) -> list[_Item] | None:
    """The items of a prompt; None if it has a bar where none is allowed."""
    root: list[_Item] = []
    brackets: list[_Open] = []

    def give_up() -> None:
        """Open brackets and what is in them are text, because the next character does not fit."""
        for bracket in brackets:
            root.extend(bracket.literally())
        brackets.clear()

    for match in _TOKEN.finditer(text):
        token = match[0]
        inner = brackets[-1].texts[-1] if brackets else root
        if token in "([":
            if len(brackets) == MOST_OPEN:
                give_up()
            brackets.append(_Open(token))
        elif token in ":|":
            if brackets:
                brackets[-1].separators.append(token)
                brackets[-1].texts.append([])
            elif token == "|":
                return None
            else:
                root.append(token)
        elif token in ")]":
            closed = _closed(brackets[-1], token) if brackets else None
            if closed is None:
                give_up()
                root.append(token)
            else:
                brackets.pop()
                (brackets[-1].texts[-1] if brackets else root).extend(closed)
        else:
            inner.append(token)
    give_up()
    return None if "|" in root else root


def _closed(bracket: _Open, closing: str) -> list[_Item] | None:
    """What a bracket and the one that closes it stand for; None if they fit no rule."""
    separators, texts = bracket.separators, bracket.texts
    if _CLOSING[closing] != bracket.kind:
        return None
    if not separators or (bracket.kind == "(" and separators == [":"]):
        return [*bracket.literally(), closing]
    if bracket.kind == "(":
        return None
    if set(separators) == {"|"}:
        return [_Change(tuple(tuple(text) for text in texts))]
    if separators in ([":"], [":", ":"]) and all(isinstance(item, str) for item in texts[-1]):
        when = _WHEN.fullmatch("".join(map(str, texts[-1])))
        if when is not None:
            before = tuple(texts[0]) if len(texts) == 3 else ()
            return [_Change((before, tuple(texts[-2])), when[1])]
    return None


def _last(when: str, steps: int) -> int:
    """The last step before a change: a number with a point is a share of the steps."""
    number = float(when) * (steps if "." in when else 1)
    return int(min(steps, max(number, -1)))


def _ends(items: Sequence[_Item], steps: int) -> set[int]:
    return set().union(*(item.ends(steps) for item in items if isinstance(item, _Change)))


def _text(items: Sequence[_Item], step: int, steps: int) -> str:
    return "".join(item if isinstance(item, str) else item.at(step, steps) for item in items)
