"""Writes the words that the builtin model understands: the table that `sdcli.models.vocabulary` reads.

    python training/words.py --data DATA --out sdcli/models/builtin/words

One file for each language: names, tags and the words around them. DATA is the folder of `prepare.py`, which must have
written `icons.jsonl`. The words come from emojibase, from the captions of the training, and from `words.toml`.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import HERE, new_parser
from dataset import read_icons
from icons import Icon
from scenes import every_word, with_article
from sources import LABELS, package_folder

from sdcli.models.vocabulary import bare, canonical

VARIANTS = {"en-gb": "en", "es-mx": "es", "zh-hant": "zh"}
"""Locales of emojibase that are read as part of another language."""

THINGS = (3, 4, 5)
"""Groups of emojibase whose tags are nouns, if only one emoji has the tag: animals, food, places. Tags of faces and
objects are often verbs and adjectives."""

HAND, LABEL, STAND_IN, PART, UNIQUE, TAG = range(6)
"""How well a word names a concept, the best first: it is a name in `words.toml` or of the training; the emoji's label;
the label of an emoji that the concept stands for; a tag that is part of the label; a tag of this emoji only; any other
tag."""


@dataclass(frozen=True)
class Concept:
    """A concept of the model.

    Attributes:
        emoji: its emoji; the key of the concept in all files.
        hexcodes: of its emoji, then of those that it stands for.
        names: the names of `concepts.toml`, the best first, and the label. Captions have them, and tags of this emoji
            only, which are often no names: "under" for a koala.
        tags: tags that the model was trained on.
        colour: of its drawing; None if captions do not name it.
        weight: how often the training shows it.
    """

    emoji: str
    hexcodes: tuple[str, ...]
    names: tuple[str, ...]
    tags: tuple[str, ...]
    colour: str | None
    weight: float


def listed(text: str) -> list[str]:
    """The words of a list in `words.toml`, as they are looked up."""
    return [canonical(word) for word in text.split(",")]


def spelled(name: str) -> str:
    """A name as captions spell it."""
    return name.lower().replace("\u2019", "'")


def concepts_of(
    icons: Sequence[Icon],
    entries: Sequence[Mapping[str, Any]],
    concepts: Mapping[str, Sequence[str]],
    stands_for: Mapping[str, str],
) -> list[Concept]:
    """The concepts, in the order of emojibase.

    Args:
        icons: the drawings of the training.
        entries: the emoji of emojibase in English.
        concepts: names of concepts in `concepts.toml`, by label.
        stands_for: see `words.toml`.

    Raises:
        ValueError: `words.toml` has a label that is not in emojibase.
    """
    by_label: dict[str, list[Icon]] = {}
    for icon in icons:
        by_label.setdefault(icon.label, []).append(icon)
    hexcodes = {entry["label"]: entry["hexcode"] for entry in entries}
    stand_ins: dict[str, list[str]] = {}
    for label, concept in stands_for.items():
        if label not in hexcodes or concept not in by_label:
            raise ValueError(f"words.toml: {label} = {concept}: there is no such label, or no such concept")
        if label not in by_label:
            stand_ins.setdefault(concept, []).append(hexcodes[label])
    chosen = {label: {spelled(word) for word in (label, *concepts.get(label, ()))} for label in by_label}
    return [
        Concept(
            entry["emoji"],
            (entry["hexcode"], *stand_ins.get(entry["label"], ())),
            tuple(word for word in drawn[0].words if word in chosen[entry["label"]]) or drawn[0].words[:1],
            tuple(dict.fromkeys(map(canonical, (*drawn[0].words, *drawn[0].tags)))),
            next((icon.colour for icon in drawn if icon.colour), None),
            max(icon.weight for icon in drawn),
        )
        for entry in entries
        if (drawn := by_label.get(entry["label"]))
    ]


def words_of(
    concepts: Sequence[Concept],
    entries: Iterable[Mapping[str, Any]],
    names: Mapping[str, Sequence[str]],
    never: Collection[str],
    around: Collection[str],
) -> dict[str, tuple[list[str], list[str]]]:
    """Names and tags of each concept in one language, by its emoji. A word belongs to the concept that it names best.

    Args:
        concepts: the concepts.
        entries: the emoji of emojibase in this language, with its variants.
        names: further names by the emoji of the concept.
        never: words that name no concept.
        around: words around names, which are no tags.
    """
    by_hexcode: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_hexcode.setdefault(entry["hexcode"], []).append(entry)
    shared = Counter(
        canonical(tag)
        for each in by_hexcode.values()
        for tag in {tag for entry in each for tag in entry.get("tags", ())}
    )
    best: dict[str, tuple[tuple[int, int, float], str]] = {}

    def claim(word: str, concept: Concept, rank: int, place: int) -> None:
        # The most common concept among those with the same tag.
        order = (rank, place, -concept.weight)
        if not word or word in never or (rank > STAND_IN and word in around):
            return
        if word not in best or order < best[word][0]:
            best[word] = order, concept.emoji

    for concept in concepts:
        for word in names.get(concept.emoji, ()):
            claim(word, concept, HAND, 0)
        for place, hexcode in enumerate(concept.hexcodes):
            for entry in by_hexcode.get(hexcode, ()):
                label = canonical(entry["label"])
                claim(label, concept, STAND_IN if place else LABEL, place)
                for tag in map(canonical, entry.get("tags", ())):
                    thing = entry.get("group") in THINGS and shared[tag] == 1 and len(tag) > 1
                    rank = PART if tag in label.split() or (len(tag) > 1 and tag in label) else TAG
                    claim(tag, concept, min(rank, UNIQUE if thing else TAG), place)
    found: dict[str, tuple[list[str], list[str]]] = {concept.emoji: ([], []) for concept in concepts}
    for word, ((rank, *_), emoji) in sorted(best.items(), key=lambda item: (item[1][0][0], item[0])):
        found[emoji][rank == TAG].append(word)
    return {emoji: words for emoji, words in found.items() if any(words)}


def language(
    locale: str, concepts: Sequence[Concept], data: Path, words: Mapping[str, Any], english: Mapping[str, str]
) -> dict[str, Any]:
    """The file of one language.

    Args:
        locale: the language.
        concepts: the concepts.
        data: the folder of emojibase.
        words: the content of `words.toml`.
        english: emoji by English names, for the names in `words.toml`.

    Raises:
        ValueError: `words.toml` names a concept that does not exist.
    """
    own = words.get(locale, {})
    given: dict[str, list[str]] = {}
    if unknown := own.get("names", {}).keys() - english:
        raise ValueError(f"words.toml: {locale}: there are no concepts {sorted(unknown)}")
    for name, more in own.get("names", {}).items():
        given.setdefault(english[name], []).extend(listed(more))
    if locale == "en":
        for concept in concepts:
            given[concept.emoji] = [*map(canonical, concept.names), *given.get(concept.emoji, ())]
    roles = {role: listed(some) for role, some in own.get("roles", {}).items()}
    colours = {colour: listed(some) for colour, some in own.get("colours", {}).items()}
    never = {word for role in ("other", "people", "weapon") for word in roles.get(role, ())}
    around = {word for some in (*roles.values(), *colours.values()) for word in some}
    entries = [
        entry
        for name in (locale, *(variant for variant, of in VARIANTS.items() if of == locale))
        for entry in json.loads((data / name / "data.json").read_text("utf-8"))
    ]
    found = words_of(concepts, entries, given, never, around)
    return {
        "roles": roles,
        "colours": colours,
        "endings": words["endings"].get(locale, "").split(", ") if locale in words["endings"] else [],
        "irregular": own.get("irregular", {}),
        "words": found,
    }


def write(icons: Sequence[Icon], data: Path, listing: Path, out: Path) -> None:
    """Write the files of all languages.

    Args:
        icons: the drawings of the training.
        data: the folder of the unpacked packages.
        listing: `words.toml`.
        out: folder for the files; created if it does not exist.
    """
    folder = package_folder(data, *LABELS)
    words = tomllib.loads(listing.read_text("utf-8"))
    entries = json.loads((folder / "en" / "data.json").read_text("utf-8"))
    chosen = tomllib.loads((HERE / "concepts.toml").read_text("utf-8"))["words"]
    concepts = concepts_of(icons, entries, chosen, words["stands_for"])
    english = {name: concept.emoji for concept in concepts for name in concept.names}
    english |= {
        name: english[key] for key, more in words["en"]["names"].items() if key in english for name in listed(more)
    }
    out.mkdir(parents=True, exist_ok=True)
    locales = sorted(path.parent.name for path in folder.glob("*/data.json"))
    for locale in (locale for locale in locales if locale not in VARIANTS):
        content = language(locale, concepts, folder, words, english)
        if locale == "en":
            by_hexcode = {entry["hexcode"]: bare(entry["emoji"]) for entry in entries}
            content["concepts"] = {
                concept.emoji: {
                    "names": concept.names,
                    "tags": concept.tags,
                    "colour": concept.colour,
                    "shown": with_article(concept.names[0]),
                }
                for concept in concepts
            }
            content["stands_for"] = {
                by_hexcode[hexcode]: concept.emoji for concept in concepts for hexcode in concept.hexcodes[1:]
            }
            content["captions"] = sorted({word for text in every_word([]) for word in canonical(text).split()})
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        # A line for each concept, so that a change can be read.
        text = text.replace(']],"', ']],\n"').replace('},"', '},\n"')
        (out / f"{locale}.json").write_text(text + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked npm packages")
    parser.add_argument("--words", type=Path, default=HERE / "words.toml", help="words that emojibase lacks")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args(arguments)
    write(read_icons(options.work), options.data, options.words, options.out)


if __name__ == "__main__":
    main()
