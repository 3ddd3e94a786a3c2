"""LoRA files of each layout change a model as diffusers' `load_lora_weights` and `fuse_lora` do: 60 dB or better."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import LAYOUTS, with_a_word
from compare import psnr
from samplers import NOISE_SCHEDULES, SmallModel

BAR = 60.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return SmallModel(tmp_path_factory.mktemp("adapters") / "small", NOISE_SCHEDULES["v1"])


@pytest.mark.slow
def test_each_layout_is_that_of_diffusers() -> None:
    """In a process of its own: where peft can be imported, diffusers imports it."""
    reference = Path(sys.prefix) / "reference"
    if not reference.is_dir():
        pytest.skip("diffusers needs peft to read a LoRA: make test installs it")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(reference)])
    script = [sys.executable, str(root / "tests" / "golden" / "adapters.py"), "--json"]
    ended = subprocess.run(script, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found.keys() == LAYOUTS.keys()
    assert min(with_diffusers for with_diffusers, _ in found.values()) >= BAR
    assert max(without for _, without in found.values()) < 30, "a LoRA changes nothing"


def test_an_embedding_is_that_of_diffusers(small: SmallModel) -> None:
    own, theirs = with_a_word(small)
    assert psnr(own, theirs) >= BAR
