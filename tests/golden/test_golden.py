"""The golden images, generated again: 60 dB or better in every sample and grid, with watermark and file names.

Two samplers are 18 to 25 dB apart and two prompts 14 dB, so 60 dB separates right from wrong.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from compare import compare, generate_run

BAR = 60.0
OTHER_THREADS = 3


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """PyTorch with another number of threads, which changes how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param or before)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("run", "threads"),
    [
        ("laion", None),
        ("laion", OTHER_THREADS),
        ("file", None),
        pytest.param("ddim", None, marks=pytest.mark.slow),
        pytest.param("plms", None, marks=pytest.mark.slow),
    ],
    indirect=["threads"],
)
@pytest.mark.usefixtures("threads")
def test_same_images_as_the_original(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    checkpoint = request.getfixturevalue("small_laion_checkpoint" if run == "laion" else "small_checkpoint")
    generate_run(run, checkpoint.ckpt, tmp_path)
    decibels = compare(run, tmp_path)
    assert decibels
    assert min(decibels.values()) >= BAR, decibels
