"""What a file of weights is, told from the names in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sdcli.errors import ModelError
from sdcli.models.checkpoint_file import Shapes

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."
BERT = "cond_stage_model.transformer.attn_layers."

WHOLE_V1 = "Give a checkpoint of a whole Stable Diffusion v1 model."
ORIGINAL_ONLY = "sdcli reads original checkpoints of the Stable Diffusion v1 layout, and of LAION-400M."


def _starts(*prefixes: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(name.startswith(prefixes) for name in shapes)


def _contains(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes for part in parts)


# What a file seems to be, most telling first: the first that holds is taken.
OTHERS: Mapping[str, Callable[[Shapes], bool]] = {
    "a LoRA: a change to a model, not a model": lambda shapes: (
        _starts("lora_unet_", "lora_te")(shapes) or _contains(".lora_")(shapes)
    ),
    "a textual inversion: one word for a text encoder": _starts("string_to_param", "string_to_token", "emb_params"),
    "a ControlNet": _starts("control_model.", "controlnet_cond_embedding.", "zero_convs."),
    "a Stable Diffusion XL model": _starts("conditioner.embedders.1."),
    "a Stable Diffusion XL refiner": _starts("conditioner.embedders.0.model."),
    "a Stable Diffusion 3 model": _contains("joint_blocks."),
    "a Flux model": _contains("double_blocks.", "single_transformer_blocks."),
    "a Stable Diffusion 2 model": _starts("cond_stage_model.model.transformer.", "cond_stage_model.model.token_emb"),
    "an upscaler": _starts("model.diffusion_model.label_emb.", "low_scale_model."),
    "a video model": _contains("motion_modules.", "temporal_transformer"),
}
# What to do with those that sdcli can draw with in another form.
WAYS_OUT: Mapping[str, str] = {
    "a Stable Diffusion 2 model": "Give it as a diffusers folder or hub id, with --model.",
}
# Parts of a model, by themselves.
PARTS: Mapping[str, Callable[[Shapes], bool]] = {
    "a UNet in diffusers' layout": lambda shapes: _starts("down_blocks.")(shapes) and _starts("time_embed")(shapes),
    "a VAE in diffusers' layout": _starts("decoder.up_blocks."),
    "a VAE": _starts("decoder.up.", "encoder.down."),
    "a text encoder": _starts("text_model.", "encoder.layers."),
    "a UNet": _starts("input_blocks.", "output_blocks."),
}
WHOLE = {"UNet": UNET, "VAE": VAE, "text encoder": TEXT}


def check(path: Path, shapes: Shapes) -> None:
    """That a file holds UNet, VAE and text encoder in the layout of Stable Diffusion v1.

    Raises:
        ModelError: it does not; names what it seems to be.
    """
    for name, holds in OTHERS.items():
        if holds(shapes):
            raise ModelError(f"{path} seems to be {name}", why=ORIGINAL_ONLY, fix=WAYS_OUT.get(name, WHOLE_V1))
    missing = [part for part, prefix in WHOLE.items() if not _starts(prefix)(shapes)]
    if not missing:
        return
    alone = [name for name, holds in PARTS.items() if holds(shapes)][:1]
    alone = alone or [part for part in WHOLE if part not in missing]
    if not alone:
        raise ModelError(f"{path} holds no model that sdcli knows", why=ORIGINAL_ONLY)
    raise ModelError(
        f"{path} seems to be part of a model: {' and '.join(alone)} alone",
        why="A checkpoint holds the UNet, the VAE and the text encoder together.",
        fix="Give the whole model's file.",
    )
