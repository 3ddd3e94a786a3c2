"""Another VAE: files in both layouts and folders of diffusers decode as the libraries' own models do."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file

from sdcli.errors import ModelError
from sdcli.model_spec import ModelSpec
from sdcli.models import adapters, checkpoint_config, conversion
from sdcli.models.adapters.vae import VaeSource
from tests.unit.pipeline.toy_model import SPEC

GOLDEN = Path(__file__).parents[2] / "golden"
LATENTS = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def spec(**changes: Any) -> ModelSpec:
    return SPEC.model_copy(update={"downscale": 2, "latent_scale": 0.5, **changes})


def decoded(vae: Any, latents: torch.Tensor = LATENTS) -> torch.Tensor:
    with torch.inference_mode():
        image: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "kl")
    return tmp_path / "kl"


def test_a_folder_of_diffusers(folder: Path) -> None:
    adapter = adapters.locate("vae", str(folder), "", offline=True)
    source = VaeSource.read(adapter.path)
    source.require_fit(spec())
    loaded = source.load(spec())
    assert torch.equal(decoded(loaded), decoded(AutoencoderKL.from_pretrained(folder).eval()))
    assert loaded.config.scaling_factor == 0.5


def test_the_hash_has_the_configuration(folder: Path) -> None:
    adapter = adapters.locate("vae", str(folder), "", offline=True)
    before = adapter.hash
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"norm_num_groups": 4', '"norm_num_groups": 2'))
    assert adapter.hash != before
    config.unlink()
    assert adapter.hash == sha256(adapter.path.read_bytes()).hexdigest()


def test_names_of_older_versions_of_diffusers(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    expected = decoded(VaeSource.read(path).load(spec()))
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(path).items():
        new = name
        for one, other in older.items():
            new = new.replace(f".{one}.", f".{other}.")
        tensors[new] = tensor[..., None, None] if new != name and tensor.ndim == 2 else tensor
    assert tensors.keys() != load_file(path).keys()
    save_file(tensors, path)
    assert torch.equal(decoded(VaeSource.read(path).load(spec())), expected)


@pytest.mark.parametrize("kind", ["folder", "file", "decoder of its author"])
def test_taesd(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    vae = AutoencoderTiny().eval()
    vae.save_pretrained(tmp_path)
    if kind != "folder":
        (tmp_path / "config.json").unlink()
    if kind == "decoder of its author":
        layers = {name.split(".", 2)[2]: each for name, each in vae.state_dict().items() if name.startswith("decoder.")}
        renamed = {f"{int(name.partition('.')[0]) + 1}.{name.partition('.')[2]}": each for name, each in layers.items()}
        save_file(renamed, tmp_path / "diffusion_pytorch_model.safetensors")
    source = VaeSource.read(adapters.locate("vae", str(tmp_path), "", offline=True).path)
    source.require_fit(spec(downscale=8))
    loaded = source.load(spec())
    assert torch.equal(decoded(loaded), decoded(vae))
    assert loaded.config.scaling_factor == 1.0


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_file_of_the_original_layout(tmp_path: Path, prefix: str) -> None:
    config = checkpoint_config.read(GOLDEN / "v1-small.yaml")
    own = "first_stage_model."
    generator = torch.Generator().manual_seed(0)
    shapes = json.loads((GOLDEN / "shapes.json").read_text())
    tensors = {
        name: torch.randn(shape, generator=generator) / 10 for name, shape in shapes.items() if name.startswith(own)
    }
    expected = conversion.vae(tensors, config, source="x", config_name="x")
    save_file({prefix + name.removeprefix(own): each for name, each in tensors.items()}, tmp_path / "x.vae.safetensors")
    small = checkpoint_config.spec_of(config, "x")
    source = VaeSource.read(tmp_path / "x.vae.safetensors")
    source.require_fit(small)
    loaded = source.load(small)
    assert torch.equal(decoded(loaded), decoded(expected))
    assert loaded.config.scaling_factor == expected.config.scaling_factor


def test_a_vae_for_another_model_is_refused(folder: Path) -> None:
    source = VaeSource.read(folder / "diffusion_pytorch_model.safetensors")
    for changes, expected in (
        ({"latent_channels": 16}, "It has 4 latent channels, the model has 16."),
        ({"downscale": 8}, "It has 2 image pixels for each latent pixel, the model has 8."),
        ({"latent_scale": 0.18215}, "It has 0.5 as scale of latents, the model has 0.18215."),
    ):
        with pytest.raises(ModelError) as error:
            source.require_fit(spec(**changes))
        assert error.value.why == expected


def test_a_file_that_is_no_vae_is_refused(tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(2, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="is not a VAE that sdcli reads"):
        VaeSource.read(tmp_path / "x.safetensors")
