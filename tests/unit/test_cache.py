"""The cache between runs: nothing depends on it, so nothing in it is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdcli.cache import Cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "sdcli").mkdir()
    return tmp_path / "sdcli"


@pytest.fixture
def cache() -> Cache:
    return Cache("numbers", "[a-z]", int)


def test_damaged_entries_are_left_out(folder: Path, cache: Cache) -> None:
    (folder / "numbers.json").write_text('{"a": 1, "B": 2, "c": "x", "d": [3], "e": null}')
    assert cache.all() == {"a": 1}
    cache["f"] = 4
    assert cache.all() == {"a": 1, "f": 4}


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[]", b"{", b"[" * 100_000])
def test_a_damaged_file_is_replaced(folder: Path, cache: Cache, content: bytes) -> None:
    (folder / "numbers.json").write_bytes(content)
    assert cache.all() == {}
    cache["a"] = 1
    assert cache["a"] == 1


def test_a_folder_in_its_place(folder: Path, cache: Cache) -> None:
    (folder / "numbers.json").mkdir()
    cache["a"] = 1
    assert cache.all() == {}
    assert [path.name for path in folder.iterdir()] == ["numbers.json"], "a file that cannot get its name is removed"


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_no_cache_folder(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    if place == "no home":
        monkeypatch.setattr("platformdirs.user_cache_path", _no_home)
    cache["a"] = 1
    assert cache.all() == {}


def _no_home(_: str) -> Path:
    raise RuntimeError("could not determine the home directory")
