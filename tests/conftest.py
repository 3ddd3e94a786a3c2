"""What all tests share: no network, folders of their own, and the small checkpoints of the golden images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Before anything imports huggingface_hub, which reads the variable once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from compare import write_checkpoint
from hypothesis import settings

# A busy machine is slow; that is no failure. Each run of the tests tries other examples, so a run needs few.
settings.register_profile("sdcli", deadline=None, max_examples=40)
settings.load_profile("sdcli")

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class SmallCheckpoint:
    """A checkpoint in the original layout with few random weights, and its configuration."""

    ckpt: Path
    config: Path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> SmallCheckpoint:
    """Small Stable Diffusion v1."""
    ckpt = tmp_path_factory.mktemp("v1") / "v1-small.ckpt"
    write_checkpoint("shapes.json", ckpt)
    return SmallCheckpoint(ckpt, GOLDEN / "v1-small.yaml")


@pytest.fixture(scope="session")
def small_laion_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> SmallCheckpoint:
    """Small LAION-400M."""
    ckpt = tmp_path_factory.mktemp("laion") / "laion-small.ckpt"
    write_checkpoint("laion-shapes.json", ckpt)
    return SmallCheckpoint(ckpt, GOLDEN / "laion-small.yaml")


@pytest.fixture(scope="session")
def user_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that name cache and configuration folders of the tests, in place of those of the user."""
    base = tmp_path_factory.getbasetemp()
    return {"XDG_CACHE_HOME": str(base / "cache"), "XDG_CONFIG_HOME": str(base / "config")}


@pytest.fixture(autouse=True)
def isolated_settings(user_folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, configuration and SDCLI_ variables have no influence on a test."""
    for name, folder in user_folders.items():
        monkeypatch.setenv(name, folder)
    for variable in [name for name in os.environ if name.startswith("SDCLI_")]:
        monkeypatch.delenv(variable)
