"""Recognition of files that are not supported."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdcli.errors import ModelError
from sdcli.models import recognition

UNET = "model.diffusion_model.input_blocks.0.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"

OTHERS = {
    "Stable Diffusion XL refiner": [UNET, VAE, "conditioner.embedders.0.model.ln_final.weight"],
    "Stable Diffusion 3 model": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", VAE],
    "Flux model": ["double_blocks.0.img_attn.norm.key_norm.scale"],
    "LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
    "a LoRA": ["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"],
    "textual inversion": ["string_to_param", "string_to_token", "*"],
    "ControlNet": ["control_model.time_embed.0.weight"],
    "a ControlNet": ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    "an upscaler": [UNET, VAE, TEXT, "model.diffusion_model.label_emb.weight"],
    "video model": ["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"],
    "a UNet in diffusers' layout alone": ["down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"],
    "a VAE in diffusers' layout alone": ["decoder.up_blocks.0.resnets.0.conv1.weight", "encoder.conv_in.weight"],
    "a VAE alone": ["decoder.up.0.block.0.conv1.weight", "encoder.down.0.block.0.conv1.weight"],
    "a text encoder alone": ["text_model.final_layer_norm.weight"],
    ": a UNet alone": [UNET, "model_ema.decay"],
    ": a UNet and a text encoder alone": [UNET, TEXT],
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_error_names_the_kind_of_file(name: str) -> None:
    with pytest.raises(ModelError, match=name) as raised:
        recognition.check(Path("m.safetensors"), dict.fromkeys(OTHERS[name], ()))
    assert raised.value.why and raised.value.fix


def test_unknown_files_are_refused() -> None:
    with pytest.raises(ModelError, match="no model that sdcli supports"):
        recognition.check(Path("m.ckpt"), {"weights": ()})


def test_a_whole_model_is_accepted() -> None:
    recognition.check(Path("m.ckpt"), dict.fromkeys([UNET, VAE, TEXT, "model_ema.decay", "betas"], ()))
