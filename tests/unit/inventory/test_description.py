"""What is known of models and adapters, and which are on this machine."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from sdcli.errors import ModelError, ModelNotFound
from sdcli.inventory import description, places
from sdcli.inventory.description import Description
from sdcli.models import checkpoint_file, find
from sdcli.models.model import ModelRequest
from sdcli.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import SmallCheckpoint

TRAINED: dict[str, str] = {
    "modelspec.trigger_phrase": "shiny style, gloss",
    "modelspec.license": "CC0-1.0",
    "ss_tag_frequency": json.dumps({"10_a": {"sky": 3, "shiny style": 40}, "2_b": {"sky": 50}}),
}


def write_lora(path: Path, width: int = 768, metadata: dict[str, str] | None = None) -> Path:
    """A LoRA of rank 8 in kohya's layout for a model with text embeddings of this width."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(8, width),
        f"{layer}.lora_up.weight": torch.ones(320, 8),
        f"{layer}.alpha": torch.tensor(4.0),
    }
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: SmallCheckpoint,
    small_laion_checkpoint: SmallCheckpoint,
    small_folder: Path,
) -> Path:
    """`models` and `adapters` with good and bad files."""
    base = tmp_path_factory.mktemp("folders")
    (base / "models/old").mkdir(parents=True)
    (base / "adapters").mkdir()
    (base / "models/small.ckpt").symlink_to(small_checkpoint.ckpt)
    (base / "models/old/laion.ckpt").symlink_to(small_laion_checkpoint.ckpt)
    (base / "models/whole").symlink_to(small_folder)
    tensors = checkpoint_file.read_tensors(small_checkpoint.ckpt)
    half = {name: each.half().contiguous() if each.is_floating_point() else each for name, each in tensors.items()}
    save_file(half, base / "models/half.safetensors", metadata={"modelspec.title": "Half"})
    (base / "models/cut.safetensors").write_bytes((base / "models/half.safetensors").read_bytes()[:50_000])
    (base / "models/page.safetensors").write_text("<html>")
    (base / "models/dangling.ckpt").symlink_to("nothing")
    write_lora(base / "adapters/style.safetensors", metadata=TRAINED)
    save_file({"emb_params": torch.ones(3, 1024)}, base / "adapters/charm.safetensors")
    return base


@pytest.fixture
def settings(folders: Path) -> Settings:
    return Settings(models_folder=str(folders / "models"), adapters=str(folders / "adapters"))


def described(name: str, settings: Settings) -> Description:
    return description.of_name(name, settings)


def test_the_list(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    found = {each.name: each for each in places.each(settings)}
    shown = {name: (each.kind, each.family, each.precision) for name, each in found.items()}
    assert shown == {
        "builtin": ("model", "builtin", "float16"),
        "builtin-fast": ("model", "builtin", "float16"),
        "cut.safetensors": ("unknown", "", ""),
        "dangling.ckpt": ("unknown", "", ""),
        "half.safetensors": ("model", "Stable Diffusion 1", "float16"),
        "page.safetensors": ("unknown", "", ""),
        "small.ckpt": ("model", "Stable Diffusion 1", "float32"),
        "whole": ("model", "Stable Diffusion 1", "float32"),
        "old/laion.ckpt": ("model", "LAION-400M", "float32"),
        "charm.safetensors": ("embedding", "Stable Diffusion 2", "float32"),
        "style.safetensors": ("LoRA", "Stable Diffusion 1", "float32"),
    }
    assert "It is a web page" in found["page.safetensors"].problem
    assert "it is cut short or damaged" in found["cut.safetensors"].problem
    assert "it does not exist" in found["dangling.ckpt"].problem
    assert found["half.safetensors"].size == (Path(settings.models_folder) / "half.safetensors").stat().st_size


def test_a_list_imports_no_torch(folders: Path) -> None:
    code = (
        "import sys; from sdcli.inventory import description, places; from sdcli.settings import Settings\n"
        f"s = Settings(models_folder={str(folders / 'models')!r}, adapters={str(folders / 'adapters')!r})\n"
        "assert len([description.summary(each) for each in places.each(s)]) > 10\n"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_checkpoint(settings: Settings, small_checkpoint: SmallCheckpoint) -> None:
    found = described("small", settings)
    parts = {part.name: (part.parameters, part.precision) for part in found.parts}
    count = {"UNet": "model.diffusion_model.", "VAE": "first_stage_model.", "text encoder": "cond_stage_model."}
    tensors = checkpoint_file.read_tensors(small_checkpoint.ckpt)
    for name, prefix in count.items():
        numbers = sum(each.numel() for key, each in tensors.items() if key.startswith(prefix))
        assert parts[name] == (numbers, "float32")
    assert found.hash == find(ModelRequest(ckpt=str(small_checkpoint.ckpt))).hash()
    assert found.command() == f"sdcli txt2img --ckpt {settings.models_folder}/small.ckpt --prompt 'a castle'"
    values = description.everything(found, "")
    assert (values["spec"]["schedule"]["prediction_type"], values["spec"]["default_steps"]) == ("epsilon", 50)


def test_a_folder(settings: Settings, small_folder: Path, tmp_path: Path) -> None:
    found = described("whole", settings)
    assert {part.name: part.of for part in found.parts} == {
        "text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL",
    }  # fmt: skip
    assert found.hash == find(ModelRequest(model=str(small_folder))).hash()
    assert found.size == sum(path.stat().st_size for path in small_folder.glob("*/*.safetensors"))
    other = tmp_path / "xl"
    (other / "unet").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionXLInpaintPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (other / "model_index.json").write_text(json.dumps(index))
    save_file({"x": torch.ones(5, dtype=torch.bfloat16)}, other / "unet/diffusion_pytorch_model.safetensors")
    (other / "README.md").write_text("---\ntags: [x]\nlicense: other\nlicense_name: odd-terms\n---\nlicense: mit\n")
    found = description.of_path(other)
    assert (found.kind, found.family, found.precision) == ("unknown", "StableDiffusionXLInpaint", "bfloat16")
    assert (found.license, found.command(), found.hash) == ("odd-terms", "", "")
    assert found.problem


def test_a_lora(settings: Settings, tmp_path: Path) -> None:
    found = described("style", settings)
    assert found.details == {
        "method": ["LoRA"], "rank": [8], "changes": ["unet"], "words": ["shiny style", "gloss"],
        "tags": ["sky", "shiny style"],
    }  # fmt: skip
    assert (found.layout, found.license) == ("kohya", "CC0-1.0")
    assert found.hash == hashlib.sha256(found.path.read_bytes()).hexdigest()
    assert places.base_of(found, settings) == "", "no model here is so wide"
    expected = f"sdcli txt2img --ckpt CHECKPOINT --lora {found.path} --prompt 'a castle, shiny style'"
    assert found.command() == expected
    small = description.of_path(write_lora(tmp_path / "small.safetensors", width=64))
    base = places.base_of(small, settings)
    assert base == f"--ckpt {settings.models_folder}/half.safetensors"
    assert small.command(base) == f"sdcli txt2img {base} --lora {small.path} --prompt 'a castle'"


def test_an_embedding_fits_no_model_here(settings: Settings) -> None:
    found = described("charm", settings)
    assert found.details == {"words": ["charm"], "vectors": 3}
    assert places.base_of(found, settings) == ""
    assert "--prompt 'a castle, charm'" in found.command()


@pytest.mark.parametrize(
    ("name", "details", "layout"),
    [
        ("original", {"class": "AutoencoderKL", "latent channels": 4}, "original"),
        ("tiny", {"class": "AutoencoderTiny", "latent channels": 4}, "diffusers"),
    ],
)
def test_a_vae(
    name: str, details: dict[str, Any], layout: str, tmp_path: Path, small_checkpoint: SmallCheckpoint
) -> None:
    path = tmp_path / "vae.safetensors"
    if name == "tiny":
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        save_file(AutoencoderTiny().state_dict(), path)
    else:
        tensors = checkpoint_file.read_tensors(small_checkpoint.ckpt)
        prefix = "first_stage_model."
        own = {key.removeprefix(prefix): each for key, each in tensors.items() if key.startswith(prefix)}
        save_file(own, path)
    found = description.of_path(path)
    assert (found.kind, found.layout, found.details) == ("VAE", layout, details)


def test_hostile_texts_of_a_header(tmp_path: Path) -> None:
    for number, tags in enumerate(("[1]", "{", "[" * 5_000, '{"a": {"b": "c"}}', '{"a": 5}')):
        path = write_lora(tmp_path / f"{number}.safetensors", metadata={"ss_tag_frequency": tags})
        found = description.of_path(path)
        assert (found.kind, found.details.get("tags")) == ("LoRA", None)


def test_what_is_not_there(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    for name in ("nothing", "no/such", "no/such/file.safetensors", "x" * 5_000):
        with pytest.raises(ModelNotFound, match="there is no file, no folder and no model"):
            described(name, settings)
    with pytest.raises(ModelError, match="contains no model"):
        described(str(tmp_path), settings)


def test_the_cache_of_the_hub(tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, a LoRA, a language model, and a model of which files are missing."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name in ("one--model", "one--lora", "one--words", "one--broken"):
        (tmp_path / f"models--{name}/snapshots").mkdir(parents=True)
        (tmp_path / f"models--{name}/blobs").mkdir()
        (tmp_path / f"models--{name}/refs").mkdir()
        (tmp_path / f"models--{name}/refs/main").write_text(commit)
    snapshots = {name: tmp_path / f"models--one--{name}/snapshots" / commit for name in ("lora", "words", "broken")}
    for folder in snapshots.values():
        folder.mkdir()
    (tmp_path / f"models--one--model/snapshots/{commit}").symlink_to(small_folder)
    write_lora(snapshots["lora"] / "style.safetensors")
    save_file({"model.layers.0.weight": torch.ones(4)}, snapshots["words"] / "model.safetensors")
    (snapshots["broken"] / "model_index.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = {each.name: each for each in places.in_cache()}
    assert {name: each.kind for name, each in found.items()} == {
        "one/broken": "unknown", "one/lora/style.safetensors": "LoRA", "one/model": "model",
    }  # fmt: skip
    assert {each.revision for each in found.values()} == {commit}
    words = shlex.split(found["one/lora/style.safetensors"].command())
    assert words[words.index("--lora") + 1] == f"one/lora/style.safetensors@{commit}"
    assert f"--model one/model --revision {commit}" in found["one/model"].command()
