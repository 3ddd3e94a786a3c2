"""Stable Diffusion XL against diffusers' `StableDiffusionXLPipeline`: the image of the whole pipeline, and that of
embeddings which are computed here with the tokenizers and text encoders of transformers alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import Pixels, psnr
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file
from samplers import NEGATIVE, NOISE_SCHEDULES, PROMPT, SCALE, SEED, STEPS
from sdxl import WIDTHS, SmallXL

from sdcli.errors import ModelError, UsageError
from sdcli.models import families
from sdcli.models.adapters.embedding import EmbeddingFile, Words
from sdcli.models.adapters.lora import Adapted, LoraFile, Use
from sdcli.pipeline import generate
from sdcli.settings import Settings

BAR = 60
"""dB of PSNR."""
SLOW = pytest.mark.slow
Weighted = Sequence[tuple[str, float]]
Encoded = tuple[torch.Tensor, torch.Tensor]
"""Embeddings and pooled embedding."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallXL:
    return SmallXL(tmp_path_factory.mktemp("sdxl") / "small", NOISE_SCHEDULES["v1"])


@pytest.mark.parametrize(
    "sampler", ["ddim", *(pytest.param(each, marks=SLOW) for each in ("euler", "euler_a", "dpmpp_2m", "unipc", "heun"))]
)
def test_samplers(small: SmallXL, sampler: str) -> None:
    assert psnr(small.by_sdcli(sampler, "auto"), small.by_diffusers(sampler, "auto")) >= BAR


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"negative_prompt": ""}, {"negative_prompt": None}),
        ({"original_size": "1024x512"}, {"original_size": (512, 1024)}),
        pytest.param({"crop": "16,256"}, {"crops_coords_top_left": (16, 256)}, marks=SLOW),
        pytest.param({"height": 128}, {"height": 128}, marks=SLOW),
        pytest.param({"scale": 1.0}, {"guidance_scale": 1.0}, marks=SLOW),
        pytest.param({"guidance_rescale": 0.7}, {"guidance_rescale": 0.7}, marks=SLOW),
        ({"clip_skip": 3, "negative_prompt": ""}, {"clip_skip": 1, "negative_prompt": None}),
    ],
)
def test_settings(small: SmallXL, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    image = small.by_sdcli("euler", "auto", **ours)
    assert psnr(image, small.by_diffusers("euler", "auto", **theirs)) >= BAR
    plain = small.by_sdcli("euler", "auto", negative_prompt=NEGATIVE if "clip_skip" not in ours else "")
    assert image.shape != plain.shape or psnr(image, plain) < BAR


@SLOW
@pytest.mark.parametrize("zeros", [True, False])
def test_an_empty_negative_prompt_is_what_the_model_wants(
    tmp_path_factory: pytest.TempPathFactory, zeros: bool
) -> None:
    """Of a model for few steps, with its own scheduler."""
    turbo = {**NOISE_SCHEDULES["v1"], "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    small = SmallXL(tmp_path_factory.mktemp("turbo") / "small", {**turbo, "steps_offset": 0}, zeros=zeros)
    assert small.model.spec.default_sampler == "euler_a"
    theirs = small.by_diffusers("euler_a", "auto", negative_prompt=None, num_inference_steps=2)
    for more in ({}, {"prompt_syntax": "a1111"}):
        assert psnr(small.by_sdcli("euler_a", "auto", negative_prompt="", steps=2, **more), theirs) >= BAR
    assert (psnr(small.by_sdcli("euler_a", "auto", negative_prompt=" ", steps=2), theirs) >= BAR) != zeros


@SLOW
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


@SLOW
def test_parts_of_the_guidance_have_the_sizes_and_their_own_pooled_embeddings(small: SmallXL) -> None:
    """Twice half of a prompt is the prompt."""
    plain = small.by_sdcli("euler", "auto", prompt="a cat", crop="5,6")
    halves = small.by_sdcli("euler", "auto", prompt="a cat :0.5 AND a cat :0.5", prompt_syntax="a1111", crop="5,6")
    assert psnr(halves, plain) >= BAR
    assert psnr(small.by_sdcli("euler", "auto", prompt="a cat", prompt_syntax="a1111"), plain) < BAR


@SLOW
def test_an_image_is_the_same_alone_and_in_a_batch(small: SmallXL) -> None:
    jobs = [
        small.job("euler", "auto", prompt=prompt, negative_prompt=negative, noise={"rows": 2, "row": row})
        for row, (prompt, negative) in enumerate([(PROMPT, ""), ("a cat", "x")])
    ]
    together, _ = generate(small.model, jobs, lambda _: None)
    for job, image in zip(jobs, together, strict=True):
        (alone,), _ = generate(small.model, [job], lambda _: None)
        assert psnr(small.pixels(image), small.pixels(alone)) >= BAR


@SLOW
def test_a_layer_that_a_text_encoder_lacks(small: SmallXL) -> None:
    assert psnr(small.by_sdcli("euler", "auto", clip_skip=2), small.by_sdcli("euler", "auto")) >= BAR
    with pytest.raises(UsageError, match="--clip-skip 6 is more than the model small has"):
        families.get("sdxl").require(Settings.of(clip_skip=6), small.model.spec)


@SLOW
def test_a_lora_of_kohya_for_all_parts(small: SmallXL, tmp_path: Path) -> None:
    """With the names of the original layout in the UNet. Without peft: the pipeline gets changed weights."""
    layers = {
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k": (
            "unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"),
        "lora_unet_middle_block_1_transformer_blocks_1_attn1_to_q": (
            "unet", "mid_block.attentions.0.transformer_blocks.1.attn1.to_q"),
        "lora_unet_output_blocks_1_2_conv": ("unet", "up_blocks.0.upsamplers.0.conv"),
        "lora_unet_label_emb_0_0": ("unet", "add_embedding.linear_1"),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": ("text_encoder", "encoder.layers.0.mlp.fc1"),
        "lora_te2_text_model_encoder_layers_1_self_attn_q_proj": (
            "text_encoder_2", "text_model.encoder.layers.1.self_attn.q_proj"),
        "lora_te2_text_projection": ("text_encoder_2", "text_projection"),
    }  # fmt: skip
    pipeline = StableDiffusionXLPipeline.from_pretrained(small.folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    generator, tensors = torch.Generator().manual_seed(5), {}
    for name, (part, path) in layers.items():
        weight = getattr(pipeline, part).get_submodule(path).weight
        outputs, inputs, *kernel = weight.shape
        up = torch.randn(outputs, 2, *[1] * len(kernel), generator=generator)
        down = torch.randn(2, inputs, *kernel, generator=generator)
        up *= weight.std() / (up.flatten(1) @ down.flatten(1)).std()
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        strength = 0.5 * (0.8 if part == "unet" else 1.2)
        weight.data += strength * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    save_file({name: each.contiguous() for name, each in tensors.items()}, tmp_path / "x.safetensors")
    file = LoraFile.read(tmp_path / "x.safetensors")
    file.require_fit(small.model.spec)
    with pytest.raises(ModelError) as error:
        file.require_fit(small.model.spec.model_copy(update={"family": "sd1", "text_width": 768}))
    assert "made for Stable Diffusion XL" in error.value.why
    plain, adapted = small.by_sdcli("euler", "auto"), Adapted(small.model)
    assert adapted.use([Use(file, 0.8, 1.2)]) == []
    try:
        ours = small.by_sdcli("euler", "auto")
    finally:
        adapted.restore()
    small.pipeline, before = pipeline, small.pipeline
    try:
        assert psnr(ours, small.by_diffusers("euler", "auto")) >= BAR
    finally:
        small.pipeline = before
    assert psnr(ours, plain) < 40
    assert np.array_equal(small.by_sdcli("euler", "auto"), plain)


@SLOW
def test_a_textual_inversion_for_both_text_encoders(small: SmallXL, tmp_path: Path) -> None:
    vectors = {
        name: torch.randn(3, width, generator=torch.Generator().manual_seed(width))
        for name, width in zip(("clip_l", "clip_g"), WIDTHS, strict=True)
    }
    save_file(vectors, tmp_path / "toy.safetensors")
    words, adapted = Words([EmbeddingFile.read(tmp_path / "toy.safetensors")]), Adapted(small.model)
    adapted.use([], words)
    model, small.model = small.model, adapted.model
    try:
        ours = small.by_sdcli("euler", "auto", prompt=words.read("a photo of a toy, on grass"))
    finally:
        small.model = model
        adapted.restore()
    pipeline = StableDiffusionXLPipeline.from_pretrained(small.folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    # With the number that its configuration has, which is that of old files, it pools the new word.
    pipeline.text_encoder_2.text_model.eos_token_id = 49407
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            vectors[name], token="toy_word", text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
            tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
        )  # fmt: skip
    small.pipeline, before = pipeline, small.pipeline
    try:
        theirs = small.by_diffusers("euler", "auto", prompt="a photo of a toy_word, on grass")
    finally:
        small.pipeline = before
    assert psnr(ours, theirs) >= BAR
    assert psnr(ours, small.by_sdcli("euler", "auto", prompt="a photo of a toy, on grass")) < 40


@SLOW
def test_the_command(small: SmallXL, tmp_path: Path) -> None:
    arguments = [
        PROMPT, "--negative-prompt", NEGATIVE, "--model", small.folder, "--sampler", "euler", "--rng", "cpu", "--seed",
        SEED, "--steps", STEPS, "--scale", SCALE, "--original-size", "256x128", "--crop", "8,16", "--no-watermark",
        "--safety-checker", "off", "-o", tmp_path / "image.png",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "sdcli", "txt2img", *map(str, arguments)], check=True)
    theirs = small.by_diffusers("euler", "auto", original_size=(128, 256), crops_coords_top_left=(8, 16))
    with Image.open(tmp_path / "image.png") as image:
        assert psnr(np.asarray(image), theirs) >= BAR
