"""The words of the builtin model: how prompts in many languages are read."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sdcli.errors import ModelError
from sdcli.models import shipped
from sdcli.models.vocabulary import Reading, Vocabulary, bare, canonical

PROMPTS = Path(__file__).parents[2] / "data/prompts-of-newcomers.tsv"
"""What people type first, in eleven languages and emoji: what the text encoder gets for it, what is ignored, and
whether the answer is right. "drawn": all of it is drawn; "noted": what is ignored is said; "refused": nothing of it is
known; "wrong": something else is drawn than a person would expect, or it is not to be recognised."""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    found = Vocabulary.find(shipped.BUILTIN)
    assert found is not None
    return found


def test_prompts_of_newcomers_are_drawn_or_answered_rightly(vocabulary: Vocabulary) -> None:
    with PROMPTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    answers = Counter(row["answer"] for row in rows)
    languages = Counter(row["language"] for row in rows)
    assert len({row["prompt"] for row in rows}) == len(rows) >= 200
    assert {"en", "de", "fr", "es", "zh", "ja", "emoji"} <= languages.keys()
    assert answers["wrong"] <= len(rows) // 10
    for row in rows:
        reading = vocabulary.read(row["prompt"])
        ignored = [*reading.unknown, *dict(reading.not_obeyed)] if reading.known else []
        assert (reading.text if reading.known else "") == row["read as"], row["prompt"]
        assert "; ".join(ignored) == row["ignored"], row["prompt"]
        if row["answer"] != "wrong":
            right = "refused" if not reading.known else "noted" if ignored else "drawn"
            assert right == row["answer"], row["prompt"]


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat", "A Cat!", "cat", "a red apple", "a photo of a pizza", "a cute puppy", "an icon of a key", "",
        "a cat on a blue background", "a rocket on blue", "a rose, yellow background", "a whale, flat",
        "a penguin outlined", "3d icon of an owl", "a cat next to a pizza", "a dog left of a tree",
        "a bird above a house", "an orange on an orange background", "a yellow banana", "a blue heart", "a cat, pet",
    ],
)  # fmt: skip
def test_a_prompt_in_the_words_of_the_captions_stays_as_it_is(vocabulary: Vocabulary, prompt: str) -> None:
    assert vocabulary.read(prompt) == Reading(prompt)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a spaceship", "a rocket"),
        ("三只猫", "a cat"),
        ("un gato sobre fondo azul", "a cat on a blue background"),
        ("ein Hund auf dem blauen Hintergrund", "a dog on a blue background"),
        ("grüner Apfel", "a green apple"),
        ("un cœur bleu", "a blue heart"),
        ("cat dog", "a cat next to a dog"),
        ("a cat on a chair", "a cat above a chair"),
        ("椅子の上の猫", "a chair below a cat"),
        ("猫在椅子上", "a cat above a chair"),
        ("a dog to the left of three cats, flat style", "a dog left of a cat, flat"),
        ("oil painting of a fox on an orange background", "a fox on an orange background"),
        ("a cat and a blue banana on a grey background", "a cat next to a banana on a grey background"),
    ],
)
def test_other_prompts_are_read_as_captions(vocabulary: Vocabulary, prompt: str, text: str) -> None:
    assert vocabulary.read(prompt).text == text


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("mice", "mouse"), ("wolves", "wolf"), ("strawberries", "strawberry"), ("grape", "grapes"), ("T-REX", "t-rex"),
        ("Bäume", "tree"), ("perros", "dog"), ("gatti", "cat"), ("кошку", "cat"), ("ロケット", "rocket"), ("ﾈｺ", "cat"),
        ("きつね", "fox"), ("แมว", "cat"), ("बिल्ली", "cat"), ("고양이를", "cat"), ("l'arbre", "tree"),
        ("\u2764", "red heart"), ("\u2764\ufe0f", "red heart"), ("\U0001f415\u200d\U0001f9ba", "dog"),
        ("\u2764\ufe0f\u200d\U0001f525", "heart on fire"),
    ],
)  # fmt: skip
def test_plurals_scripts_and_spellings_of_emoji_are_found(vocabulary: Vocabulary, word: str, name: str) -> None:
    ((_, found),) = vocabulary.read(word).taken or (("", ""),)
    # A name of the model, in other letters, is not taken for anything.
    assert name in (found, canonical(word).replace(" ", "-"))


def test_what_is_not_obeyed_is_said(vocabulary: Vocabulary) -> None:
    assert vocabulary.read("a blue apple").notes() == [
        "blue: not obeyed, because colours are known of backgrounds only"
    ]
    assert vocabulary.read("three cats").notes() == [
        "cats: drawn as cat",
        "three cats: not obeyed, because the model does not count",
    ]
    third = vocabulary.read("a cat, a dog and a bird")
    assert third.not_obeyed == (("bird", "an image has one or two objects"),)
    astronaut = vocabulary.read("a photograph of an astronaut riding a horse")
    assert (astronaut.text, astronaut.unknown) == ("a horse", ("astronaut", "riding"))
    assert [word for word, _ in astronaut.not_obeyed] == ["photograph"]
    assert vocabulary.read("   ").notes() == ["the prompt is empty: the image is arbitrary"]


@pytest.mark.parametrize("prompt", ["asdf", "a king", "Mona Lisa", "👩🏽\u200d🚀", "宇航员", "!!!", "blue"])
def test_nothing_known(vocabulary: Vocabulary, prompt: str) -> None:
    reading = vocabulary.read(prompt)
    assert not reading.known
    assert reading.text == prompt, "with --any-words the text encoder gets the prompt"


def test_near_names(vocabulary: Vocabulary) -> None:
    assert vocabulary.nearest("an aple and a pinapple")[:2] == ["pineapple", "apple"]
    assert vocabulary.nearest("qqqq " * 1000) == []


def test_a_prompt_of_a_megabyte_is_read_in_time(vocabulary: Vocabulary) -> None:
    assert vocabulary.read("x" * 1_000_000 + " cat").known is False
    assert vocabulary.read("katze " * 250_000).text == "a cat"


def test_search(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.search()) == len(vocabulary) == 881
    first, *_ = vocabulary.search("Katze")
    assert (bare(first.emoji), first.name, first.found) == ("🐈", "cat", ("katze",))
    assert [entry.name for entry in vocabulary.search("🍎")] == ["red apple"]
    assert {"red apple", "banana", "grapes"} <= {entry.name for entry in vocabulary.search("fruit")}
    assert vocabulary.search("qqqq") == []


def test_only_english_is_read_for_an_english_prompt_and_nothing_heavy_is_imported() -> None:
    code = """
import sys
from sdcli.models import shipped
from sdcli.models.vocabulary import Vocabulary
vocabulary = Vocabulary.find(shipped.BUILTIN)
vocabulary.read("a cat and a flying astronaut")
assert list(vocabulary._languages) == ["en"], vocabulary._languages.keys()
assert not {"torch", "transformers", "diffusers", "PIL"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_without_words_has_no_vocabulary_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert Vocabulary.find(tmp_path) is None
    (tmp_path / "words").mkdir()
    (tmp_path / "words/en.json").write_text("{")
    damaged = Vocabulary.find(tmp_path)
    assert damaged is not None
    with pytest.raises(ModelError, match=r"en\.json cannot be read"):
        damaged.read("a cat")


def test_no_word_of_a_file_is_lost_to_another_spelling() -> None:
    """Words are looked up as they are written in the files."""
    import json

    for path in (shipped.BUILTIN / "words").glob("*.json"):
        words = json.loads(path.read_text("utf-8"))["words"]
        some = [word for names, tags in words.values() for word in (*names, *tags)][::50]
        assert [canonical(word) for word in some] == some, path.name
