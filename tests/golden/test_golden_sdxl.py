"""Stable Diffusion XL against diffusers' `StableDiffusionXLPipeline`: the image of the whole pipeline, and that of
embeddings which are computed here with the tokenizers and text encoders of transformers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from compare import Pixels, psnr
from samplers import NEGATIVE, NOISE_SCHEDULES, PROMPT
from sdxl import SmallXL

from sdcli.errors import UsageError
from sdcli.pipeline import generate

BAR = 60
"""dB of PSNR."""
Weighted = Sequence[tuple[str, float]]
Encoded = tuple[torch.Tensor, torch.Tensor]
"""Embeddings and pooled embedding."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallXL:
    return SmallXL(tmp_path_factory.mktemp("sdxl") / "small", NOISE_SCHEDULES["v1"])


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a", "dpmpp_2m", "unipc", "heun"])
def test_samplers(small: SmallXL, sampler: str) -> None:
    assert psnr(small.by_sdcli(sampler, "auto"), small.by_diffusers(sampler, "auto")) >= BAR


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"negative_prompt": ""}, {"negative_prompt": None}),
        ({"original_size": "1024x512"}, {"original_size": (512, 1024)}),
        ({"crop": "16,256"}, {"crops_coords_top_left": (16, 256)}),
        ({"height": 128}, {"height": 128}),
        ({"scale": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance_rescale": 0.7}, {"guidance_rescale": 0.7}),
        ({"clip_skip": 3, "negative_prompt": ""}, {"clip_skip": 1, "negative_prompt": None}),
    ],
)
def test_settings(small: SmallXL, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    image = small.by_sdcli("euler", "auto", **ours)
    assert psnr(image, small.by_diffusers("euler", "auto", **theirs)) >= BAR
    plain = small.by_sdcli("euler", "auto", negative_prompt=NEGATIVE if "clip_skip" not in ours else "")
    assert image.shape != plain.shape or psnr(image, plain) < BAR


@pytest.mark.parametrize("zeros", [True, False])
def test_an_empty_negative_prompt_is_what_the_model_wants(
    tmp_path_factory: pytest.TempPathFactory, zeros: bool
) -> None:
    """Of a model for few steps, with its own scheduler."""
    turbo = {**NOISE_SCHEDULES["v1"], "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    small = SmallXL(tmp_path_factory.mktemp("turbo") / "small", turbo, zeros=zeros)
    theirs = small.by_diffusers("euler_a", "auto", negative_prompt=None, num_inference_steps=2)
    for more in ({}, {"prompt_syntax": "a1111"}):
        assert psnr(small.by_sdcli("euler_a", "auto", negative_prompt="", steps=2, **more), theirs) >= BAR
    assert (psnr(small.by_sdcli("euler_a", "auto", negative_prompt=" ", steps=2), theirs) >= BAR) != zeros


def test_learned_guidance(tmp_path_factory: pytest.TempPathFactory) -> None:
    lcm = {**NOISE_SCHEDULES["v1"], "_class_name": "LCMScheduler"}
    small = SmallXL(tmp_path_factory.mktemp("lcm") / "small", lcm, unet={"time_cond_proj_dim": 16})
    assert (small.model.spec.default_steps, small.model.spec.guidance_embedding) == (4, 16)
    ours = small.by_sdcli("lcm", "auto", steps=4)
    assert psnr(ours, small.by_diffusers("lcm", "auto", num_inference_steps=4)) >= BAR


def chunk(small: SmallXL, pieces: Weighted, skip: int = 0) -> Encoded:
    """The embeddings of pieces of at most 75 tokens, whose mean is restored for each text encoder."""
    pipeline, found, pooled = small.pipeline, [], torch.empty(0)
    for tokenizer, encoder, padding in (
        (pipeline.tokenizer, pipeline.text_encoder, 49407),
        (pipeline.tokenizer_2, pipeline.text_encoder_2, 0),
    ):
        ids, weights = [49406], [1.0]
        for text, weight in pieces:
            tokens = tokenizer(text, add_special_tokens=False).input_ids
            ids += tokens
            weights += [weight] * len(tokens)
        ids += [49407, *[padding] * (76 - len(ids))]
        weights += [1.0] * (77 - len(weights))
        with torch.inference_mode():
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
            embeddings = output.hidden_states[-2 - skip]
            changed = embeddings * torch.tensor(weights)[None, :, None]
            found.append(changed * embeddings.mean() / changed.mean())
            pooled = output[0]
    return torch.cat(found, dim=-1), pooled


def of_chunks(each: Sequence[Encoded]) -> Encoded:
    return torch.cat([embeddings for embeddings, _ in each], dim=1), each[0][1]


def by_embeddings(small: SmallXL, prompt: Encoded, negative: Encoded, **arguments: Any) -> Pixels:
    return small.by_diffusers(
        "euler", "auto", prompt=None, negative_prompt=None, prompt_embeds=prompt[0], pooled_prompt_embeds=prompt[1],
        negative_prompt_embeds=negative[0], negative_pooled_prompt_embeds=negative[1], **arguments,
    )  # fmt: skip


def test_weights_for_both_text_encoders(small: SmallXL) -> None:
    ours = small.by_sdcli("euler", "auto", prompt="a (red:1.5) [cat]", prompt_syntax="a1111")
    prompt = chunk(small, [("a ", 1), ("red", 1.5), (" ", 1), ("cat", 1 / 1.1)])
    assert psnr(ours, by_embeddings(small, prompt, chunk(small, [(NEGATIVE, 1)]))) >= BAR
    assert psnr(ours, small.by_sdcli("euler", "auto", prompt="a red cat")) < BAR


def test_chunks_have_the_pooled_embedding_of_the_first(small: SmallXL) -> None:
    settings = {"prompt_syntax": "a1111", "long_prompt": "chunk", "clip_skip": 4}
    ours = small.by_sdcli("euler", "auto", prompt="a cat BREAK a (hat:1.4)", negative_prompt="x", **settings)
    prompt = of_chunks([chunk(small, [("a cat", 1)], 2), chunk(small, [("a ", 1), ("hat", 1.4)], 2)])
    negative = of_chunks([chunk(small, [("x", 1)], 2), chunk(small, [("", 1)], 2)])
    assert psnr(ours, by_embeddings(small, prompt, negative)) >= BAR
    long = "tag, " * 60
    assert psnr(small.by_sdcli("euler", "auto", prompt=long, long_prompt="chunk"),
                small.by_sdcli("euler", "auto", prompt=long)) < BAR  # fmt: skip


def test_a_prompt_that_changes_has_another_pooled_embedding_then(small: SmallXL) -> None:
    ours = small.by_sdcli("euler", "auto", prompt="[cat:dog:4]", prompt_syntax="a1111")
    one, two = chunk(small, [("cat", 1)]), chunk(small, [("dog", 1)])
    negative = chunk(small, [(NEGATIVE, 1)])

    def change(_: Any, step: int, __: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if step == 4:
            values["prompt_embeds"] = torch.cat([negative[0], two[0]])
            values["add_text_embeds"] = torch.cat([negative[1], two[1]])
        return values

    theirs = by_embeddings(
        small, one, negative, callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds"],
    )  # fmt: skip
    assert psnr(ours, theirs) >= BAR
    assert psnr(ours, by_embeddings(small, one, negative)) < BAR


def test_parts_of_the_guidance_have_the_sizes_and_their_own_pooled_embeddings(small: SmallXL) -> None:
    """Twice half of a prompt is the prompt."""
    plain = small.by_sdcli("euler", "auto", prompt="a cat", crop="5,6")
    halves = small.by_sdcli("euler", "auto", prompt="a cat :0.5 AND a cat :0.5", prompt_syntax="a1111", crop="5,6")
    assert psnr(halves, plain) >= BAR
    assert psnr(small.by_sdcli("euler", "auto", prompt="a cat", prompt_syntax="a1111"), plain) < BAR


def test_an_image_is_the_same_alone_and_in_a_batch(small: SmallXL) -> None:
    jobs = [
        small.job("euler", "auto", prompt=prompt, negative_prompt=negative, noise={"rows": 2, "row": row})
        for row, (prompt, negative) in enumerate([(PROMPT, ""), ("a cat", "x")])
    ]
    together, _ = generate(small.model, jobs, lambda _: None)
    for job, image in zip(jobs, together, strict=True):
        (alone,), _ = generate(small.model, [job], lambda _: None)
        assert psnr(small.pixels(image), small.pixels(alone)) >= BAR


def test_a_layer_that_a_text_encoder_lacks(small: SmallXL) -> None:
    assert psnr(small.by_sdcli("euler", "auto", clip_skip=2), small.by_sdcli("euler", "auto")) >= BAR
    with pytest.raises(UsageError, match="--clip-skip 6 is more than the model small has"):
        small.by_sdcli("euler", "auto", clip_skip=6)
