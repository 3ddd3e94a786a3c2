"""What a small model knows by name: reads prompts in many languages as the captions that it was trained on.

A model with a vocabulary has a folder `words` with a file for each language, which `training/words.py` writes:

    en.json   concepts: emoji -> names that the model was trained on, tags, colour; stands_for: emoji -> emoji
    de.json   words: emoji -> [names, tags] in this language; roles: the words around names; colours; endings

Light: nothing but the standard library, and only English is read until a prompt has a word that is not English.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sdcli.errors import ModelError
from sdcli.prompts.syntax import PLAIN, words_and_marks
from sdcli.prompts.syntax import words as without_marks

FOLDER = "words"
"""The folder of the vocabulary in a model's folder."""
ENGLISH = "en"

LONGEST = 4000
"""Characters of a prompt that are read: far more than a text encoder with 77 tokens reads."""
_MOST_TOKENS = 200
_LONGEST_PHRASE = 8
_LONGEST_NEAR = 30

# Scripts without spaces between words, each character of which is a token: Thai, kana, Chinese characters.
_UNSPACED = "\u0e00-\u0e7f\u3005\u3040-\u30ff\u3400-\u9fff"
# Vowel signs and accents are no letters for Python.
_LETTER = "(?:[^\\W_]|[\u0300-\u036f\u0900-\u0dff])"
_PICTOGRAM = "[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
_MODIFIER = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\u20e3]"
_TOKEN = re.compile(
    f"(?P<unspaced>[{_UNSPACED}])"
    f"|(?P<emoji>[\U0001f1e6-\U0001f1ff]{{2}}|(?![{_UNSPACED}]){_PICTOGRAM}{_MODIFIER}*(?:\u200d{_PICTOGRAM}{_MODIFIER}*)*)"
    f"|(?P<word>{_LETTER}{{1,2}}'(?={_LETTER}|$)|(?:(?![{_UNSPACED}]){_LETTER})+(?:'s\\b)?|&)"
    "|(?P<stop>[,.;:!?()\\[\\]\u3001\u3002|/])"
)
_HIRAGANA = {kana: kana - 0x60 for kana in range(0x30A1, 0x30F7)}
"""Katakana to hiragana: many nouns are written in both."""
_NO_KEY = str.maketrans(dict.fromkeys("\ufe0e\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"))

_NO_SPACE = re.compile(f"[{_UNSPACED}]")

_SCRIPTS = {
    "[\u3400-\u9fff]": ("zh", "ja"),
    "[\u3040-\u30ff]": ("ja",),
    "[\uac00-\ud7af]": ("ko",),
    "[\u0e00-\u0e7f]": ("th",),
    "[\u0900-\u097f]": ("hi",),
    "[\u0980-\u09ff]": ("bn",),
    "[\u0400-\u04ff]": ("ru", "uk"),
    "[a-z\u00c0-\u024f\u1e00-\u1eff]": (
        "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "da", "nb", "fi", "hu", "et", "lt", "ms", "vi",
    ),
}  # fmt: skip
"""Languages by the characters that they are written with, the most common first."""
_PREPOSITIONS_LAST = frozenset({"zh", "ja", "ko"})
"""Languages that say "the chair's top" and not "on top of the chair"."""

_RELATIONS = {
    "and": "next to",
    "beside": "next to",
    "left": "left of",
    "right": "right of",
    "above": "above",
    "astride": "above",
    "below": "below",
}
"""Roles of words between two objects, and what captions say for them."""
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_STYLES = ("3d", "flat", "outlined")
_IGNORED = frozenset({"article", "frame", "quality", "in"})


def canonical(text: str) -> str:
    """A word or phrase as it is looked up: case folded, with single spaces, and none where a script has none."""
    return _joined([token.key for token in tokens_of(text)])


def bare(emoji: str) -> str:
    """An emoji without variation selectors and skin tones, as it is looked up."""
    return emoji.translate(_NO_KEY)


@dataclass(frozen=True)
class Token:
    """A word, a character of a script without spaces, an emoji, or a punctuation mark.

    Attributes:
        text: as written.
        key: as it is looked up.
        start, end: its place in the normalised prompt.
    """

    text: str
    key: str
    kind: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, in NFKC."""
    text = unicodedata.normalize("NFKC", text.replace("\u2019", "'"))
    return [
        Token(
            match[0],
            bare(match[0]) if match.lastgroup == "emoji" else match[0].casefold().translate(_HIRAGANA),
            match.lastgroup or "",
            *match.span(),
        )
        for match in islice(_TOKEN.finditer(text), _MOST_TOKENS)
    ]


def _joined(keys: Sequence[str]) -> str:
    text = ""
    for key in keys:
        no_space = not text or text[-1] == "'" or (_NO_SPACE.match(text[-1]) and _NO_SPACE.match(key))
        text += key if no_space else f" {key}"
    return text


def _written(tokens: Sequence[Token]) -> str:
    """Tokens as they are written."""
    text, end = "", 0
    for token in tokens:
        text += f" {token.text}" if text and token.start > end else token.text
        end = token.end
    return text


@dataclass(frozen=True)
class Reading:
    """What a model understands of a prompt.

    Attributes:
        text: what the text encoder gets: the prompt itself, if every word is the model's own, or if it knows no word.
        taken: words that are not the model's own, with the names of the concepts that they were taken for.
        unknown: words that are ignored, because the model does not know them.
        not_obeyed: words that it understands and cannot obey, each with the reason.
        known: whether it knows anything that the prompt names. An empty prompt names nothing, and is known.
    """

    text: str
    taken: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    not_obeyed: tuple[tuple[str, str], ...] = ()
    known: bool = True

    def notes(self) -> list[str]:
        """What the user should know, a line for each kind."""
        if not self.text.strip():
            return ["the prompt is empty: the image is arbitrary"]
        if not self.known:
            return [f"{', '.join(self.unknown)}: not known to the model, the image is arbitrary"]
        lines = [f"{word}: drawn as {name}" for word, name in self.taken]
        lines += [f"{word}: not obeyed, because {reason}" for word, reason in self.not_obeyed]
        if self.unknown:
            lines.append(f"{', '.join(self.unknown)}: not known to the model, ignored")
        return lines

    def values(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        values = {"taken": dict(self.taken), "unknown": list(self.unknown), "not_obeyed": dict(self.not_obeyed)}
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True)
class Entry:
    """A concept of the model, for lists.

    Attributes:
        emoji: its emoji.
        name: the name that the model knows best.
        names: its other names.
        found: the words that a search found, in any language.
    """

    emoji: str
    name: str
    names: tuple[str, ...]
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Concept:
    emoji: str
    names: tuple[str, ...]
    tags: frozenset[str]
    colour: str | None
    shown: str
    """Its first name with the article that captions have."""


Kind = Literal["name", "tag", "role", "colour"]


@dataclass
class _Item:
    """A phrase of a prompt.

    kind: what it is; "" if it is not known.
    value: the emoji of a name or tag, the role of a word, the name of a colour.
    colour: the colour that a name may also be, such as "orange".
    own: whether it is English and not inflected.
    used: whether it is a colour that belongs to an object.
    """

    tokens: Sequence[Token]
    kind: Kind | Literal["", "stop"]
    value: str = ""
    colour: str = ""
    own: bool = False
    used: bool = False

    @property
    def text(self) -> str:
        return _written(self.tokens)

    @property
    def key(self) -> str:
        return _joined([token.key for token in self.tokens])


@dataclass(frozen=True)
class _Language:
    """The words of one language."""

    code: str
    names: Mapping[str, str]
    tags: Mapping[str, str]
    roles: Mapping[str, str]
    colours: Mapping[str, str]
    endings: Sequence[str]
    irregular: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> _Language:
        content = _read(path)
        words: Mapping[str, Any] = content["words"]
        return cls(
            path.stem,
            {word: emoji for emoji, (names, _) in words.items() for word in names},
            {word: emoji for emoji, (_, tags) in words.items() for word in tags},
            {word: role for role, some in content["roles"].items() for word in some},
            {word: colour for colour, some in content["colours"].items() for word in some},
            sorted(content["endings"], key=len),
            content["irregular"],
        )

    @cached_property
    def starts(self) -> frozenset[str]:
        """The first words of phrases."""
        phrases = (*self.names, *self.tags, *self.roles, *self.colours)
        return frozenset(phrase[: phrase.index(" ")] for phrase in phrases if " " in phrase)

    def find(self, phrase: str) -> tuple[Kind, str, str] | None:
        """The kind of a phrase, its value, and the colour that it may also be."""
        if role := self.roles.get(phrase):
            return "role", role, ""
        colour = self.colours.get(phrase, "")
        if emoji := self.names.get(phrase):
            return "name", emoji, colour
        if colour:
            return "colour", colour, ""
        if emoji := self.tags.get(phrase):
            return "tag", emoji, ""
        return None

    def inflected(self, phrase: str) -> tuple[Kind, str, str] | None:
        """As `find`, for a phrase whose last word has another ending."""
        before, space, last = phrase.rpartition(" ")
        if last in self.irregular:
            return self.find(before + space + self.irregular[last])
        for ending in self.endings:
            stem = last[: len(last) - len(ending)]
            if len(stem) < 3 or not last.endswith(ending):
                continue
            for other in self.endings:
                if other != ending and (found := self.find(f"{before}{space}{stem}{other}")):
                    return found
        return None


class Vocabulary:
    """The words that a model knows.

    Args:
        folder: the folder `words` of the model.
    """

    @classmethod
    def find(cls, model: Path) -> Vocabulary | None:
        """The vocabulary in a model's folder; None if it has none."""
        folder = model / FOLDER
        return cls(folder) if (folder / f"{ENGLISH}.json").is_file() else None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._languages: dict[str, _Language] = {}
        self.read = lru_cache(maxsize=1000)(self._read)

    @cached_property
    def _english_file(self) -> Any:
        return _read(self._folder / f"{ENGLISH}.json")

    @cached_property
    def _concepts(self) -> Mapping[str, _Concept]:
        return {
            emoji: _Concept(emoji, tuple(one["names"]), frozenset(one["tags"]), one["colour"], one["shown"])
            for emoji, one in self._english_file["concepts"].items()
        }

    @cached_property
    def _emoji(self) -> Mapping[str, str]:
        """The concept of every emoji that has one."""
        return {bare(emoji): emoji for emoji in self._concepts} | dict(self._english_file["stands_for"])

    @cached_property
    def _own_words(self) -> frozenset[str]:
        """The words of captions around the names."""
        return frozenset(self._english_file["captions"])

    def _language(self, code: str) -> _Language:
        if code not in self._languages:
            self._languages[code] = _Language.read(self._folder / f"{code}.json")
        return self._languages[code]

    def __len__(self) -> int:
        return len(self._concepts)

    def _read(self, prompt: str, syntax: str = PLAIN) -> Reading:
        """What the model understands of a prompt, in the language in which it understands most.

        Args:
            prompt: the prompt.
            syntax: how weights are written in it. Words between its marks are translated for themselves.
        """
        if not prompt.strip():
            return Reading(prompt)
        parts = words_and_marks(prompt, syntax)
        if len(parts) > 1:
            text = without_marks(prompt, syntax)
            whole = self.read(text)
            if whole.text != text:
                parts[::2] = [self._translated(part, whole) for part in parts[::2]]
            return replace(whole, text="".join(parts))
        tokens = tokens_of(prompt[:LONGEST])
        language, items = self._best(tokens)
        return _Parse(self._concepts, self._language(ENGLISH), language.code, items, self._own_words).reading(prompt)

    def _translated(self, part: str, whole: Reading) -> str:
        """A part of a prompt in the model's words, with the blanks around it.

        Args:
            part: the part.
            whole: the reading of the prompt.
        """
        reading, stripped = self.read(part), part.strip()
        if reading.known and set(reading.taken) <= set(whole.taken):
            return part.replace(stripped, reading.text.strip(), 1) if stripped else part
        # Alone it would be read otherwise: word by word, as the prompt's reading says.
        instead = dict(whole.taken) | dict.fromkeys(whole.unknown, "")
        for word in sorted(instead, key=len, reverse=True):
            bound = "" if _NO_SPACE.search(word) else r"\b"
            part = re.sub(f"{bound}{re.escape(word)}{bound}", instead[word].replace("\\", r"\\"), part)
        return part

    def _best(self, tokens: Sequence[Token]) -> tuple[_Language, list[_Item]]:
        """The language of a prompt, and its items."""
        english = self._language(ENGLISH)
        items = self._items(tokens, [english])
        least = _unclear(items)
        words = sum(token.kind != "stop" for token in tokens)
        # A few unknown words among English ones are unknown English words, and not words of another language. A single
        # word may be a tag in English and a name in another language, such as "chat".
        if least * 2 < words and not (words == 1 and any(item.kind == "tag" for item in items)):
            return english, items
        best = english
        if all(token.key.isascii() for token in tokens):
            # Names of people and places, and made-up words, often resemble a word of some language.
            least = min(least, words / 2)
        for language in map(self._language, _languages(tokens)):
            unclear = _unclear(self._items(tokens, [language]))
            if unclear < least:
                best, least = language, unclear
        return best, items if best is english else self._items(tokens, [best, english])

    def _items(self, tokens: Sequence[Token], languages: Sequence[_Language]) -> list[_Item]:
        """The phrases of a prompt, by longest match."""
        items: list[_Item] = []
        at = 0
        while at < len(tokens):
            item = self._item(tokens, at, languages)
            at += len(item.tokens)
            if item.kind == "" and items and items[-1].kind == "" and _adjoining(items[-1], item):
                items[-1] = _Item([*items[-1].tokens, *item.tokens], "")
            else:
                items.append(item)
        return items

    def _item(self, tokens: Sequence[Token], at: int, languages: Sequence[_Language]) -> _Item:
        first = tokens[at]
        if first.kind == "stop":
            return _Item([first], "stop")
        if first.kind == "emoji":
            emoji = self._emoji.get(first.key)
            return _Item([first], "name", emoji) if emoji else _Item([first], "")
        until = at
        while until < min(len(tokens), at + _LONGEST_PHRASE) and tokens[until].kind in ("word", "unspaced"):
            until += 1
        for end in range(until, at, -1):
            phrase = _joined([token.key for token in tokens[at:end]])
            able = [one for one in languages if end == at + 1 or first.kind == "unspaced" or first.key in one.starts]
            for language in able:
                if found := language.find(phrase):
                    kind, value, colour = found
                    return _Item(tokens[at:end], kind, value, colour, own=language.code == ENGLISH)
            for language in able:
                if tokens[end - 1].kind == "word" and (found := language.inflected(phrase)):
                    return _Item(tokens[at:end], *found)
        return _Item([first], "")

    def nearest(self, prompt: str, count: int = 3) -> list[str]:
        """Names that are spelled like words of a prompt, the nearest first."""
        english = self._language(ENGLISH)
        near: dict[str, float] = {}
        for token in islice((t for t in tokens_of(prompt[:LONGEST]) if t.kind == "word"), 8):
            word = token.key
            if not 3 <= len(word) <= _LONGEST_NEAR or word in english.roles:
                continue
            # Few misspell the first letter; comparing with all names takes a tenth of a second.
            names = [name for name in english.names if name[0] == word[0] and abs(len(name) - len(word)) <= 3]
            for name in difflib.get_close_matches(word, names, n=count, cutoff=0.8):
                near[name] = max(near.get(name, 0), difflib.SequenceMatcher(None, word, name).ratio())
        return sorted(near, key=lambda name: -near[name])[:count]

    def search(self, text: str = "") -> list[Entry]:
        """The concepts that a text names in any language or as emoji, the best match first; all, if it is empty."""
        wanted = canonical(text)
        if not wanted:
            entries = (self._entry(emoji, ()) for emoji in self._concepts)
            return sorted(entries, key=lambda entry: entry.name)
        ranks: dict[str, tuple[int, dict[str, None]]] = {}

        def add(emoji: str, rank: int, word: str) -> None:
            best, words = ranks.get(emoji, (rank, {}))
            ranks[emoji] = (min(best, rank), words | {word: None})

        if emoji := self._emoji.get(wanted):
            add(emoji, 0, text)
        for path in sorted(self._folder.glob("*.json"), key=lambda path: (path.stem != ENGLISH, path.stem)):
            language = self._language(path.stem)
            for words, worse in ((language.names, 0), (language.tags, 1)):
                for word, emoji in words.items():
                    if wanted in word and (place := _place(wanted, word, english=path.stem == ENGLISH)) is not None:
                        add(emoji, place + worse, word)
        for emoji, concept in self._concepts.items():
            for tag in concept.tags:
                if wanted in tag and (place := _place(wanted, tag, english=True)) is not None:
                    add(emoji, place + 1, tag)
        order = sorted(ranks, key=lambda emoji: (ranks[emoji][0], self._concepts[emoji].names[0]))
        return [self._entry(emoji, ranks[emoji][1]) for emoji in order]

    def _entry(self, emoji: str, found: Iterable[str]) -> Entry:
        first, *others = self._concepts[emoji].names
        return Entry(emoji, first, tuple(others), tuple(found))


def _place(wanted: str, word: str, *, english: bool) -> int | None:
    """How well a word or phrase matches a search, the best first; None if it does not."""
    if word == wanted:
        return 0
    if wanted in word.split():
        return 2
    if _NO_SPACE.match(wanted):
        return 4
    # Words of so many languages begin with the same few letters.
    if (english or len(wanted) > 3) and any(part.startswith(wanted) for part in word.split()):
        return 4 if english else 6
    return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read", why=f"{error}.", fix="Install the model again.") from error


def _languages(tokens: Sequence[Token]) -> Iterator[str]:
    """The languages that are written with the characters of a prompt, except English."""
    text = "".join(token.key for token in tokens)
    for characters, languages in _SCRIPTS.items():
        if re.search(characters, text):
            yield from languages


def _unclear(items: Sequence[_Item]) -> float:
    """How much of a prompt a language does not explain: its unknown tokens; tags and verbs count less."""
    weights = {"": 1.0, "tag": 0.5}
    return sum(len(item.tokens) * (0.25 if item.value == "other" else weights.get(item.kind, 0)) for item in items)


@dataclass
class _Parse:
    """The meaning of a prompt's items."""

    concepts: Mapping[str, _Concept]
    english: _Language
    language: str
    items: list[_Item]
    own_words: frozenset[str]
    objects: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    background: str = ""
    style: str = ""
    taken: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    not_obeyed: dict[str, str] = field(default_factory=dict)

    def reading(self, prompt: str) -> Reading:
        self._decide_colours()
        self._choose_tags()
        self._find_background()
        for at, item in enumerate(self.items):
            if item.kind == "name":
                self._add_object(at, item)
            elif item.kind == "role":
                self._obey(at, item)
            elif item.kind == "colour":
                self._add_colour(at, item)
            elif item.kind in ("", "tag"):
                self._add_unknown(item)
        if not self.objects:
            words = self.unknown or [item.text for item in self.items if item.kind != "stop"]
            return Reading(prompt, unknown=tuple(dict.fromkeys(words)), known=False)
        text = self._caption()
        own = not (self.taken or self.unknown or self.not_obeyed) and self._is_caption()
        return Reading(
            prompt if own else text,
            tuple(self.taken.items()),
            tuple(dict.fromkeys(self.unknown)),
            tuple(self.not_obeyed.items()),
        )

    def _next(self, at: int, step: int) -> _Item | None:
        """The next item that is not a word such as an article or "cute"."""
        at += step
        while 0 <= at < len(self.items):
            item = self.items[at]
            if item.kind != "role" or item.value not in _IGNORED:
                return item
            at += step
        return None

    def _decide_colours(self) -> None:
        """Decide whether words such as "orange" are colours or objects."""
        for at, item in enumerate(self.items):
            if item.kind != "name" or not item.colour:
                continue
            after, before = self._next(at, 1), self._next(at, -1)
            if (
                _is(after, "background")
                or _is(before, "background")
                or (
                    after is not None
                    and after.kind == "name"
                    and at + 1 < len(self.items)
                    and self.items[at + 1] is after
                )
                or (at and before is not None and before.kind == "name" and self.items[at - 1] is before)
            ):
                item.kind, item.value, item.colour = "colour", item.colour, ""

    def _choose_tags(self) -> None:
        """A tag names a concept only if nothing else does; then the concept that most tags name."""
        tags = [item for item in self.items if item.kind == "tag"]
        if not tags:
            return
        named = {item.value for item in self.items if item.kind == "name"}
        if not named:
            ((chosen, _),) = Counter(item.value for item in tags).most_common(1)
            next(item for item in tags if item.value == chosen).kind = "name"
            named = {chosen}
        for item in tags:
            if item.kind == "tag" and any(item.key in self.concepts[emoji].tags for emoji in named):
                item.kind, item.value = "role", "frame"

    def _find_background(self) -> None:
        for at, item in enumerate(self.items):
            if not _is(item, "background"):
                continue
            for step in (-1, 1):
                colour = self._next(at, step)
                if colour is not None and colour.kind == "colour" and not self.background:
                    self.background = colour.value
                    colour.kind, colour.value = "role", "frame"
        for at, item in enumerate(self.items):
            # "on blue"
            last = at + 1 == len(self.items) or self.items[at + 1].kind == "stop" or _style(self.items[at + 1])
            before = self.items[at - 1] if at else None
            if item.kind == "colour" and last and before is not None and before.key == "on" and not self.background:
                self.background = item.value
                item.kind = before.kind = "role"
                item.value = before.value = "frame"

    def _add_object(self, at: int, item: _Item) -> None:
        emoji = item.value
        colours = [
            (near, near.value)
            for near in (self._next(at, -1), self._next(at, 1))
            if near is not None and near.kind == "colour" and not near.used
        ]
        text = item.text
        for near, colour in colours[:1]:
            near.used = True
            one = self.concepts[emoji]
            other = next(
                (
                    self.english.names[n]
                    for name in one.names
                    if (n := f"{colour} {canonical(name)}") in self.english.names
                ),
                "",
            )
            if other:
                emoji = other
                text = _written(sorted([*near.tokens, *item.tokens], key=lambda token: token.start))
            elif colour != one.colour and not any(colour in canonical(name).split() for name in one.names):
                self.not_obeyed[near.text] = "colours are known of backgrounds only"
        if emoji in self.objects:
            return
        if len(self.objects) == 2:
            self.not_obeyed[text] = "an image has one or two objects"
            return
        self.objects.append(emoji)
        self.places.append(at)
        one = self.concepts[emoji]
        if canonical(text) not in map(canonical, one.names):
            self.taken[text] = one.names[0]

    def _obey(self, at: int, item: _Item) -> None:
        role = item.value
        if role in _STYLES:
            self.style = self.style or role
        elif role == "number":
            after = self._next(at, 1)
            if after is not None and after.kind == "name":
                self.not_obeyed[_written([*item.tokens, *after.tokens])] = "the model does not count"
            else:
                self.not_obeyed[item.text] = "the model does not count"
        elif role == "manner":
            self.not_obeyed[re.sub(r" (of|von|de|d')$", "", item.text)] = "styles are 3d, flat and outlined"
        elif role in ("beside", "astride"):
            if sum(item.kind == "name" for item in self.items) > 1:
                self.not_obeyed[item.text] = "objects are only next to each other, or one above the other"
            else:
                self.unknown.append(item.text)
        elif role in ("people", "weapon", "other"):
            self.unknown.append(item.text)

    def _add_colour(self, at: int, item: _Item) -> None:
        if not item.used:
            near = [self._next(at, 1), self._next(at, -1)]
            if not any(one is not None and one.kind == "name" for one in near):
                self.not_obeyed[item.text] = "colours are known of backgrounds only"

    def _add_unknown(self, item: _Item) -> None:
        self.unknown.append(item.text)

    def _caption(self) -> str:
        """The prompt as captions say it."""
        text = self.concepts[self.objects[0]].shown
        if len(self.objects) == 2:
            text = f"{text} {self._relation()} {self.concepts[self.objects[1]].shown}"
        if self.background:
            text += f" on {'an' if self.background == 'orange' else 'a'} {self.background} background"
        return f"{text}, {self.style}" if self.style else text

    def _relation_items(self) -> tuple[list[_Item], bool]:
        """The words that say how two objects are placed, and whether the second object comes first."""
        first, second = self.places[:2]
        between = [item for item in self.items[first + 1 : second] if item.kind == "role" and item.value in _RELATIONS]
        placed = [item for item in between if item.value != "and"]
        if self.language not in _PREPOSITIONS_LAST:
            return placed or between, False
        after = [item for item in self.items[second + 1 :] if item.kind == "role" and item.value in _RELATIONS]
        return (after, False) if after and not placed else (placed or between, bool(placed))

    def _relation(self) -> str:
        items, reverse = self._relation_items()
        relation = _RELATIONS[items[0].value] if items else "next to"
        return _OPPOSITE.get(relation, relation) if reverse else relation

    def _is_caption(self) -> bool:
        """Whether the prompt consists of the words of captions and has their form."""
        if len(self.objects) == 2:
            items, _ = self._relation_items()
            if not items or items[0].key == "on":
                return False
        return all(
            item.kind in ("name", "stop")
            or (item.own and (item.kind == "colour" or all(token.key in self.own_words for token in item.tokens)))
            or any(item.key in self.concepts[emoji].tags for emoji in self.objects)
            for item in self.items
        )


def _adjoining(one: _Item, other: _Item) -> bool:
    """Whether two items are characters of one run in a script without spaces."""
    return one.tokens[-1].kind == other.tokens[0].kind == "unspaced" and one.tokens[-1].end == other.tokens[0].start


def _is(item: _Item | None, role: str) -> bool:
    return item is not None and item.kind == "role" and item.value == role


def _style(item: _Item) -> bool:
    return item.kind == "role" and item.value in _STYLES
