"""A model that a pipeline of diffusers generates gives the image of the pipeline alone: 60 dB or better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import psnr
from pipelines import MADE, SIZE, SmallPipeline

from sdcli.jobs import NoisePlace
from sdcli.pipeline import generate

pytestmark = pytest.mark.slow

BAR = 60.0


@pytest.fixture(scope="module", params=MADE)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallPipeline:
    return SmallPipeline(request.param, tmp_path_factory.mktemp("pipeline") / "model")


def test_the_image_is_that_of_the_pipeline_alone(small: SmallPipeline) -> None:
    theirs = small.by_diffusers()
    assert psnr(small.by_sdcli(), theirs) >= BAR
    assert np.std(theirs) > 5, "an image of one colour"
    assert psnr(small.by_sdcli(seed=4), theirs) < 40
    assert (small.by_sdcli(prompt="a green house") != theirs).any()


def test_its_size_and_scale_are_those_of_the_pipeline(small: SmallPipeline) -> None:
    theirs = small.by_diffusers(height=SIZE, width=2 * SIZE, scale=2.0)
    assert psnr(small.by_sdcli(height=SIZE, width=2 * SIZE, scale=2.0), theirs) >= BAR


def test_an_image_of_a_batch_is_that_which_is_generated_alone(small: SmallPipeline) -> None:
    prompts = ("a red apple", "a house of glass in a forest", "a fish")
    places = [NoisePlace(before=((3, 5),), rows=3, row=row) for row in range(3)]
    for rng in ("cpu", "cuda"):
        jobs = [small.job(prompt=prompt, noise=place, rng=rng) for prompt, place in zip(prompts, places, strict=True)]
        steps: list[int] = []
        together, latents = generate(small.model, jobs, lambda step, steps=steps: steps.append(step.index))
        assert steps == list(range(4))
        assert torch.isfinite(latents).all() and len(latents) == 3
        for image, job in zip(together, jobs, strict=True):
            (alone,), _ = generate(small.model, [job], lambda step: None)
            assert psnr(small.pixels(image), small.pixels(alone)) >= BAR


def test_half_precision_and_back(small: SmallPipeline) -> None:
    before = small.by_sdcli()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = small.by_sdcli()
    assert 15 < psnr(half, before) < 60
    assert small.model.pipeline.text_encoder.dtype == torch.bfloat16
    # The weights have fewer digits now, and their data type is that of full precision again.
    after = small.by_sdcli()
    assert psnr(after, before) > 15
    assert small.model.pipeline.text_encoder.dtype == torch.float32
