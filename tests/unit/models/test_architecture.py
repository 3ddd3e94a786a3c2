"""Recognition of the original layout by tensors alone, with the names and shapes of the real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from originals import RELEASED_UNET, Tensors, release, unet_tensors, vae_tensors

from sdcli.errors import ModelError
from sdcli.models import architecture, checkpoint_config, checkpoint_file, conversion, families, recognition, renaming
from sdcli.models.original_yaml import OriginalConfig
from sdcli.models.sources import checkpoint
from sdcli.models.sources.checkpoint import OriginalModel

CPU = torch.device("cpu")
KEYS = {"sd1": 1131, "sd2": 1228, "sdxl": 2515}
"""Tensors of the releases: v1-4 without averaged weights and v2-1 without those of training, and XL base."""
YAML = {"sd1": "v1-inference.yaml", "sd2": "v2-inference.yaml", "sdxl": "sd_xl_base.yaml"}


@pytest.fixture(scope="module", params=KEYS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tensors(family: str) -> Tensors:
    return release(family)


def found_in(tensors: Tensors, monkeypatch: pytest.MonkeyPatch, path: str = "model.safetensors") -> OriginalModel:
    """The model that is found in a file with these tensors."""
    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    monkeypatch.setattr(checkpoint_file, "shapes", lambda _: shapes)
    monkeypatch.setattr(checkpoint_file, "read_tensors", lambda _: dict(tensors))
    monkeypatch.setattr(checkpoint_file, "metadata", lambda _: {})
    monkeypatch.setattr(checkpoint_file, "values", lambda *_: (0.0, 0.01))
    model = checkpoint.find(checkpoint.ModelRequest(ckpt=path))
    assert model is not None
    return model


def test_the_shipped_configuration_is_recognized(
    family: str, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(tensors) == KEYS[family]
    model = found_in(tensors, monkeypatch)
    shipped = checkpoint_config.read(checkpoint_config.find(YAML[family]))
    assert conversion.described_unet(model.config) == conversion.described_unet(shipped)
    assert vae(model.config) == vae(shipped)
    expected = checkpoint_config.spec_of(shipped, "model.safetensors")
    layers = {"sd1": 12, "sd2": 23, "sdxl": 12}
    assert model.spec == expected.model_copy(update={"notes": model.spec.notes, "text_layers": layers[family]})
    if family == "sd1":
        folder = families.get(family).text_folder(shipped, Path())
        fields = families.get(family).text_config(shipped, folder, {})
        found = families.get(family).text_config(model.config, None, model.shapes)
        assert {name: fields[name] for name in found} == found


def vae(config: OriginalConfig) -> dict[str, Any]:
    described: dict[str, Any] = conversion.vae_config(config.model_dump(), {})
    return described


@pytest.mark.slow
def test_every_tensor_of_the_release_is_a_weight(
    family: str, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every weight is of the tensor that it should be of."""
    loaded = found_in(tensors, monkeypatch).load(CPU, lambda _: None)
    parts = [loaded.unet, loaded.vae, loaded.text_encoder, loaded.text_encoder_2]
    state = [dict(part.state_dict()) for part in parts if part is not None]
    assert not any(each.is_meta for part in state for each in part.values())
    used = {each.flatten()[0].item() for part in state for each in part.values()}
    unused = [name for number, name in enumerate(tensors) if number not in used]
    left = [name for name in unused if not name.endswith(("position_ids", "logit_scale"))]
    # Stable Diffusion 2 has no use for the last layer of its text encoder.
    expected = [name for name in left if family == "sd2" and (".resblocks.23." in name or "text_projection" in name)]
    assert left == expected and len(left) == (13 if family == "sd2" else 0)
    numbers = {name: number for number, name in enumerate(tensors)}
    sources = unet_tensors(loaded.unet) | vae_tensors(loaded.vae)
    assert all(each.flatten()[0].item() == numbers[name] for name, each in sources.items())


def test_a_unet_with_fewer_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """SSD-1B: some blocks of Stable Diffusion XL are left out, and all attention in the middle."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            **RELEASED_UNET["sdxl"]
            | {
                "transformer_layers_per_block": [1, 2, 4], "mid_block_type": "UNetMidBlock2D",
                "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
            }
        )  # fmt: skip
    shapes = {name: tuple(each.shape) for name, each in unet_tensors(unet).items()}
    shapes |= {name: tuple(each.shape) for name, each in release("sdxl").items() if "diffusion_model" not in name}
    config = architecture.configuration(Path("m"), "sdxl", renaming.original_names(shapes))
    described = conversion.described_unet(config)
    assert described["transformer_layers_per_block"] == [1, 2, 4]
    assert described["reverse_transformer_layers_per_block"] == [[4, 4, 10], [2, 1, 1], 1]
    with torch.device("meta"):
        made = UNet2DConditionModel.from_config(described)
    assert {name: each.shape for name, each in made.state_dict().items()} == {
        name: each.shape for name, each in unet.state_dict().items()
    }


@pytest.mark.parametrize(
    "missing", ["input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight", "post_quant_conv.weight", "label_emb"]
)
def test_a_model_that_is_not_complete_is_refused_with_the_tensor(missing: str) -> None:
    shapes = renaming.original_names({name: tuple(each.shape) for name, each in release("sdxl").items()})
    shapes = {name: shape for name, shape in shapes.items() if missing not in name}
    with pytest.raises(ModelError, match=f"There is no tensor .*{missing}"):
        architecture.configuration(Path("m"), "sdxl", shapes)


def test_families(tensors: Tensors, family: str) -> None:
    assert recognition.family(renaming.original_names(dict.fromkeys(tensors, ()))) == family
