"""The golden images, generated again: 60 dB or better in every sample and grid, with watermark and file names.

Two samplers are 18 to 25 dB apart and two prompts 14 dB, so 60 dB separates right from wrong.
"""

from pathlib import Path

import pytest
from compare import compare, generate_run

BAR = 60.0


@pytest.mark.parametrize(
    "run", ["laion", "file", *(pytest.param(run, marks=pytest.mark.slow) for run in ("ddim", "plms"))]
)
def test_same_images_as_the_original(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    checkpoint = request.getfixturevalue("small_laion_checkpoint" if run == "laion" else "small_checkpoint")
    generate_run(run, checkpoint.ckpt, tmp_path)
    decibels = compare(run, tmp_path)
    assert decibels
    assert min(decibels.values()) >= BAR, decibels
