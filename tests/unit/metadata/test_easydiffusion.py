"""Reading the metadata of Easy Diffusion."""

from __future__ import annotations

import json

import pytest

from sdcli.metadata.easydiffusion import MORE, TITLES
from tests.foreign import EASY_DIFFUSION, found, png, with_comment

TITLED = {(TITLES | MORE)[name]: value for name, value in EASY_DIFFUSION.items()}


@pytest.mark.parametrize(
    "data",
    [
        png(**{name: str(value) for name, value in EASY_DIFFUSION.items()}),
        png(**{name: str(value) for name, value in TITLED.items()}),
        with_comment(json.dumps(EASY_DIFFUSION), "WEBP"),
        with_comment(json.dumps(TITLED)),
    ],
)
def test_all_containers(data: bytes) -> None:
    result = found(data)
    assert (result.tool, result.unknown) == ("Easy Diffusion", [])
    assert result.settings == {
        "prompt": "a lighthouse", "negative_prompt": "fog", "seed": 4188, "steps": 25, "sampler": "ddim",
        "scale": 7.5, "width": 512, "height": 768, "model": "coast",
    }  # fmt: skip
    assert result.other == {"use_vae_model": "vae-ft-mse"}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("dpmpp_2m", ("dpmpp_2m", "karras")),
        ("dpmpp_2s_a", ("dpmpp_2s_a", "karras")),
        ("dpm_solver_stability", ("dpm_solver", None)),
        ("unipc_tu", ("unipc", None)),
        ("unipc_snr", ("unipc_snr", None)),
    ],
)
def test_samplers(name: str, own: tuple[str, str | None]) -> None:
    values = EASY_DIFFUSION | {"sampler_name": name}
    settings = found(png(**{key: str(value) for key, value in values.items()})).settings
    assert (settings["sampler"], settings.get("schedule")) == own
