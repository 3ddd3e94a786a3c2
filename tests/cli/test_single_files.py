"""Files given with --ckpt: each kind that is not a whole model is named, with the flag that takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ended

Run = Callable[..., "Ended"]

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
WHOLE: dict[str, tuple[int, ...]] = {
    FIRST: (4, 4, 3, 3), f"{VAE}decoder.conv_in.weight": (2,), f"{TEXT}final_layer_norm.weight": (2,),
}  # fmt: skip


def safetensors(tensors: dict[str, tuple[int, ...]]) -> bytes:
    """A file of float16 zeros."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def with_(*names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (2,))


FILES: dict[str, tuple[dict[str, tuple[int, ...]], str, str]] = {
    "lora": (with_("lora_unet_mid.lora_down.weight", "lora_unet_mid.alpha"), "a LoRA", "Pass it with --lora"),
    "lycoris": (with_("lora_unet_mid_block.hada_w1_a"), "a LoRA", "Pass it with --lora"),
    "embedding": (with_("emb_params"), "a textual inversion", "Pass it with --embedding"),
    "xl-embedding": (with_("clip_l", "clip_g"), "a textual inversion", "Pass it with --embedding"),
    "vae": (with_("decoder.up.0.block.0.conv1.weight", "encoder.conv_in.weight"), "a VAE", "Pass it with --vae"),
    "vae-of-diffusers": (with_("decoder.up_blocks.0.resnets.0.conv1.weight"), "a VAE", "Pass it with --vae"),
    "prefixed-vae": (with_(f"{VAE}decoder.conv_in.weight"), "a VAE", "Pass it with --vae"),
    "controlnet": (with_("control_model.input_hint_block.0.weight"), "a ControlNet", ""),
    "t2i": (with_("adapter.body.0.block1.weight"), "a T2I adapter", ""),
    "ip-adapter": (with_("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "an IP adapter", ""),
    "refiner": (with_("conditioner.embedders.0.model.ln_final.weight", FIRST), "a Stable Diffusion XL refiner", ""),
    "inpainting": (WHOLE | {FIRST: (4, 9, 3, 3)}, "an inpainting model", ""),
    "pix2pix": (WHOLE | {FIRST: (4, 8, 3, 3)}, "InstructPix2Pix", ""),
    "depth": (WHOLE | {FIRST: (4, 5, 3, 3)}, "a depth-to-image model", ""),
    "upscaler": (WHOLE | {f"{UNET}label_emb.weight": (1000, 2)}, "an upscaler", ""),
    "esrgan": (with_("model.1.sub.0.RDB1.conv1.0.weight"), "an upscaler", ""),
    "sd3": (with_(f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"), "a Stable Diffusion 3 model", ""),
    "flux": (with_("double_blocks.0.img_attn.qkv.weight"), "a Flux model", ""),
    "flux2": (with_("double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.qkv"), "a Flux 2 model", ""),
    "chroma": (with_("distilled_guidance_layer.in_proj.bias", "double_blocks.0.x"), "a Chroma model", ""),
    "auraflow": (with_("model.double_layers.0.attn.w1q.weight"), "an AuraFlow model", ""),
    "pixart": (with_("t_block.1.weight", "blocks.0.attn.qkv.weight"), "a PixArt model", ""),
    "sana": (with_("blocks.0.mlp.inverted_conv.conv.weight"), "a Sana model", ""),
    "lumina": (with_("cap_embedder.0.weight"), "a Lumina 2 or Z-Image model", ""),
    "qwen": (with_("transformer_blocks.0.img_mod.1.weight"), "a Qwen-Image model", ""),
    "hidream": (with_("double_stream_blocks.0.block.adaLN_modulation.1.bias"), "a HiDream model", ""),
    "wan": (with_("head.modulation"), "a Wan model", ""),
    "hunyuan": (with_("txt_in.individual_token_refiner.blocks.0.x", "double_blocks.0.x"), "a HunyuanVideo model", ""),
    "cascade": (with_("clip_txt_mapper.weight"), "a Stable Cascade model", ""),
    "playground": (WHOLE | {"edm_mean": (4,)}, "a Playground 2.5 model", ""),
    "animatediff": (with_("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"), "a video model", ""),
    "unet": (with_(f"{UNET}out.2.weight"), "a UNet alone", "whole model"),
    "unet-of-diffusers": (with_("down_blocks.0.resnets.0.conv1.weight"), "a UNet in diffusers' layout", "whole model"),
    "clip": (with_("text_model.final_layer_norm.weight"), "a text encoder", "whole model"),
    "t5": (with_("encoder.block.0.layer.0.SelfAttention.q.weight"), "a T5 text encoder", "whole model"),
    "unknown": (with_("weights"), "contains no model that sdcli supports", "Pass a checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_whole_model_is_named(refuse: Run, tmp_path: Path, name: str) -> None:
    tensors, what, fix = FILES[name]
    (tmp_path / f"{name}.safetensors").write_bytes(safetensors(tensors))
    failed = refuse("txt2img", "a cat", "--ckpt", f"{name}.safetensors")
    assert (failed.returncode, failed.stdout) == (4, ""), failed.stderr
    first, *rest = failed.stderr.strip().splitlines()
    assert f"{name}.safetensors" in first and what in first
    assert fix in rest[-1] and len(rest) == 2
    assert "Traceback" not in failed.stderr


def test_a_gguf_file_is_named(refuse: Run, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"GGUF\x03\0\0\0" + bytes(2000))
    failed = refuse("txt2img", "a cat", "--ckpt", "m.safetensors")
    assert failed.returncode == 4 and "a GGUF file" in failed.stderr


MODEL_OF = {
    "sd1": f"{TEXT}final_layer_norm.weight",
    "sd2": "cond_stage_model.model.ln_final.weight",
    "sdxl": "conditioner.embedders.1.model.ln_final.weight",
}
NAMES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}


@pytest.mark.parametrize("setting", ["--lora", "--embedding"])
@pytest.mark.parametrize("family", MODEL_OF)
def test_a_whole_model_that_is_given_as_an_adapter(refuse: Run, tmp_path: Path, setting: str, family: str) -> None:
    unet_and_vae = {name: shape for name, shape in WHOLE.items() if not name.startswith(TEXT)}
    (tmp_path / "m.safetensors").write_bytes(safetensors(unet_and_vae | {MODEL_OF[family]: (2,)}))
    failed = refuse("txt2img", "a red apple", setting, "m.safetensors")
    assert failed.returncode == 4
    assert f"a whole {NAMES[family]} model" in failed.stderr and "Pass it with --ckpt" in failed.stderr


@pytest.mark.parametrize(("setting", "file", "flag"), [
    ("--vae", "lora", "--lora"), ("--embedding", "lora", "--lora"), ("--lora", "embedding", "--embedding"),
    ("--lora", "vae", "--vae"), ("--embedding", "vae", "--vae"), ("--vae", "embedding", "--embedding"),
])  # fmt: skip
def test_an_adapter_that_is_given_as_another(refuse: Run, tmp_path: Path, setting: str, file: str, flag: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(safetensors(FILES[file][0]))
    failed = refuse("txt2img", "a red apple", setting, "m.safetensors")
    assert failed.returncode == 4 and f"Pass it with {flag}" in failed.stderr, failed.stderr
