"""Weights in half precision, as on a GPU: images are the same with autocast, and without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from originals import V1, SmallOriginal

from sdcli.models import weights
from sdcli.models.model import Model
from sdcli.pipeline import generate


class Elsewhere:
    """A device that is not the CPU, for `placed`; what is moved there stays."""

    type = "gpu"


def on_a_gpu(part: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Module, "to", lambda self, device: self)
        placed: torch.nn.Module = weights.placed(part, Elsewhere())  # type: ignore[arg-type]
    return placed


@pytest.fixture
def small(tmp_path: Path) -> SmallOriginal:
    """A model whose file has float16, but for one weight that float16 does not represent."""
    small = SmallOriginal(tmp_path, V1)
    changed = {name: tensor.half().float() for name, tensor in small.tensors.items()}
    changed["model.diffusion_model.out.2.weight"] = small.tensors["model.diffusion_model.out.2.weight"]
    small.write(changed)
    return small


def image(model: Model, small: SmallOriginal, *, autocast: bool) -> torch.Tensor:
    job = small.job("ddim", "auto", steps=2)
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        return generate(model, [job], lambda _: None)[0]


@pytest.mark.slow
def test_images_are_the_same(small: SmallOriginal, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.model
    expected = {autocast: image(model, small, autocast=autocast) for autocast in (True, False)}
    assert not torch.equal(expected[True], expected[False])
    before = {name: weight.clone() for name, weight in model.unet.state_dict().items()}
    for part in (model.unet, model.text_encoder):
        on_a_gpu(part, monkeypatch)
    types = {name: weight.dtype for name, weight in model.unet.state_dict().items()}
    assert (
        types["conv_in.weight"] == types["mid_block.attentions.0.transformer_blocks.0.ff.net.2.bias"] == torch.float16
    )
    assert types["conv_norm_out.weight"] == types["conv_out.weight"] == torch.float32
    assert model.text_encoder.encoder.layers[0].mlp.fc1.weight.dtype == torch.float16
    assert torch.equal(image(model, small, autocast=True), expected[True])
    with weights.in_full(model):
        assert torch.equal(image(model, small, autocast=False), expected[False])
    assert {name: weight.dtype for name, weight in model.unet.state_dict().items()} == types
    weights.to_full(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.unet.state_dict().items())
    assert torch.equal(image(model, small, autocast=False), expected[False])


def test_on_a_cpu_nothing_changes() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight.data.fill_(0.5)
    assert weights.placed(layer, torch.device("cpu")).weight.dtype == torch.float32
