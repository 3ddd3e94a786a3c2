"""Weights, chunks, breaks and clip skip against diffusers' `StableDiffusionPipeline`, which gets `prompt_embeds`.

The embeddings are computed here with the tokenizer and the text encoder of transformers alone, from weights that are
written down by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from compare import psnr
from samplers import NEGATIVE, NOISE_SCHEDULES, STEPS, SmallModel
from transformers import CLIPTextModel

from sdcli.models.composing import weighted
from sdcli.pipeline import generate

BAR = 60
"""dB of PSNR."""
Weighted = Sequence[tuple[str, float]]
TAGS = ", ".join(f"tag number {number}" for number in range(40))
"""About 160 tokens."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """With a bias in the text encoder's last layer: without, the mean of the embeddings, which is restored, is 0."""
    made = SmallModel(tmp_path_factory.mktemp("prompts") / "small", NOISE_SCHEDULES["v1"])
    bias = torch.randn(16, generator=torch.Generator().manual_seed(1)) + 0.3
    for text_encoder in (made.pipeline.text_encoder, made.model.text_encoder):
        text_encoder.final_layer_norm.bias.data = bias
    return made


def chunk(small: SmallModel, pieces: Weighted, skip: int = 0) -> torch.Tensor:
    """The embeddings of pieces of at most 75 tokens."""
    pipeline = small.pipeline
    ids, weights = [49406], [1.0]
    for text, weight in pieces:
        found = pipeline.tokenizer(text, add_special_tokens=False).input_ids
        ids += found
        weights += [weight] * len(found)
    padding = 77 - len(ids)
    assert padding >= 1
    ids += [49407] * padding
    weights += [1.0] * padding
    with torch.inference_mode():
        layers = pipeline.text_encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
        embeddings = pipeline.text_encoder.final_layer_norm(layers[-1 - skip])
        changed = embeddings * torch.tensor(weights)[None, :, None]
        return changed * embeddings.mean() / changed.mean()


def chunks(small: SmallModel, *each: Weighted, skip: int = 0) -> torch.Tensor:
    return torch.cat([chunk(small, pieces, skip) for pieces in each], dim=1)


def by_embeddings(small: SmallModel, prompt: torch.Tensor, negative: torch.Tensor, sampler: str = "euler") -> object:
    return small.by_diffusers(
        sampler, "auto", prompt=None, negative_prompt=None, prompt_embeds=prompt, negative_prompt_embeds=negative
    )


@pytest.mark.parametrize(
    ("syntax", "prompt", "pieces"),
    [
        ("a1111", "a (red:1.5) [cat], ((hat))", [("a ", 1), ("red", 1.5), (" ", 1), ("cat", 1 / 1.1), (", ", 1),
                                                ("hat", 1.1 * 1.1)]),
        ("novelai", "a {{red}} [cat]", [("a ", 1), ("red", 1.05**2), (" ", 1), ("cat", 1 / 1.05)]),
        ("compel", "a red++ (cat in a hat)0.7", [("a ", 1), ("red", 1.1**2), (" ", 1), ("cat in a hat", 0.7)]),
        ("a1111", r"a \(red\) cat", [("a (red) cat", 1)]),
    ],
)  # fmt: skip
def test_weights(small: SmallModel, syntax: str, prompt: str, pieces: Weighted) -> None:
    ours = small.by_sdcli("euler", "auto", prompt=prompt, prompt_syntax=syntax)
    assert psnr(ours, by_embeddings(small, chunk(small, pieces), chunk(small, [(NEGATIVE, 1)]))) >= BAR
    assert psnr(ours, small.by_sdcli("euler", "auto", prompt=prompt)) < BAR


@pytest.mark.parametrize("sampler", ["euler", "heun", "plms"])
def test_chunks(small: SmallModel, sampler: str) -> None:
    """A full chunk ends at its last comma. The shorter negative prompt gets an empty chunk for each that it lacks."""
    ids = small.pipeline.tokenizer(TAGS, add_special_tokens=False).input_ids
    texts, at = [], 0
    while at < len(ids):
        end = at + 75
        if end < len(ids):
            end = max(place for place in range(at, end) if ids[place] == 267) + 1
        texts.append(small.pipeline.tokenizer.decode(ids[at:end]))
        at = end
    assert len(texts) == 3
    ours = small.by_sdcli(sampler, "auto", prompt=TAGS, long_prompt="chunk")
    prompt = chunks(small, *([(text, 1.0)] for text in texts))
    negative = chunks(small, [(NEGATIVE, 1)], [("", 1)], [("", 1)])
    assert psnr(ours, by_embeddings(small, prompt, negative, sampler)) >= BAR
    assert psnr(ours, small.by_sdcli(sampler, "auto", prompt=TAGS)) < BAR


def test_a_break_and_a_longer_negative_prompt(small: SmallModel) -> None:
    settings = {"prompt_syntax": "a1111", "long_prompt": "chunk"}
    prompts = {"prompt": "a cat BREAK a (hat:1.4)", "negative_prompt": "x BREAK y BREAK z"}
    ours = small.by_sdcli("euler", "auto", **prompts, **settings)
    prompt = chunks(small, [("a cat", 1)], [("a ", 1), ("hat", 1.4)], [("", 1)])
    negative = chunks(small, [("x", 1)], [("y", 1)], [("z", 1)])
    assert psnr(ours, by_embeddings(small, prompt, negative)) >= BAR


def test_clip_skip(small: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # diffusers looks for the last layer where it was before transformers 5.
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    ours = small.by_sdcli("euler", "auto", clip_skip=2)
    # diffusers does not skip a layer for the negative prompt.
    negative = {"negative_prompt": None, "negative_prompt_embeds": chunk(small, [(NEGATIVE, 1)], skip=1)}
    assert psnr(ours, small.by_diffusers("euler", "auto", clip_skip=1, **negative)) >= BAR
    assert psnr(ours, small.by_sdcli("euler", "auto")) < BAR
    both = small.by_sdcli("euler", "auto", prompt="a (cat:1.3)", prompt_syntax="a1111", clip_skip=2)
    prompt = chunk(small, [("a ", 1), ("cat", 1.3)], skip=1)
    assert psnr(both, by_embeddings(small, prompt, chunk(small, [(NEGATIVE, 1)], skip=1))) >= BAR


def test_blend_and_conjunction_of_compel(small: SmallModel) -> None:
    one, other = chunk(small, [("a cat", 1)]), chunk(small, [("a hat", 1)])
    negative = chunk(small, [(NEGATIVE, 1)])
    ours = small.by_sdcli("euler", "auto", prompt='("a cat", "a hat").blend(1, 3)', prompt_syntax="compel")
    assert psnr(ours, by_embeddings(small, one / 4 + other * 3 / 4, negative)) >= BAR
    ours = small.by_sdcli("euler", "auto", prompt='("a cat", "a hat").and(1, 0.5)', prompt_syntax="compel")
    longer = torch.cat([negative, chunk(small, [("", 1)])], dim=1)
    assert psnr(ours, by_embeddings(small, torch.cat([one, other / 2], dim=1), longer)) >= BAR


def test_a_mean_of_rounding_errors_is_not_restored() -> None:
    embeddings = torch.nn.functional.layer_norm(torch.randn(77, 16, generator=torch.Generator().manual_seed(2)), (16,))
    weights = [1.0, 1.5] * 38 + [1.0]
    assert torch.equal(weighted(embeddings, weights), embeddings * torch.tensor(weights)[:, None])
    assert torch.isfinite(weighted(torch.zeros(77, 16), weights)).all()
    biased = weighted(embeddings + 1, weights)
    assert biased.mean() == pytest.approx(1, abs=1e-4)


def test_the_default_is_bit_for_bit_a_syntax_without_weights(small: SmallModel) -> None:
    plain = small.by_sdcli("euler", "auto")
    for settings in ({"long_prompt": "chunk"}, {"prompt_syntax": "a1111"}, {"prompt_syntax": "novelai"}):
        assert (small.by_sdcli("euler", "auto", **settings) == plain).all()


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_parts_and_schedules(small: SmallModel, sampler: str) -> None:
    """Diffusers has neither: its UNet is replaced by one that gets the embeddings of each step and adds the parts."""
    texts = {text: chunk(small, [(text, 1)]) for text in ("a cat", "a dog", "a hat", "x", "y")}
    unet, steps = small.pipeline.unet, iter(range(STEPS))

    def forward(latents: torch.Tensor, time: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        step = next(steps)
        several = (texts["x" if step <= 3 else "y"], texts["a cat" if step <= 5 else "a dog"], texts["a hat"])
        with torch.inference_mode():
            negative, first, other = (
                original(latents[:1], time, encoder_hidden_states=one, return_dict=False)[0] for one in several
            )
        prompt = negative + 1.2 * (first - negative) - 0.4 * (other - negative)
        return (torch.cat([negative, prompt]),)

    original = unet.forward
    unet.forward = forward
    try:
        theirs = small.by_diffusers(sampler, "auto")
    finally:
        unet.forward = original
    prompts = {"prompt": "[a cat:a dog:5] :1.2 AND a hat :-0.4", "negative_prompt": "[x:y:3]"}
    assert psnr(small.by_sdcli(sampler, "auto", prompt_syntax="a1111", **prompts), theirs) >= BAR


def test_an_image_is_the_same_alone_and_beside_longer_prompts(small: SmallModel) -> None:
    alone = small.by_sdcli("euler", "auto", prompt="a cat", long_prompt="chunk")
    values = {"prompt": "a cat", "long_prompt": "chunk"}
    jobs = [small.job("euler", "auto", **values), small.job("euler", "auto", **(values | {"prompt": TAGS}))]
    images, _ = generate(small.model, jobs, lambda step: None)
    assert psnr(small.pixels(images[0]), alone) >= BAR
    assert psnr(small.pixels(images[1]), small.by_sdcli("euler", "auto", prompt=TAGS, long_prompt="chunk")) >= BAR
