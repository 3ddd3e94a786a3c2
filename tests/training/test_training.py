"""Unit tests of the training code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import icons
import model
import numpy as np
import pytest
import torch
import train_text
from codes import CODE_SIZE, NOTHING, VIEWS, Codes, layout_of
from dataset import Latents, Redrawn
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from evaluate import Trial, object_crops
from hypothesis import given
from hypothesis import strategies as st
from icons import BACKGROUNDS, PLAIN_VARIANTS, TINTS, VARIANTS, Icon, background_of, render
from imagine import as_drawing, augmented
from model import (
    MAX_TOKENS,
    MAX_WORDS,
    REGIONS,
    TEXT_WIDTH,
    VIEW,
    Captions,
    Vocabulary,
    cell_of,
    new_unet,
    new_vae,
)
from PIL import Image, ImageDraw
from prepare import names_of
from redraw import STARTS, STEPS, redraw
from scenes import NAME_END, RELATIONS, Composer, Scene, Scenes, caption_of, every_word, pair_held_out
from tokens import write_smaller
from train_text import (
    CODE_SCALE,
    MAX_NORM,
    NORM,
    PART,
    CaptionBatches,
    caption_rows,
    fixed_norm,
    patches_from,
    with_fillers,
    write_decoders,
)
from train_unet import MIN_SELF_DENOISED, SELF_DENOISED, Batch, PositionLoss, self_denoised, start_from
from train_vae import decode_double, deepened, doubled
from transformers.models.clip.tokenization_clip import CLIPTokenizer

TOKENIZER = Path(__file__).parents[2] / "sdcli" / "models" / "vocabularies" / "clip"


def icon(label: str, style: str = "3d", *, words: tuple[str, ...] = (), colour: str | None = None) -> Icon:
    return Icon(f"{style}/{label}", Path("none.png"), label, style, words or (label,), (), colour, 1.0)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENIZER, ["a cat next to a pizza", "dog", "on a blue background"])


def test_captions_encode_like_all_77_tokens(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    words = MAX_TOKENS - REGIONS
    monkeypatch.setattr(model, "MAX_WORDS", words)
    encoder = vocabulary.new_text_encoder().eval()
    texts = ["a cat " * 40, "next to a pizza " * 20]
    rows = [[*row[: words - 1], vocabulary.end] for row in vocabulary.rows(texts)[0]]
    captions = Captions.of(rows, vocabulary.end, np.random.default_rng(0))
    padded = torch.tensor([row + [vocabulary.end] * REGIONS for row in rows])
    with torch.no_grad():
        theirs = encoder(input_ids=padded).last_hidden_state
        ours = captions.spread(captions.encode(encoder))
    torch.testing.assert_close(ours, theirs)


def test_filling_up_a_caption_does_not_change_its_states(vocabulary: Vocabulary) -> None:
    encoder = vocabulary.new_text_encoder().eval()
    short, long = vocabulary.rows(["a cat", "a cat next to a pizza on a blue background"])[0]
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
def test_each_padding_token_is_replaced_by_one_of_its_region(lengths: list[int], seed: int) -> None:
    rows = [[1, *[2] * (length - 2), 3] for length in lengths]
    captions = Captions.of(rows, 3, np.random.default_rng(seed))
    for row, length in enumerate(lengths):
        kept = min(length, MAX_WORDS)
        positions = captions.positions[row][captions.stand_ins[row]]
        assert positions[:kept].tolist() == list(range(kept))
        assert captions.ids[row, kept - 1] == 3, "a truncated caption has an end token"
        padding = torch.arange(kept, MAX_TOKENS)
        assert bool((positions[kept:] >= kept).all())
        assert bool(((positions[kept:] - padding) % REGIONS == 0).all())
        counts = captions.stand_ins[row].bincount(minlength=captions.ids.shape[1]).float()
        torch.testing.assert_close(captions.mask[row, 0, -1].exp(), counts, rtol=1e-5, atol=1e-6)
        parts = torch.arange(REGIONS).expand(len(rows), -1)[..., None]
        wanted = captions.regions(parts)[row, :, 0]
        assert wanted.tolist() == (captions.positions[row, -REGIONS:] % REGIONS).tolist()


def test_unknown_words_become_the_neutral_word(vocabulary: Vocabulary) -> None:
    known, unknown = vocabulary.rows(["a dog", "a zeppelin"])[0]
    assert unknown[:2] == known[:2]
    assert set(unknown[2:-1]) == {vocabulary.neutral}


def test_training_can_start_from_an_exported_text_encoder(vocabulary: Vocabulary) -> None:
    trained = vocabulary.new_text_encoder()
    taken_up = vocabulary.narrow(vocabulary.widen(trained).half())
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(taken_up.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="tokens"):
        vocabulary.narrow(trained)


def test_no_name_belongs_to_two_concepts() -> None:
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


@functools.cache
def captioned_icons() -> tuple[list[Icon], Vocabulary]:
    shown = [icon("red apple", words=("apple",)), icon("owl"), icon("cat", "flat"), icon("bus", "flat")]
    return shown, Vocabulary(TOKENIZER, every_word(shown))


@given(st.integers(0, 2**32 - 1))
def test_captions_name_the_objects_and_have_only_known_tokens(seed: int) -> None:
    shown, vocabulary = captioned_icons()
    random = np.random.default_rng(seed)
    scene = Scene((2, 3), 7, list(RELATIONS)[seed % len(RELATIONS)])
    sentence = caption_of(random, scene, shown)
    assert sentence.index("cat") < sentence.index("bus")
    assert "flat" in sentence and list(BACKGROUNDS)[7] in sentence
    alone = caption_of(random, Scene((1,), 0, (0, 0)), shown)
    assert "owl" in alone and "a owl" not in alone
    rows, ends = vocabulary.rows([sentence])
    assert vocabulary.neutral not in rows[0]
    names = [vocabulary.rows([word])[0][0][-2] for word in ("cat", "bus")]
    assert [rows[0][place] for place in ends[0]] == names


def test_held_out_drawings_and_pairs_are_never_sampled() -> None:
    labels = [f"object {number}" for number in range(60)]
    all_icons = [icon(label, style) for label in labels for style in ("3d", "flat", "outlined")]
    left_out = {index for index, one in enumerate(all_icons) if one.style_held_out}
    assert left_out and not any(all_icons[index].style == "3d" for index in left_out)
    random, scenes = np.random.default_rng(0), Scenes(all_icons, 0.5)
    drawn = [scenes.sample(random) for _ in range(3000)]
    assert not left_out & {index for scene in drawn for index in scene.icons}
    pairs = [scene.icons for scene in drawn if len(scene.icons) == 2]
    assert pairs
    assert not any(pair_held_out(*(all_icons[index].label for index in pair)) for pair in pairs)
    assert len({all_icons[one].style == all_icons[other].style for one, other in pairs}) == 1


def test_the_smaller_tokenizer_tokenizes_captions_like_clip(tmp_path: Path) -> None:
    shown = [icon("ice cream cone"), icon("piñata", words=("piñata", "woman's clothes", "8 ball")), icon("t-rex")]
    write_smaller(TOKENIZER, every_word(shown), tmp_path)
    whole, smaller = (CLIPTokenizer.from_pretrained(folder) for folder in (TOKENIZER, tmp_path))
    assert 4000 < len(smaller) < 6000
    texts = [*every_word(shown), "a piñata next to woman's clothes, flat", "T-Rex  on a blue background"]
    for text in texts:
        assert smaller.tokenize(text) == whole.tokenize(text)
    odd = smaller("kirschwässer ☃ 東京")["input_ids"]
    assert smaller.decode(odd[1:-1]).split() == ["kirschwässer", "☃", "東京"], "unknown words become letters"
    assert smaller.eos_token_id == len(smaller) - 1 == smaller.bos_token_id + 1


LABELS = ("owl", "taco", "banana", "alarm clock", "red apple", "ghost")


def some_icons() -> list[Icon]:
    return [icon(label, style) for label in LABELS for style in ("3d", "flat", "outlined")]


class SomeLatents:
    """Random latents of these icons; predicted latents of held-out ones are 5."""

    def __init__(self, imagined: bool = False) -> None:
        random = torch.Generator().manual_seed(0)
        self.backgrounds = torch.randn(len(BACKGROUNDS), 4, 1, 1, generator=random).expand(-1, -1, 16, 16)
        self.singles = torch.randn(1, len(some_icons()), 4, 16, 16, generator=random)
        self.tiles = torch.randn(1, len(some_icons()), 4, 8, 8, generator=random)
        self._imagined = imagined

    def imagined(self, kind: str) -> torch.Tensor | None:
        held_out = sum(one.style_held_out for one in some_icons())
        return 5 + torch.zeros(held_out, *getattr(self, kind).shape[2:]) if self._imagined else None


def codes_of(imagined: bool = False) -> Codes:
    return Codes.of(SomeLatents(imagined), some_icons())  # type: ignore[arg-type]


@pytest.fixture
def some_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds out one drawing of the six concepts: the flat taco."""
    monkeypatch.setattr(Icon, "style_held_out", property(lambda self: self.key == "flat/taco"))


@pytest.mark.usefixtures("some_held_out")
def test_codes_decode_to_their_drawings() -> None:
    latents, codes = SomeLatents(), codes_of()
    patches = codes.patches()
    whole = [(number, one) for number, one in enumerate(some_icons()) if one.label != "taco"]
    for number, one in whole:
        made = patches[codes.labels.index(one.label), ["3d", "flat", "outlined"].index(one.style)]
        single, tile = latents.singles[0, number], latents.tiles[0, number]
        # The second row's third square of it alone, the first row's second of it beside another.
        for view, square in ((6, single[:, 4:8, 8:12]), (17, tile[:, :4, 4:])):
            wanted = (square - latents.backgrounds[0, :, :1, :1]).flatten()
            assert (made[view] - wanted).square().mean() < 0.01, one.key
    assert codes.backgrounds[0].abs().max() == 0 and codes.backgrounds[1].abs().max() > 0


@pytest.mark.usefixtures("some_held_out")
def test_codes_do_not_depend_on_held_out_drawings() -> None:
    latents = SomeLatents()
    for number, one in enumerate(some_icons()):
        if one.style_held_out:
            latents.singles[0, number] = latents.tiles[0, number] = 99.0
    torch.testing.assert_close(Codes.of(latents, some_icons()).codes, codes_of().codes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("some_held_out")
def test_predicted_drawings_replace_held_out_ones() -> None:
    codes = codes_of(imagined=True)
    made = codes.patches()[codes.labels.index("taco"), 1]
    wanted = 5 - SomeLatents().backgrounds[0, :, :1, 0].repeat_interleave(16)
    torch.testing.assert_close(made[6], wanted.expand_as(made[6]), rtol=0.05, atol=0.05)


def test_the_layout_contains_each_view_of_each_object_once() -> None:
    for place in ((0, 0), *RELATIONS):
        shown = layout_of(place)
        objects = {number for number, _ in shown} - {NOTHING}
        assert objects == ({0, 1} if any(place) else {0})
        for number in objects:
            views = [view for one, view in shown if one == number]
            assert sorted(views) == (list(range(16, 20)) if any(place) else list(range(16)))
    assert [number for number, _ in layout_of((-1, 0))[4:8]] == [0, 0, 1, 1], "the first is left of the second"
    assert [number for number, _ in layout_of((0, 1))[:4]] == [NOTHING, 1, 1, NOTHING], "the first is below the second"


class NumberedLatents:
    """All latents of a variant equal its number; those of backgrounds are -1."""

    def __init__(self, icons: list[Icon], variants: int) -> None:
        self._icons = icons
        numbers = torch.arange(variants, dtype=torch.float)[:, None, None, None, None]
        self.singles = numbers.expand(-1, len(icons), 4, 16, 16)
        self.tiles = numbers.expand(-1, len(icons), 4, 8, 8)
        self.backgrounds = torch.full((len(BACKGROUNDS), 4, 16, 16), -1.0)

    backgrounds_of = Latents.backgrounds_of


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_composed_images_are_plain_or_else_tinted_or_shifted(seed: int, plain: bool) -> None:
    shown, random = some_icons(), np.random.default_rng(seed)
    latents = NumberedLatents(shown, 6)
    composer = Composer(latents, shown)  # type: ignore[arg-type]
    scene = Scenes(shown, 0.5).sample(random)
    image, composed = composer.compose(random, scene, plain)
    variants = {int(number) for number in image.unique().tolist()} - {-1}
    if plain:
        assert variants <= {0, 2, 4}
        if any(composed.place):
            wanted, variant_of = torch.full((16, 16), -1.0), dict[int, int]()
            for region, (number, _) in enumerate(layout_of(composed.place)):
                row, column = divmod(region, 4)
                square = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
                if number != NOTHING:
                    variant = variant_of.setdefault(number, int(image[0][square][0, 0]))
                    assert (
                        background_of(shown[composed.icons[number]].key, variant)
                        == list(BACKGROUNDS)[composed.background]
                    )
                    wanted[square] = variant
            assert torch.equal(image[0], wanted)
    else:
        assert composed.background or not variants & {0, 2, 4}, "without plain, no variant is plain"
    assert composed.tinted == (not any(composed.place) and not plain and not composed.background)
    if composed.tinted:
        assert " background" not in caption_of(random, composed, shown), "a tint is not named"
    names = list(BACKGROUNDS)
    for index in composed.icons:
        assert names[composed.background] in {background_of(shown[index].key, variant) for variant in variants}
    assert (composed.background == 0) <= (variants <= {0, 1, 3, 5})


@given(st.integers(0, 2**32 - 1))
def test_codes_in_tokens_have_a_fixed_norm(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = torch.from_numpy(random.normal(size=(8, CODE_SIZE)) * random.uniform(0, 3)).float()
    codes = codes[codes.norm(dim=1) < MAX_NORM]
    padding = fixed_norm(codes)
    torch.testing.assert_close(padding[:, :-1], CODE_SCALE * codes)
    torch.testing.assert_close(padding.norm(dim=1), torch.full((len(codes),), NORM))


def test_decoders_in_the_text_encoder_give_the_patches(vocabulary: Vocabulary) -> None:
    codes = codes_of()
    text_encoder = vocabulary.new_text_encoder().eval()
    write_decoders(text_encoder, codes)
    caption_batches = CaptionBatches(Scenes(some_icons(), 0.5), codes, vocabulary)
    assert all(weight.abs().max() < 1e4 for weight in text_encoder.parameters()), "in the range of float16"
    parts = caption_batches.captions(np.random.default_rng(0), PART)
    for batch in parts:
        with torch.no_grad():
            made = patches_from(text_encoder, batch.padding)
        assert (made - batch.patches).square().mean() < 0.01 * batch.patches.square().mean()
        shuffled = batch.padding.roll(1, 1)
        with torch.no_grad():
            other = patches_from(text_encoder, shuffled)
        assert (other - batch.patches).square().mean() > batch.patches.square().mean()


def test_directions_with_the_largest_variance_get_the_units(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = codes_of()
    empty = [view for view in range(VIEWS) if view % 4]
    codes.decoders[:, empty] *= 1e-3
    groups = 3 * VIEWS
    # Patches of six objects have five directions: there are units for every fourth view, and few more.
    for module in (model, train_text):
        monkeypatch.setattr(module, "UNITS", groups + 5 * groups // 4 + 3)
    text_encoder = vocabulary.new_text_encoder().eval()
    write_decoders(text_encoder, codes)
    for batch in CaptionBatches(Scenes(some_icons(), 0.5), codes, vocabulary).captions(np.random.default_rng(0), PART):
        with torch.no_grad():
            made = patches_from(text_encoder, batch.padding)
        assert (made - batch.patches).square().mean() < 0.01 * batch.patches.square().mean()


def test_targets_contain_the_codes_of_the_objects_in_the_caption(vocabulary: Vocabulary) -> None:
    shown = some_icons()
    vocabulary = Vocabulary(TOKENIZER, every_word(shown))
    codes = codes_of()
    codes_in_tokens = fixed_norm(codes.codes)
    own = vocabulary.rows(list(codes.labels))[0]
    parts = CaptionBatches(Scenes(shown, 0.5), codes, vocabulary).captions(np.random.default_rng(0), 3 * PART)
    assert len(parts) == 3
    empty = 0
    for batch in parts:
        assert batch.padding.shape == (PART, REGIONS, TEXT_WIDTH)
        for row, place, named in zip(batch.rows.tolist(), batch.places.tolist(), batch.named, strict=True):
            concept = int((codes_in_tokens - named).norm(dim=1).argmin())
            words = own[concept][1:-1]
            ids = batch.captions.ids[row].tolist()
            assert ids[place + 1 - len(words) : place + 1] == words
        for row, padding in enumerate(batch.padding):
            named = {tuple(code) for code in batch.named[batch.rows == row].tolist()}
            showing = padding[padding[:, VIEW].sum(1) > 0]
            seen = {tuple(code) for code in showing[:, : CODE_SIZE + 1].tolist()}
            assert seen == named
            empty += not named
    assert 0 < empty < PART


def test_fillers_shift_the_ends_of_names() -> None:
    random = np.random.default_rng(0)
    rows, ends = [[1, 5, 6, 7, 2]] * 200, [[2, 3]] * 200
    filled, moved = with_fillers(random, rows, ends, 9)
    assert 10 < sum(len(row) > 5 for row in filled) < 60
    for row, positions in zip(filled, moved, strict=True):
        assert [row[place] for place in positions] == [6, 7]
        assert [token for token in row if token != 9] == [1, 5, 6, 7, 2]


def test_some_captions_are_empty(vocabulary: Vocabulary) -> None:
    rows, ends, empty = caption_rows(np.random.default_rng(0), [f"a cat{NAME_END}"] * 400, vocabulary)
    assert 20 < empty.sum() < 70
    assert all((not positions) == nothing for positions, nothing in zip(ends, empty, strict=True))
    assert all(len(row) == 2 for row, nothing in zip(rows, empty, strict=True) if nothing)


@pytest.mark.slow
def test_a_unet_adapts_to_another_text_encoder(tmp_path: Path) -> None:
    words = ["a cat next to a pizza", "dog", "an owl on a blue background"]
    ours, theirs = Vocabulary(TOKENIZER, words), Vocabulary(TOKENIZER, [*words, "further words"])
    encoder, other_encoder = ours.new_text_encoder().eval(), theirs.new_text_encoder().eval()
    earlier, unet = new_unet(64).eval(), new_unet(64).eval()
    earlier.save_pretrained(tmp_path / "unet")
    theirs.widen(other_encoder).save_pretrained(tmp_path / "text_encoder")
    theirs.tokenizer.save_pretrained(tmp_path / "tokenizer")
    start_from(unet, tmp_path, ours, encoder, words)
    tokens = {"padding": "max_length", "max_length": MAX_TOKENS, "return_tensors": "pt"}
    with torch.no_grad():
        states = ours.widen(encoder)(ours.tokenizer(words, **tokens).input_ids).last_hidden_state
        other_states = theirs.widen(other_encoder)(theirs.tokenizer(words, **tokens).input_ids).last_hidden_state
        noise, timesteps = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 999])
        drawn = unet(noise, timesteps, encoder_hidden_states=states).sample
        wanted = earlier(noise, timesteps, encoder_hidden_states=other_states).sample
        blind = earlier(noise, timesteps, encoder_hidden_states=states).sample
    assert (drawn - wanted).square().mean() < 0.05 * (blind - wanted).square().mean()


def test_queries_learn_their_position() -> None:
    torch.manual_seed(0)
    unet = new_unet(64)
    positions = PositionLoss(unet)
    optimizer = torch.optim.Adam([*unet.parameters(), *positions.parameters()], lr=2e-3)
    losses = []
    for _ in range(10):
        unet(torch.randn(2, 4, 8, 8), torch.randint(1000, (2,)), encoder_hidden_states=torch.randn(2, 77, TEXT_WIDTH))
        loss = positions()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.4, "untrained, it is the mean of log 2, log 4 and log 8"
    assert losses[-1] < 0.5
    with pytest.raises(ValueError, match="shorter"):
        positions()  # queries are used once


@pytest.mark.parametrize("blotch", [0.0, 0.5])
def test_the_target_after_self_denoising_is_the_true_image(blotch: float) -> None:
    torch.manual_seed(0)
    scheduler = model.new_scheduler()
    clean, noise = torch.randn(2, 9, 4, 8, 8)
    timesteps = torch.tensor([5, 5, 5, 300, 300, 300, 999, 999, 999])
    noisy, target = scheduler.add_noise(clean, noise, timesteps), scheduler.get_velocity(clean, noise, timesteps)
    later = torch.tensor([700, 900, 999])
    assert len(clean[SELF_DENOISED]) == 3 and MIN_SELF_DENOISED > 5
    earlier = scheduler.add_noise(clean[SELF_DENOISED], noise[SELF_DENOISED], later)
    captions = Captions.of([[0, 1]] * 9, 1, np.random.default_rng(0))
    batch = Batch(clean, noisy, timesteps, captions, target, torch.ones(9), earlier, later)

    def network(given: torch.Tensor, at: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
        assert torch.equal(given, earlier) and torch.equal(at, later)
        return SimpleNamespace(sample=scheduler.get_velocity(clean[SELF_DENOISED] + blotch, noise[SELF_DENOISED], at))

    signal = scheduler.alphas_cumprod
    seen, aim = self_denoised(network, batch, torch.zeros(9, 77, TEXT_WIDTH), signal)
    kept = signal[timesteps][:, None, None, None]
    assert torch.allclose(kept.sqrt() * seen - (1 - kept).sqrt() * aim, clean, atol=1e-4), (
        "the target is the true image"
    )
    moved_on = [not torch.allclose(one, other, atol=1e-4) for one, other in zip(seen, noisy, strict=True)]
    assert moved_on == [number == 3 and blotch > 0 for number in range(9)]


@pytest.mark.parametrize("make", [AutoencoderTiny, new_vae])
def test_additional_decoder_blocks_do_not_change_the_output(make: Callable[[], AutoencoderTiny]) -> None:
    torch.manual_seed(0)
    vae = make()
    deep = deepened(vae)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latents
        assert torch.equal(deep.encode(images).latents, latents)
        assert torch.allclose(deep.decode(latents).sample, vae.decode(latents).sample, atol=1e-5)
    assert deep.config["num_decoder_blocks"] == new_vae().config["num_decoder_blocks"]


def test_a_vae_of_twice_the_size_starts_as_the_enlarged_one() -> None:
    torch.manual_seed(0)
    vae = new_vae()
    double = doubled(vae)
    assert (cell_of(vae), cell_of(double)) == (8, 16)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    enlarged = images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    with torch.no_grad():
        latents = vae.encode(images).latents
        assert torch.allclose(double.encode(enlarged).latents, latents, atol=1e-5)
        decoded = vae.decode(latents).sample.repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(double.decode(latents).sample, decoded, atol=1e-5)
        for weight in double.decoder.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
        inside = (..., slice(1, -1), slice(1, -1))
        fast, slow = decode_double(double, latents), double.decode(latents).sample
        assert torch.allclose(fast[inside], slow[inside], atol=1e-4)


@pytest.mark.parametrize("start", STARTS)
def test_redrawing_starts_from_the_noisy_drawing(start: int) -> None:
    """A perfect denoiser restores the drawing; one that predicts zeros does not."""
    torch.manual_seed(0)
    scheduler = model.new_scheduler()
    clean, noise, states = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.zeros(2, 77, TEXT_WIDTH)
    asked = []

    def perfect(given: torch.Tensor, at: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
        kept = scheduler.alphas_cumprod[at]
        asked.append(int(at))
        twice = torch.cat((clean, clean))
        return SimpleNamespace(sample=(kept.sqrt() * given - twice) / (1 - kept).sqrt())

    def blind(given: torch.Tensor, *_: torch.Tensor, **__: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.zeros_like(given))

    restored, other = (
        redraw(unet, clean, states, states[:1], scale=2.0, start=start, noise=noise)  # type: ignore[arg-type]
        for unet in (perfect, blind)
    )
    assert torch.allclose(restored, clean, atol=1e-3)
    assert (other - clean).square().mean() > 0.5
    assert len(asked) == STEPS - start and 500 < asked[0] < 800


def test_redrawn_images_survive_a_restart() -> None:
    before, after = Redrawn(), Redrawn()
    before.add([7], [2], torch.ones(1, 4, 8, 8))
    before.add([9, 3], [0, 1], torch.zeros(2, 4, 8, 8))
    after.load_state_dict(before.state_dict())
    after.add([5], [6], torch.full((1, 4, 8, 8), 2.0))
    assert [(*after[index][:2], float(after[index][2].mean())) for index in range(len(after))] == [
        (7, 2, 1.0), (9, 0, 0.0), (3, 1, 0.0), (5, 6, 2.0),
    ]  # fmt: skip


def test_predicted_drawings_are_ink_or_opaque() -> None:
    dark = torch.full((3, 32, 32), -0.8)
    dark[:, :16] = 0
    ink = as_drawing(dark, "outlined").getchannel("a")
    assert ink.getpixel((4, 4)) == 0 and ink.getpixel((4, 28)) == 255
    flat = as_drawing(dark, "flat").convert("RGBA")
    assert flat.getpixel((4, 4)) == (*BACKGROUNDS["white"], 255) and flat.getpixel((4, 28)) == (41, 41, 41, 255)


@given(st.integers(0, 2**32 - 1))
def test_all_styles_of_a_concept_get_the_same_augmentation(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 1, 128, 128, generator=random)
    one, other = augmented(image.expand(-1, 2, -1, -1), random).unbind(1)
    assert torch.equal(one, other) and not torch.equal(one, image[:, 0])


@pytest.mark.parametrize(("place", "boxes"), [((-1, 0), [(8, 70), (72, 4)]), ((0, 1), [(50, 80), (12, 4)])])
def test_objects_of_a_pair_are_cropped_and_enlarged(place: tuple[int, int], boxes: list[tuple[int, int]]) -> None:
    image = Image.new("RGB", (128, 128), BACKGROUNDS["blue"])
    draw = ImageDraw.Draw(image)
    for (across, down), colour in zip(boxes, ("red", "yellow"), strict=True):
        draw.rectangle((across, down, across + 39, down + 19), fill=colour)
        draw.point((across - 3, down), fill="white")
    trial = Trial("", ("red", "yellow"), "3d", "blue", place)
    parts = object_crops(image, trial)
    for part, colour in zip(parts, ((255, 0, 0), (255, 255, 0)), strict=True):
        assert part.width == part.height == 47
        assert part.getpixel((23, 23)) == colour
        shown = np.argwhere((np.asarray(part) == colour).all(2))
        assert (shown.max(0) - shown.min(0) + 1).tolist() == [20, 40]
        assert part.getpixel((0, 0)) == BACKGROUNDS["blue"]
    assert object_crops(image, replace(trial, labels=("red",))) == [image]
    blank = Image.new("RGB", (128, 128), BACKGROUNDS["blue"])
    assert all(len(part.getcolors() or []) == 1 for part in object_crops(blank, trial))


def test_rendering_is_deterministic_and_uses_the_background() -> None:
    drawing = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(drawing).ellipse((8, 8, 56, 56), fill="black")
    drawing = drawing.convert("RGBa")
    outlined = icon("ring", "outlined")
    tints = []
    for variant in range(VARIANTS):
        image = render(outlined, drawing, variant, 64)
        assert np.array_equal(image, render(outlined, drawing, variant, 64))
        background = tuple(image[0, 0].tolist())
        if variant in PLAIN_VARIANTS:
            assert background == BACKGROUNDS[background_of(outlined.key, variant)]
        else:
            tints.append(background)
        ink = image[32, 32].astype(int)
        assert abs(ink - background).sum() > 200, "the ink contrasts with the background"
    assert sorted(tints) == sorted(TINTS)
    assert render(replace(outlined, style="flat"), drawing, 0, 64)[32, 32].max() == 0
    images = [render(outlined, drawing, variant, 64) for variant in (0, 2, 1)]
    images += [render(outlined, drawing, variant, 48, margin=8) for variant in (0, 1)]
    shown = [np.abs(image.astype(int) - image[0, 0]).sum(2) > 150 for image in images]
    assert np.mean(shown[0] != shown[1]) < 0.05 and np.mean(shown[0] != shown[2]) < 0.05, "at the same position"
    assert np.mean(shown[3] != shown[4]) > 0.05, "shifted if there is a margin"
    assert images[4].shape == (64, 64, 3) and tuple(images[4][0, 0]) == BACKGROUNDS["white"], (
        "tiles have the same background"
    )
    assert icons.background_of(outlined.key, 0) == "white"
