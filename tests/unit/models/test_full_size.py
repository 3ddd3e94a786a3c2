"""Checkpoints of the real size: `pytest -m full_size` needs 10 GB of disk, 18 GB of memory and some minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "full_size.py"


@pytest.mark.full_size
@pytest.mark.parametrize(("model", "extension"), [("v1", "ckpt"), ("v1", "safetensors"), ("xl", "safetensors")])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path, model: str, extension: str) -> None:
    command = [
        sys.executable, str(BENCHMARK), str(tmp_path), "--model", model, "--format", extension, "--steps", "2",
    ]  # fmt: skip
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(printed.splitlines()[-1])
    assert result["ok"], result
