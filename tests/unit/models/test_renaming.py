"""Every spelling of the names in a checkpoint becomes that of the original layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from originals import V1, SmallOriginal, Tensors, clip_tensors, open_clip_tensors, release
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from sdcli.models import checkpoint_file, find, open_clip, renaming
from sdcli.models.adapters.vae import VaeSource
from sdcli.models.model import Model, ModelRequest
from sdcli.models.renaming import OPEN_CLIP, SECOND_TEXT, TEXT, UNET

CPU = torch.device("cpu")
Renamed = Callable[[Tensors], Tensors]


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> SmallOriginal:
    return SmallOriginal(tmp_path_factory.mktemp("sd1"), V1)


def each(*changes: tuple[str, str]) -> Renamed:
    """Patterns that are replaced at the beginning of the names."""

    def renamed(tensors: Tensors) -> Tensors:
        found = {}
        for name, tensor in tensors.items():
            for pattern, new in changes:
                name = re.sub(f"^{pattern}", new, name)
            found[name] = tensor
        return found

    return renamed


def averages(tensors: Tensors) -> Tensors:
    """Averages (EMA) without the weights that they are of."""
    found = {
        "model_ema." + name[6:].replace(".", "") if name.startswith(UNET) else name: tensor
        for name, tensor in tensors.items()
    }
    return found | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}


def vae_attention(*names: str) -> Renamed:
    def renamed(tensors: Tensors) -> Tensors:
        found = {}
        for name, tensor in tensors.items():
            for old, new in zip(("q", "k", "v", "proj_out", "norm"), names, strict=True):
                name = name.replace(f".mid.attn_1.{old}.", f".mid.attn_1.{new}.")
            found[name] = tensor
        return found

    return renamed


TEXTS = r"(?:cond_stage_model|conditioner\.embedders\.0)\.transformer\."
SPELLINGS: dict[str, Renamed] = {
    "as it is": lambda tensors: tensors,
    "averages alone": averages,
    "averages beside": lambda tensors: averages({n: t for n, t in tensors.items() if n.startswith(UNET)}) | tensors,
    "in a module": each(("", "module.")),
    "in a state_dict": each(("", "state_dict.")),
    "model. twice": each(("", "model.")),
    "DeepSpeed": each(("", "_forward_module.module.")),
    "averages of DeepSpeed": lambda tensors: each(("", "module."))(averages(tensors)),
    "compiled": each((r"model\.diffusion_model\.", "model.diffusion_model._orig_mod.")),
    "compiled as a whole": each((r"model\.diffusion_model\.", "_orig_mod.model.diffusion_model.")),
    "another copy of the UNet": lambda tensors: (
        each((r"model\.", "ema.model."))({n: torch.ones(1) for n in tensors if n.startswith(UNET)}) | tensors
    ),
    "text_encoders": each((TEXTS, "text_encoders.clip_l.transformer.")),
    "clip_l": each((TEXTS, "cond_stage_model.clip_l.transformer.")),
    "conditioner": each((TEXTS, "conditioner.embedders.0.transformer.")),
    "early": each((f"{TEXTS}text_model\\.", "cond_stage_model.transformer.")),
    "without transformer": each((TEXTS, "cond_stage_model.")),
    "vae.": each((r"first_stage_model\.", "vae.")),
    "attention of diffusers": vae_attention("to_q", "to_k", "to_v", "to_out.0", "group_norm"),
    "attention of older diffusers": vae_attention("query", "key", "value", "proj_attn", "norm"),
}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(family: str, name: str) -> None:
    tensors = release(family)
    expected = renaming.original_names(tensors)
    assert set(expected) >= {f"{UNET}out.2.weight", "first_stage_model.decoder.mid.attn_1.q.weight"}
    found = renaming.original_names(SPELLINGS[name](tensors))
    assert all(found[key] is tensor for key, tensor in expected.items())
    parts = (UNET, "first_stage_model.", TEXT, SECOND_TEXT)
    assert {key for key in found if key.startswith(parts)} == set(expected)


def test_a_name_of_its_own_is_kept() -> None:
    names = ["double_blocks.0.img_attn.qkv.weight", "lora_unet_x.lora_down.weight", "decoder.up.0.weight", "betas"]
    assert list(renaming.original_names(dict.fromkeys(names))) == names


@pytest.mark.parametrize(
    ("prefix", "beginning"),
    [
        (OPEN_CLIP, "text_encoders.clip_h.transformer."), (OPEN_CLIP, "cond_stage_model.clip_h.transformer."),
        (SECOND_TEXT, "text_encoders.clip_g.transformer."), (SECOND_TEXT, "cond_stage_model.clip_g.transformer."),
        (SECOND_TEXT, "conditioner.embedders.1.transformer."),
    ],
)  # fmt: skip
def test_open_clip_by_the_names_of_transformers(prefix: str, beginning: str) -> None:
    """As ComfyUI writes it."""
    config = CLIPTextConfig(
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=1, vocab_size=9
    )
    encoder = CLIPTextModelWithProjection(config)
    expected = open_clip.tensors(open_clip_tensors(encoder, prefix), prefix)
    found = open_clip.tensors(renaming.original_names(clip_tensors(encoder, beginning)), prefix)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    shapes = {name: tuple(tensor.shape) for name, tensor in open_clip_tensors(encoder, prefix).items()}
    assert open_clip.shapes(shapes, prefix) == {name: tuple(tensor.shape) for name, tensor in expected.items()}


# What the file is, and types of numbers. All are the same model.


def load(path: Path) -> Model:
    return find(ModelRequest(ckpt=str(path))).load(CPU, lambda _: None)


def same(one: Model, other: Model) -> bool:
    """Whether two models have the same weights, in float32."""
    for part in ("unet", "vae", "text_encoder"):
        weights, expected = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert weights.keys() == expected.keys()
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        if not all(torch.equal(weight, expected[name]) for name, weight in weights.items()):
            return False
    return True


@pytest.mark.slow
def test_files(sd1: SmallOriginal, tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sd1.tensors.items()}
    model = sd1.model
    torch.save({"state_dict": tensors}, tmp_path / "a-pickle.safetensors")
    torch.save({"model": {"state_dict": tensors}, "ema": 1}, tmp_path / "nested.ckpt")
    torch.save(tensors, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "safe.safetensors")
    (tmp_path / "safe.safetensors").rename(tmp_path / "safe.ckpt")
    more = (tmp_path / "safe.ckpt").read_bytes() + b"\0" * 100
    (tmp_path / "longer.safetensors").write_bytes(more)
    for path in ("a-pickle.safetensors", "nested.ckpt", "legacy.ckpt", "safe.ckpt", "longer.safetensors"):
        assert same(load(tmp_path / path), model), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "extension"),
    [
        (torch.float16, "ckpt"), (torch.bfloat16, "safetensors"), (torch.float8_e4m3fn, "safetensors"),
        (torch.float8_e4m3fn, "ckpt"), (torch.float8_e5m2, "safetensors"),
    ],
)  # fmt: skip
def test_smaller_numbers_become_float32(sd1: SmallOriginal, tmp_path: Path, dtype: torch.dtype, extension: str) -> None:
    reduced = {name: tensor.to(dtype) for name, tensor in sd1.tensors.items()}
    path = tmp_path / f"m.{extension}"
    if extension == "ckpt":
        torch.save(reduced, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in reduced.items()}, path)
    (tmp_path / "expected").mkdir()
    expected = {name: tensor.float().contiguous() for name, tensor in reduced.items()}
    save_file(expected, tmp_path / "expected" / "m.safetensors")
    assert same(load(path), load(tmp_path / "expected" / "m.safetensors"))


@pytest.mark.slow
def test_scaled_numbers_of_8_bits(sd1: SmallOriginal, tmp_path: Path) -> None:
    name = f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q"
    weight = (sd1.tensors[f"{name}.weight"] * 4).to(torch.float8_e4m3fn)
    changed = sd1.tensors | {
        f"{name}.weight": weight, f"{name}.scale_weight": torch.tensor(0.25), f"{UNET}scaled_fp8": torch.empty(2),
    }  # fmt: skip
    save_file({key: tensor.contiguous() for key, tensor in changed.items()}, tmp_path / "m.safetensors")
    found = load(tmp_path / "m.safetensors").unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    assert torch.equal(found, weight.float() / 4)


@pytest.mark.slow
def test_the_vae_of_a_whole_model_or_with_other_names(sd1: SmallOriginal, tmp_path: Path) -> None:
    vae = {name.removeprefix("first_stage_model."): t for name, t in sd1.tensors.items() if name.startswith("first_")}
    spelled = vae_attention("to_q", "to_k", "to_v", "to_out.0", "group_norm")(vae)
    paths = [sd1.path, tmp_path / "vae.safetensors", tmp_path / "spelled.safetensors"]
    for path, tensors in zip(paths[1:], (vae, spelled), strict=True):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    for path in paths:
        found = VaeSource.read(path).load(sd1.model.spec).state_dict()
        expected = sd1.made.vae.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), path


def test_the_values_of_a_small_tensor(tmp_path: Path) -> None:
    """They are read without torch."""
    numbers = torch.tensor([0.5, -1.25, 3.0])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        save_file({"other": torch.ones(2), "x": numbers.to(dtype)}, tmp_path / "m.safetensors")
        torch.save({"other": torch.ones(2), "x": numbers.to(dtype)}, tmp_path / "m.ckpt")
        torch.save({"x": numbers.to(dtype)}, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
        for name in ("m.safetensors", "m.ckpt", "legacy.ckpt"):
            assert checkpoint_file.values(tmp_path / name, "x") == (0.5, -1.25, 3.0), (name, dtype)
    assert checkpoint_file.values(tmp_path / "m.ckpt", "none") is None
    save_file({"x": torch.ones(200_000), "y": torch.ones(2, dtype=torch.int64)}, tmp_path / "m.safetensors")
    assert checkpoint_file.values(tmp_path / "m.safetensors", "x") is None
    assert checkpoint_file.values(tmp_path / "m.safetensors", "y") is None
