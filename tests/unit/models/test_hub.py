"""Models on the hub, with a small local server that counts requests in place of the hub."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sdcli.errors import ModelError, ModelNotFound
from sdcli.models import adapters, find
from sdcli.models.model import ModelRequest
from sdcli.models.sources.hub import HubModel
from tests.hub import COMMIT, ID, OTHER, Hub, use
from tests.unit.models.test_pipeline_source import FLUX, FLUX_FILES, write


@pytest.fixture
def hub(tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, which has more files than are needed, and an empty cache."""
    files = Path(shutil.copytree(small_folder, tmp_path / "files"))
    unet = load_file(files / "unet/diffusion_pytorch_model.safetensors")
    half = {name: tensor.half() for name, tensor in unet.items()}
    save_file(half, files / "unet/diffusion_pytorch_model.fp16.safetensors")
    torch.save(unet, files / "unet/diffusion_pytorch_model.bin")
    (files / "v1-5-pruned.ckpt").write_bytes(b"large")
    (files / "safety_checker").mkdir()
    (files / "safety_checker/config.json").write_text("{}")
    (files / "safety_checker/model.safetensors").write_bytes(b"large too")
    index = json.loads((files / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (files / "model_index.json").write_text(json.dumps(index))
    here = Hub(files)
    use(monkeypatch, here.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield here
    here.server.shutdown()
    here.server.server_close()


def load(source: Any) -> Any:
    return source.load(torch.device("cpu"), lambda _: None)


def test_only_needed_files_are_downloaded_and_weights_when_they_are_used(hub: Hub, small_folder: Path) -> None:
    source = find(ModelRequest(model=ID))
    configurations = {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "safety_checker/config.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
    }
    assert hub.downloaded() == configurations
    assert (source.spec.name, source.spec.has_safety_checker) == (ID, True)
    model, local = load(source), load(find(ModelRequest(model=str(small_folder))))
    assert hub.downloaded() - configurations == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    for actual, expected in zip(model.unet.parameters(), local.unet.parameters(), strict=True):
        assert torch.equal(actual, expected)
    assert source.hash() == find(ModelRequest(model=str(small_folder))).hash()
    assert source.safety_checker(download=False) is None
    assert "safety_checker/model.safetensors" not in hub.downloaded()
    checker = source.safety_checker(download=True)
    assert source.safety_checker(download=False) == checker
    assert checker and (checker / "model.safetensors").read_bytes() == b"large too"


def test_a_model_that_a_pipeline_of_diffusers_generates(hub: Hub, tmp_path: Path) -> None:
    hub.files = write(tmp_path / "flux", FLUX, FLUX_FILES)
    source = find(ModelRequest(model=ID))
    assert (source.spec.name, source.spec.family) == (ID, "diffusers")
    assert hub.downloaded() == {
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_2_config.json", "text_encoder/config.json", "text_encoder_2/config.json",
        "transformer/config.json", "vae/config.json",
    }  # fmt: skip
    assert not source.here()
    assert source.hash() == find(ModelRequest(model=str(hub.files))).hash()
    assert source.here()


def test_half_precision_is_downloaded_if_there_is_no_other(hub: Hub) -> None:
    for name in ("safetensors", "bin"):
        (hub.files / f"unet/diffusion_pytorch_model.{name}").unlink()
    load(find(ModelRequest(model=ID)))
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.downloaded()


def test_a_cached_model_works_offline_without_a_connection(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, small_folder: Path
) -> None:
    before = load(find(ModelRequest(model=ID)))
    use(monkeypatch, hub.url)
    hub.connections = 0

    def forbidden(*_: object) -> None:
        raise AssertionError("a connection, offline")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    source = find(ModelRequest(model=ID, offline=True))
    model = load(source)
    assert source.hash() == find(ModelRequest(model=str(small_folder))).hash()
    assert hub.connections == 0
    for actual, expected in zip(model.vae.parameters(), before.vae.parameters(), strict=True):
        assert torch.equal(actual, expected)
    use(monkeypatch, hub.url, offline=True)  # set by the environment
    assert find(ModelRequest(model=ID)).spec == source.spec
    assert hub.connections == 0


def test_a_model_that_is_not_cached_is_refused_offline_without_a_connection(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match=r"not in the cache.*\n.*offline.*\n.*without --offline"):
        find(ModelRequest(model=ID, offline=True))
    assert hub.connections == 0


def test_missing_weights_in_the_cache_are_an_error_before_anything_loads(hub: Hub) -> None:
    find(ModelRequest(model=ID))
    with pytest.raises(ModelError, match="has no weights"):
        find(ModelRequest(model=ID, offline=True))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_finding_fails_within_three_seconds(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    use(monkeypatch, url)
    start = time.monotonic()
    with pytest.raises(ModelNotFound, match=r"hub cannot be reached") as raised:
        find(ModelRequest(model=ID))
    assert time.monotonic() - start < 3
    assert url in raised.value.why and "--ckpt" in raised.value.fix


def test_a_hub_that_does_not_respond_fails_within_three_seconds(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(ModelNotFound, match="hub cannot be reached"):
            find(ModelRequest(model=ID))
        assert time.monotonic() - start < 3


def test_slow_name_resolution_fails_within_three_seconds(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> None:
        time.sleep(8)
        raise socket.gaierror("no answer")

    use(monkeypatch, "http://slow.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    start = time.monotonic()
    with pytest.raises(ModelNotFound, match="hub cannot be reached"):
        find(ModelRequest(model=ID))
    assert time.monotonic() - start < 3


def test_a_cached_model_works_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load(find(ModelRequest(model=ID)))
    use(monkeypatch, "http://127.0.0.1:9")
    assert load(find(ModelRequest(model=ID))).spec.name == ID


def test_the_revision_and_the_token_of_the_environment_are_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = find(ModelRequest(model=ID, revision="early"))
    assert isinstance(source, HubModel) and source.folder.path.name == OTHER
    assert "Bearer hf_secret" in hub.tokens
    load(source)


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (
            {"model": "people/nothing"},
            "the model people/nothing does not exist on the hub, and there is no such folder",
        ),
        ({"model": "people/gated"}, "requires that you accept its terms"),
        ({"model": ID, "revision": "nowhere"}, "has no revision nowhere"),
        ({"model": "people/bad--name"}, "neither a folder nor a hub id"),
    ],
)
def test_requests_that_the_hub_refuses_are_errors_with_advice(hub: Hub, request_: dict[str, str], what: str) -> None:
    with pytest.raises(ModelNotFound, match=what) as raised:
        find(ModelRequest(**request_))
    assert raised.value.fix or raised.value.why


def test_an_unsupported_model_is_refused_before_its_weights_are_downloaded(hub: Hub) -> None:
    index = json.loads((hub.files / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}
    (hub.files / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="Stable Diffusion XL"):
        find(ModelRequest(model=ID))
    assert not any("model.safetensors" in name for name in hub.downloaded())


def test_a_repository_without_a_diffusers_model_is_refused(hub: Hub) -> None:
    for file in hub.all_files():
        if not file.endswith(".ckpt"):
            (hub.files / file).unlink()
    with pytest.raises(ModelError, match=r"has no model_index\.json\n.*file v1-5-pruned\.ckpt"):
        find(ModelRequest(model=ID))


def test_an_adapter_is_pinned_to_its_commit_and_only_it_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {
        "lora_unet_conv_in.lora_up.weight": torch.ones(2, 1),
        "lora_unet_conv_in.lora_down.weight": torch.ones(1, 2),
    }
    (hub.files / "loras").mkdir()
    save_file(tensors, hub.files / "loras/style.safetensors")
    save_file(tensors, hub.files / "pytorch_lora_weights.safetensors")
    named = adapters.locate("lora", f"{ID}/loras/style.safetensors", "", offline=False)
    assert named.name == f"{ID}/loras/style.safetensors@{COMMIT}"
    assert hub.downloaded() == {"loras/style.safetensors"}
    usual = adapters.locate("lora", f"{ID}@early", "", offline=False)
    assert usual.name == f"{ID}/pytorch_lora_weights.safetensors@{OTHER}"
    assert adapters.lora(usual.path).layers
    asked = len(hub.requested)
    again = adapters.locate("lora", named.name, "", offline=False)
    assert again == named
    assert len(hub.requested) == asked, "what a commit has never changes"
    for given, expected in (
        (f"{ID}/none.safetensors", "has no file none.safetensors"),
        (f"{ID}@never", "has no revision never"),
        ("people/none", "does not exist on the hub"),
    ):
        with pytest.raises(ModelNotFound, match=expected):
            adapters.locate("lora", given, "", offline=False)
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ModelNotFound, match="the hub cannot be reached"):
        adapters.locate("lora", f"{ID}/none.safetensors", "", offline=False)


def test_a_repository_with_several_adapters_needs_the_name_of_one(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match="files of adapters") as error:
        adapters.locate("lora", ID, "", offline=False)
    assert f"{ID}/FILE" in error.value.fix


def test_a_vae_of_the_hub_comes_with_its_configuration(hub: Hub) -> None:
    shutil.copytree(hub.files / "vae", hub.files, dirs_exist_ok=True)
    found = adapters.locate("vae", ID, "", offline=False)
    assert hub.downloaded() == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert adapters.vae(found.path).config["_class_name"] == "AutoencoderKL"
