"""What tests share: no network, and the small checkpoints that the golden images were drawn from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from compare import write_checkpoint
from hypothesis import settings

# Busy cores are no reason to fail.
settings.register_profile("sdcli", deadline=None)
settings.load_profile("sdcli")

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class SmallCheckpoint:
    """A checkpoint of the original layout, small and random, and its configuration."""

    ckpt: Path
    config: Path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> SmallCheckpoint:
    """Stable Diffusion v1, small."""
    ckpt = tmp_path_factory.mktemp("v1") / "v1-small.ckpt"
    write_checkpoint("shapes.json", ckpt)
    return SmallCheckpoint(ckpt, GOLDEN / "v1-small.yaml")


@pytest.fixture(scope="session")
def small_laion_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> SmallCheckpoint:
    """LAION-400M, small."""
    ckpt = tmp_path_factory.mktemp("laion") / "laion-small.ckpt"
    write_checkpoint("laion-shapes.json", ckpt)
    return SmallCheckpoint(ckpt, GOLDEN / "laion-small.yaml")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests remember hashes in a folder of their own, and know nothing of the settings of whoever runs them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    for variable in [name for name in os.environ if name.startswith("SDCLI_")]:
        monkeypatch.delenv(variable)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`sdcli ARGUMENTS` in a real process, off a terminal, in an empty folder of its own."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sdcli", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run
