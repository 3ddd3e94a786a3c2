"""The pieces of training that a wrong figure would not give away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import icons
import model
import numpy as np
import pytest
import torch
from evaluate import Trial, parts_of
from hypothesis import given
from hypothesis import strategies as st
from icons import GROUNDS, Icon, ground_of, render
from model import MAX_TOKENS, MAX_WORDS, REGIONS, Captions, Vocabulary
from PIL import Image, ImageDraw
from prepare import names_of
from scenes import COUPLES, Scene, Scenes, couple_held_out, every_word, sentence_of
from train_text import PART, lessons

TOKENIZER = Path(__file__).parents[2] / "sdcli" / "models" / "builtin" / "tokenizer"


def icon(label: str, style: str = "3d", *, words: tuple[str, ...] = (), colour: str | None = None) -> Icon:
    return Icon(f"{style}/{label}", Path("none.png"), label, style, words or (label,), (), colour, 1.0)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENIZER, ["a cat next to a pizza", "dog", "on a blue background"])


def test_compact_captions_of_full_length_encode_as_the_full_ones(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = MAX_TOKENS - REGIONS
    monkeypatch.setattr(model, "MAX_WORDS", words)
    encoder = vocabulary.new_text_encoder().eval()
    rows = [[*row[: words - 1], vocabulary.end] for row in vocabulary.rows(["a cat " * 40, "next to a pizza " * 20])]
    captions = Captions.of(rows, vocabulary.end, np.random.default_rng(0))
    padded = torch.tensor([row + [vocabulary.end] * REGIONS for row in rows])
    with torch.no_grad():
        theirs = encoder(input_ids=padded).last_hidden_state
        ours = captions.spread(captions.encode(encoder))
    torch.testing.assert_close(ours, theirs)


def test_what_fills_up_a_shorter_caption_changes_nothing(vocabulary: Vocabulary) -> None:
    encoder = vocabulary.new_text_encoder().eval()
    short, long = vocabulary.rows(["a cat", "a cat next to a pizza on a blue background"])
    with torch.no_grad():
        alone = Captions.of([short], vocabulary.end, np.random.default_rng(0))
        beside = Captions.of([short, long], vocabulary.end, np.random.default_rng(0))
        beside.positions[0, -REGIONS:] = alone.positions[0, -REGIONS:]
        beside.mask[0, :, :, -REGIONS:] = alone.mask[0, :, -1:, -REGIONS:] + (
            beside.mask[0, :, :, -REGIONS:] < -1e8
        ) * torch.tensor(-1e9)
        states, others = alone.encode(encoder), beside.encode(encoder)[:1]
    torch.testing.assert_close(others[:, -REGIONS:], states[:, -REGIONS:], rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_each_padding_position_is_stood_for_by_one_of_its_region(lengths: list[int], seed: int) -> None:
    rows = [[1, *[2] * (length - 2), 3] for length in lengths]
    captions = Captions.of(rows, 3, np.random.default_rng(seed))
    for row, length in enumerate(lengths):
        kept = min(length, MAX_WORDS)
        places = captions.positions[row][captions.stand_ins[row]]
        assert places[:kept].tolist() == list(range(kept))
        assert captions.ids[row, kept - 1] == 3, "a cut caption still ends"
        padding = torch.arange(kept, MAX_TOKENS)
        assert bool((places[kept:] >= kept).all())
        assert bool(((places[kept:] - padding) % REGIONS == 0).all())
        counts = captions.stand_ins[row].bincount(minlength=captions.ids.shape[1]).float()
        torch.testing.assert_close(captions.mask[row, 0, -1].exp(), counts, rtol=1e-5, atol=1e-6)
        parts = torch.arange(REGIONS).expand(len(rows), -1)[..., None]
        wanted = captions.regions(parts)[row, :, 0]
        assert wanted.tolist() == (captions.positions[row, -REGIONS:] % REGIONS).tolist()


def test_unknown_words_are_read_as_a_word_that_says_nothing(vocabulary: Vocabulary) -> None:
    known, unknown = vocabulary.rows(["a picture", "a zeppelin"])
    assert unknown[:2] == known[:2]
    assert set(unknown[2:-1]) == {vocabulary.neutral}


def test_no_word_belongs_to_two_concepts() -> None:
    entries = [
        {"label": "cat", "tags": ["pet", "kitty"]},
        {"label": "cat face", "tags": ["pet", "face"]},
        {"label": "dog", "tags": ["pet", "puppy"]},
    ]
    names = names_of(entries, {"cat face": ["kitty"]})
    assert names["cat"][0] == ["cat"]
    assert names["cat face"][0] == ["kitty", "cat face", "face"]
    assert names["dog"][0] == ["dog", "puppy"]
    assert "pet" in names["dog"][1]
    with pytest.raises(ValueError, match="two concepts"):
        names_of(entries, {"cat": ["pet"], "dog": ["pet"]})


@given(st.integers(0, 2**32 - 1))
@pytest.mark.slow
def test_sentences_name_what_a_scene_shows_and_have_only_known_tokens(seed: int) -> None:
    shown = [icon("red apple", words=("apple",)), icon("owl"), icon("cat", "flat"), icon("bus", "flat")]
    random = np.random.default_rng(seed)
    vocabulary = Vocabulary(TOKENIZER, every_word(shown))
    scene = Scene((2, 3), 7, list(COUPLES)[seed % len(COUPLES)])
    sentence = sentence_of(random, scene, shown)
    assert sentence.index("cat") < sentence.index("bus")
    assert "flat" in sentence and list(GROUNDS)[7] in sentence
    alone = sentence_of(random, Scene((1,), 0, (0, 0)), shown)
    assert "owl" in alone and "a owl" not in alone
    assert vocabulary.neutral not in vocabulary.rows([sentence])[0]


def test_held_out_drawings_and_couples_never_come_up() -> None:
    labels = [f"thing {number}" for number in range(60)]
    all_icons = [icon(label, style) for label in labels for style in ("3d", "flat", "outlined")]
    left_out = {index for index, one in enumerate(all_icons) if one.pair_held_out}
    assert left_out and not any(all_icons[index].style == "3d" for index in left_out)
    random, scenes = np.random.default_rng(0), Scenes(all_icons, 0.5)
    drawn = [scenes.draw(random) for _ in range(3000)]
    assert not left_out & {index for scene in drawn for index in scene.icons}
    couples = [scene.icons for scene in drawn if len(scene.icons) == 2]
    assert couples
    assert not any(couple_held_out(*(all_icons[index].label for index in pair)) for pair in couples)
    assert len({all_icons[one].style == all_icons[other].style for one, other in couples}) == 1


def test_lessons_pair_each_caption_with_its_own_sketch() -> None:
    class Painter:
        """Its sketches are as bright as the number of what they show."""

        def sketch(self, scene: Scene) -> torch.Tensor:
            return torch.full((4, 16, 16), 1.0 + scene.icons[0] % len(labels))

    labels = ["owl", "taco", "banana", "alarm clock"]
    shown = [icon(label, style) for style in ("3d", "flat", "outlined") for label in labels]
    vocabulary = Vocabulary(TOKENIZER, every_word(shown))
    own = vocabulary.rows(labels)
    parts = lessons(np.random.default_rng(0), Scenes(shown, 0.0), Painter(), vocabulary, 3 * PART)  # type: ignore[arg-type]
    assert len(parts) == 3
    told = []
    for captions, wanted in parts:
        assert wanted.shape == (PART, REGIONS, 64)
        for ids, sketch in zip(captions.ids.tolist(), wanted, strict=True):
            named = [number for number, tokens in enumerate(own) if set(tokens[1:-1]) <= set(ids)]
            assert sketch.unique().tolist() == ([1.0 + named[0]] if named else [0.0])
            told += named
    assert set(told) == set(range(len(labels))) and len(told) < 3 * PART, "some captions are empty"


@pytest.mark.parametrize(("place", "boxes"), [((-1, 0), [(8, 70), (72, 4)]), ((0, 1), [(50, 80), (12, 4)])])
def test_the_judge_sees_each_thing_of_a_couple_as_if_alone(
    place: tuple[int, int], boxes: list[tuple[int, int]]
) -> None:
    picture = Image.new("RGB", (128, 128), GROUNDS["blue"])
    draw = ImageDraw.Draw(picture)
    for (across, down), colour in zip(boxes, ("red", "yellow"), strict=True):
        draw.rectangle((across, down, across + 39, down + 19), fill=colour)
        draw.point((across - 3, down), fill="white")
    trial = Trial("", ("red", "yellow"), "3d", "blue", place)
    parts = parts_of(picture, trial)
    for part, colour in zip(parts, ((255, 0, 0), (255, 255, 0)), strict=True):
        assert part.width == part.height == 47
        assert part.getpixel((23, 23)) == colour
        shown = np.argwhere((np.asarray(part) == colour).all(2))
        assert (shown.max(0) - shown.min(0) + 1).tolist() == [20, 40]
        assert part.getpixel((0, 0)) == GROUNDS["blue"]
    assert parts_of(picture, replace(trial, labels=("red",))) == [picture]
    blank = Image.new("RGB", (128, 128), GROUNDS["blue"])
    assert all(len(part.getcolors() or []) == 1 for part in parts_of(blank, trial))


def test_pictures_are_the_same_every_time_and_stand_on_their_ground() -> None:
    drawing = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(drawing).ellipse((8, 8, 56, 56), fill="black")
    drawing = drawing.convert("RGBa")
    outlined = icon("ring", "outlined")
    for variant in range(6):
        picture = render(outlined, drawing, variant, 64)
        assert np.array_equal(picture, render(outlined, drawing, variant, 64))
        ground = ground_of(outlined.key, variant)
        assert tuple(picture[0, 0]) == GROUNDS[ground]
        ink = picture[32, 32].astype(int)
        assert abs(ink - GROUNDS[ground]).sum() > 200, "the ink shows on its ground"
    assert render(replace(outlined, style="flat"), drawing, 0, 64)[32, 32].max() == 0
    assert render(outlined, drawing, 1, 32, margin=8).shape == (48, 48, 3)
    assert icons.ground_of(outlined.key, 0) == "white"
