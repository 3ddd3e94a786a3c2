"""Stable Diffusion XL against diffusers' `StableDiffusionXLPipeline`."""

from __future__ import annotations

import pytest
from compare import psnr
from samplers import NOISE_SCHEDULES
from sdxl import SmallXL

BAR = 60
"""dB of PSNR."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallXL:
    return SmallXL(tmp_path_factory.mktemp("sdxl") / "small", NOISE_SCHEDULES["v1"])


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a", "dpmpp_2m", "unipc", "heun"])
def test_samplers(small: SmallXL, sampler: str) -> None:
    assert psnr(small.by_sdcli(sampler, "auto"), small.by_diffusers(sampler, "auto")) >= BAR
