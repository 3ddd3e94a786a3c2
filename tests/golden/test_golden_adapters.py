"""LoRA files of each layout change a model as diffusers' `load_lora_weights` and `fuse_lora` do: 60 dB or better."""

import pytest
from adapters import LAYOUTS, images, with_a_word
from compare import psnr
from samplers import NOISE_SCHEDULES, SmallModel

BAR = 60.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return SmallModel(tmp_path_factory.mktemp("adapters") / "small", NOISE_SCHEDULES["v1"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_that_of_diffusers(small: SmallModel, layout: str) -> None:
    pytest.importorskip("peft", reason="diffusers needs peft to read a LoRA")
    own, theirs, without = images(small, layout)
    assert psnr(own, theirs) >= BAR
    assert psnr(own, without) < 30, "the LoRA changes nothing"


def test_an_embedding_is_that_of_diffusers(small: SmallModel) -> None:
    own, theirs = with_a_word(small)
    assert psnr(own, theirs) >= BAR
