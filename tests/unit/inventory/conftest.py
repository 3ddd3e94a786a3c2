"""Fixtures of the models' tests, and a hub on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from tests.hub import Hub, use
from tests.unit.models.conftest import small_folder

__all__ = ["small_folder"]


@pytest.fixture
def hub(tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, one LoRA file beside it, a token, and an empty cache."""
    files = Path(shutil.copytree(small_folder, tmp_path / "files"))
    (files / "README.md").write_text("---\nlicense: openrail\n---\n")
    save_file({"lora_unet_x.lora_down.weight": torch.ones(4, 8)}, files / "style.safetensors")
    (files / "pickle.ckpt").write_bytes(b"pickle")
    assert json.loads((files / "model_index.json").read_text())
    here = Hub(files)
    use(monkeypatch, here.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    yield here
    here.server.shutdown()
    here.server.server_close()
