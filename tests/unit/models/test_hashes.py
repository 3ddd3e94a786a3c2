"""Hashes of weights are cached; a cache that cannot be written is not an error."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sdcli.models import hashes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sdcli" / "hashes.json"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"weights")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_file_is_cached(weights: Path, cache: Path) -> None:
    assert hashes.of_file(weights) == sha256(b"weights")
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: "c" * 64}))
    assert hashes.of_file(weights) == "c" * 64
    assert not list(cache.parent.glob("hashes.json?*"))


def test_a_changed_file_is_hashed_again(weights: Path) -> None:
    hashes.of_file(weights)
    stat = weights.stat()
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert hashes.of_file(weights) == sha256(b"WEIGHTS")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_broken_cache_is_replaced(weights: Path, cache: Path, content: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert hashes.of_file(weights) == sha256(b"weights")
    assert len(json.loads(cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_is_not_an_error(weights: Path, cache: Path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in place of the folder")
    assert hashes.of_file(weights) == sha256(b"weights")


def test_the_hash_of_a_model_depends_on_names_and_contents_not_on_the_order(tmp_path: Path) -> None:
    for name in ("a/m.bin", "b/m.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files = {name: tmp_path / name for name in ("a/m.bin", "b/m.bin")}
    expected = sha256(f"a/m.bin {sha256(b'a/m.bin')}\nb/m.bin {sha256(b'b/m.bin')}\n".encode())
    backwards = dict(reversed(files.items()))
    assert hashes.of_files(files) == hashes.of_files(backwards) == expected
    assert hashes.of_files({"a/m.bin": files["a/m.bin"]}) != expected
