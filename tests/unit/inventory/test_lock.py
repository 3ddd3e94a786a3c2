"""Lock files of models."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sdcli.errors import InputFileError, ModelError, ModelNotFound, OutputError, UsageError
from sdcli.inventory import lock
from sdcli.inventory.fetch import Wish, find
from sdcli.settings import Settings
from tests.hub import COMMIT, ID, Hub

WEIGHTS = b"the lock does not look into files"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models and a VAE with its configuration."""
    for name in ("models/one.safetensors", "models/old/two.ckpt", "adapters/vae/diffusion_pytorch_model.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WEIGHTS)
    (tmp_path / "adapters/vae/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(*names: str, update: bool = False) -> lock.Lock:
    path = Path(lock.NAME)
    return lock.write(lock.files_of(names, Settings(), path.absolute().parent), path, update=update)


def states(folder: Path, name: str = lock.NAME) -> dict[str, str]:
    return {each.file.path: each.state for each in lock.check(lock.read(folder / name), folder)}


def test_all_models_and_what_becomes_of_them(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    names = [
        "models/one.safetensors", "models/old/two.ckpt", "adapters/vae/diffusion_pytorch_model.safetensors",
        "adapters/vae/config.json",
    ]  # fmt: skip
    content = written()
    assert [each.path for each in content.files] == names
    assert content.files[0].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert lock.read(project / lock.NAME) == content
    assert states(project) == dict.fromkeys(names, "ok")

    times = Path("models/one.safetensors").stat()
    Path("models/one.safetensors").write_bytes(WEIGHTS.replace(b"look", b"peek"))
    os.utime("models/one.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    Path("models/old/two.ckpt").unlink()
    Path("adapters/vae/config.json").write_text("{ }")
    assert [*states(project).values()] == ["changed", "missing", "ok", "changed"]

    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    project.rename(elsewhere)
    assert [*states(elsewhere).values()] == ["changed", "missing", "ok", "changed"], "paths are relative to the file"


def test_a_lock_file_is_replaced_only_if_that_is_asked(project: Path) -> None:
    written()
    before = Path(lock.NAME).read_bytes()
    Path("models/one.safetensors").unlink()
    with pytest.raises(OutputError, match=r"models\.lock\.json already exists"):
        written()
    assert Path(lock.NAME).read_bytes() == before
    assert len(written(update=True).files) == 3
    assert states(project).keys() == {each.path for each in lock.read(project / lock.NAME).files}


def test_a_model_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    folder = find(Wish(ID), Settings()).take(lambda done, total: None, lambda note: None)
    content = written(ID)
    assert {(each.model, each.revision) for each in content.files} == {(ID, COMMIT)}
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= {each.path for each in content.files}
    assert set(states(tmp_path).values()) == {"ok"}
    (folder / "unet/config.json").unlink()
    assert states(tmp_path)["unet/config.json"] == "missing"


def test_what_cannot_be_locked(project: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model three on this machine"):
        written("three")
    with pytest.raises(UsageError, match="the model builtin is part of sdcli"):
        written("builtin")
    os.mkfifo("models/pipe.safetensors")
    Path("models/dangling.ckpt").symlink_to("nothing")
    with pytest.raises(ModelError, match=r"models/dangling\.ckpt cannot be read"):
        written()
    assert not Path(lock.NAME).exists()


def test_what_a_hostile_lock_file_names(project: Path) -> None:
    os.mkfifo("pipe")
    files = [{"path": path, "bytes": 0, "sha256": "0" * 64} for path in ("pipe", "/dev/zero", "models", "x\0y")]
    Path(lock.NAME).write_text(json.dumps({"schema": 1, "files": files}))
    assert set(states(project).values()) == {"changed"}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"schema": 2, "files": []}', '{"schema": 1, "files": [{"path": "x", "bytes": 1}]}']
)
def test_what_is_no_lock_file(project: Path, content: str) -> None:
    Path("other.json").write_text(content)
    with pytest.raises(InputFileError):
        lock.read(Path("other.json"))
    with pytest.raises(InputFileError, match=r"there is no lock file missing\.json"):
        lock.read(Path("missing.json"))
