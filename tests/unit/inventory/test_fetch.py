"""What `sdcli models fetch` downloads, with a small server in place of the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from sdcli.errors import ModelError, ModelNotFound, OutputError, UsageError
from sdcli.inventory import description, fetch, known
from sdcli.inventory.fetch import FileOffer, HubOffer, Wish, find
from sdcli.models import adapters
from sdcli.settings import Settings
from tests.hub import COMMIT, ID, OTHER, Hub, use

LORA = "style.safetensors"


def take(offer: Any) -> Path:
    path: Path = offer.take(lambda done, total: None, lambda note: None)
    return path


def test_a_model_goes_into_the_cache_of_the_hub_at_its_commit(hub: Hub, small_folder: Path) -> None:
    offer = find(Wish(ID), Settings())
    assert isinstance(offer, HubOffer)
    weights = list(small_folder.glob("*/*.safetensors"))
    assert (offer.revision, offer.license, offer.here) == (COMMIT, "openrail", False)
    assert offer.origin == f"{ID}@{COMMIT}"
    assert offer.size == sum(path.stat().st_size for path in weights)
    assert not any(name.endswith(".safetensors") for name in hub.downloaded())
    folder = take(offer)
    for path in weights:
        assert (folder / path.relative_to(small_folder)).read_bytes() == path.read_bytes()
    found = description.of_hub(ID)
    assert (found.kind, found.revision, found.license) == ("model", COMMIT, "openrail")
    assert found.command() == f"sdcli txt2img --model {ID} --revision {COMMIT} --prompt 'a castle'"
    assert find(Wish(ID), Settings()).here
    assert find(Wish(f"{ID}@early"), Settings()).revision == OTHER


def test_wrong_weights_of_a_model_are_told(hub: Hub) -> None:
    hub.sha256 = "0" * 64
    offer = find(Wish(ID), Settings())
    with pytest.raises(ModelError, match="is another file than the hub has"):
        take(offer)


@pytest.mark.parametrize("name", [f"{ID}/{LORA}", f"{ID}/{LORA}@main", "the address of its page"])
def test_a_file_of_the_hub_goes_into_a_folder(hub: Hub, tmp_path: Path, name: str) -> None:
    if "/" not in name:
        name = f"{hub.url}/{ID}/blob/main/{LORA}"
    offer = find(Wish(name), Settings())
    assert isinstance(offer, FileOffer)
    content = (hub.files / LORA).read_bytes()
    assert (offer.revision, offer.license, offer.size) == (COMMIT, "openrail", len(content))
    assert offer.target == f"models/{LORA}"
    assert offer.remote is not None
    assert offer.remote.sha256 == hashlib.sha256(content).hexdigest()
    assert COMMIT in offer.remote.url, "what was shown is what is downloaded, also if the branch moves"
    assert (tmp_path / take(offer)).read_bytes() == content
    assert hub.tokens == {None, "Bearer hf_secret"}, "None: the first look whether there is a network"
    again = find(Wish(name), Settings())
    assert (again.here, take(again)) == (True, Path(f"models/{LORA}"))


def test_a_known_name(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = known.by_name()["taesd"].model_copy(update={"hub": ID, "file": LORA})
    monkeypatch.setattr(known, "by_name", lambda: {"small": entry})
    offer = find(Wish("small"), Settings())
    assert (offer.title, offer.license, offer.target) == (entry.title, entry.license, "adapters/taesd.safetensors")
    offer = find(Wish("small", into="elsewhere", save_as="other.safetensors"), Settings())
    assert offer.target == "elsewhere/other.safetensors"
    wrong = entry.model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(known, "by_name", lambda: {"small": wrong})
    with pytest.raises(ModelError, match="another file than it should be"):
        take(find(Wish("small"), Settings()))


def test_the_list_of_known_names_is_whole() -> None:
    found = known.by_name()
    assert {"sd-1.5", "sd-2.1", "sdxl", "sdxl-turbo", "sdxl-vae-fp16", "lcm-lora-sd1.5", "taesd"} <= found.keys()
    assert len(found) == len(json.loads(known.FILE.read_text())["models"])
    for entry in found.values():
        assert entry.license
        assert entry.bytes > 1_000_000
        assert adapters.is_hub_file(f"{entry.hub}/{entry.file}".rstrip("/"))
        assert entry.file == "" or entry.file.endswith(".safetensors")
        saved = entry.save_as or entry.file
        assert entry.kind == "model" or saved not in ("", *adapters._FIRST), "a name that says what it is"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("sd-1.6"), "there is no model sd-1.6 to download"),
        (Wish("gated/model"), "requires that you accept its terms"),
        (Wish("gated/model/x.safetensors"), "requires that you accept its terms"),
        (Wish("no/such"), "does not exist on the hub"),
        (Wish("no/such/x.safetensors"), "does not exist on the hub"),
        (Wish(f"{ID}/no.safetensors"), f"{ID} has no file no.safetensors"),
        (Wish(ID, revision="lost"), f"{ID} has no revision lost"),
        (Wish(f"{ID}/{LORA}", revision="lost"), f"{ID} has no revision lost"),
    ],
)
def test_what_does_not_exist(hub: Hub, wish: Wish, message: str) -> None:
    with pytest.raises(ModelNotFound, match=message):
        find(wish, Settings())


def test_what_is_not_valid(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "here.safetensors").touch()
    for wish, message in (
        (Wish(ID, sha256="x"), "--sha256 x is no hash"),
        (Wish(ID, save_as="x.safetensors"), "is a model of several files"),
        (Wish(f"{ID}/pickle.ckpt"), "pickle.ckpt is a pickle"),
        (Wish("here.safetensors"), "is on this machine"),
    ):
        with pytest.raises(UsageError, match=message):
            find(wish, Settings())
    assert isinstance(find(Wish(f"{ID}/pickle.ckpt", allow_pickle=True), Settings()), FileOffer)


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="is not downloaded") as raised:
        find(Wish(ID), Settings(offline=True))
    assert "--offline is set" in raised.value.why
    use(monkeypatch, hub.url, offline=True)
    for name in ("taesd", "http://127.0.0.1/x.safetensors"):
        with pytest.raises(ModelNotFound, match="is not downloaded") as raised:
            find(Wish(name), Settings())
        assert "HF_HUB_OFFLINE is set" in raised.value.why
    assert hub.connections == 0


def test_a_hub_that_does_not_respond(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    for name in (ID, f"{ID}/{LORA}"):
        with pytest.raises(ModelNotFound, match="hub cannot be reached"):
            find(Wish(name), Settings())


def test_a_cache_without_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=fetch.download.ROOM + 1_000))
    with pytest.raises(OutputError, match="there is no room in the cache"):
        find(Wish(ID), Settings())
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))
