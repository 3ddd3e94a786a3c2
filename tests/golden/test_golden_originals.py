"""Files of the original layout, given alone, against diffusers' pipeline with the same weights: 60 dB or better."""

from __future__ import annotations

import pytest
from compare import psnr
from originals import SMALL, SmallOriginal

BAR = 60
"""dB of PSNR."""


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallOriginal:
    kind, schedule = SMALL[request.param]
    return kind(tmp_path_factory.mktemp("original"), schedule)


_SLOW = ("plms", "euler_a", "dpmpp_2m", "heun", "unipc")


@pytest.mark.parametrize("sampler", ["ddim", *(pytest.param(each, marks=pytest.mark.slow) for each in _SLOW)])
def test_samplers(small: SmallOriginal, sampler: str) -> None:
    assert psnr(small.by_sdcli(sampler, "auto"), small.by_diffusers(sampler, "auto")) >= BAR


def test_a_prompt_with_an_exclamation_mark(small: SmallOriginal) -> None:
    """OpenCLIP fills prompts up with the token "!", which is a word beside that."""
    ours = small.model.tokenizer(["wow!"], padding="max_length", truncation=True).input_ids[0]
    end = small.model.tokenizer.eos_token_id
    assert ours[2:5] == [256, end, 0 if small.kind == "sd2" else end]
