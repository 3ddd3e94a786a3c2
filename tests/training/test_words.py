"""The table of words: which concept a word belongs to."""

from __future__ import annotations

import words
from words import Concept, words_of


def concept(emoji: str, code: str, *more: str, names: tuple[str, ...] = (), weight: float = 1.0) -> Concept:
    return Concept(emoji, (code, *more), names, (), None, weight)


def entry(code: str, label: str, *tags: str, group: int = 3) -> dict[str, object]:
    return {"hexcode": code, "label": label, "tags": list(tags), "group": group}


CAT, FACE, CAMEL = concept("🐈", "1F408"), concept("🐱", "1F431", weight=2.5), concept("🐪", "1F42A", "1F42B")
ENTRIES = [
    entry("1F408", "Katze", "Haustier", "Tier"),
    entry("1F431", "Katzengesicht", "Katze", "Gesicht", "miau", "Tier"),
    entry("1F42A", "Dromedar", "Höcker", "Tier"),
    entry("1F42B", "Kamel", "Höcker", "zwei", "Dromedar"),
]


def test_a_label_is_better_than_a_tag_and_a_part_of_the_label_is_a_name() -> None:
    found = words_of([CAT, FACE, CAMEL], ENTRIES, {}, (), ())
    assert found["🐈"] == (["katze", "haustier"], [])
    assert found["🐱"] == (["katzengesicht", "gesicht", "miau"], ["tier"]), (
        "the tag of several is the most common one's"
    )
    assert found["🐪"] == (["dromedar", "kamel", "zwei"], ["höcker"]), "with the words of the emoji that it stands for"


def test_a_name_of_the_project_is_the_best_and_dropped_words_name_nothing() -> None:
    found = words_of([CAT, FACE, CAMEL], ENTRIES, {"🐱": ["katze"]}, {"miau"}, {"zwei"})
    assert found["🐱"] == (["katze", "katzengesicht", "gesicht"], ["tier"])
    assert found["🐈"] == (["haustier"], [])
    assert "zwei" not in found["🐪"][0]


def test_tags_of_objects_are_no_names() -> None:
    pen = concept("🖊", "1F58A")
    assert words_of([pen], [entry("1F58A", "pen", "write", group=7)], {}, (), ()) == {"🖊": (["pen"], ["write"])}


def test_lists_are_spelled_as_they_are_looked_up() -> None:
    assert words.listed("T-Rex, L\u2019arbre,  Ice   Cream, ﾈｺ") == ["t rex", "l'arbre", "ice cream", "ねこ"]
