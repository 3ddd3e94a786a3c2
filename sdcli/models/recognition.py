"""Recognition of a checkpoint's kind from the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sdcli.errors import ModelError
from sdcli.models import families
from sdcli.models.checkpoint_file import Shapes

# Prefixes of the names of the parts, in the layout of Stable Diffusion 1.
UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."

WHOLE_V1 = "Pass a checkpoint of a whole Stable Diffusion 1 model."


def _starts(*prefixes: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(name.startswith(prefixes) for name in shapes)


def _contains(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes for part in parts)


# Files that are not supported, most specific first. The first match wins.
OTHERS: Mapping[str, Callable[[Shapes], bool]] = {
    "a LoRA: a change to a model, not a model": lambda shapes: (
        _starts("lora_unet_", "lora_te")(shapes) or _contains(".lora_")(shapes)
    ),
    "a textual inversion: the embedding of a new token": _starts("string_to_param", "string_to_token", "emb_params"),
    "a ControlNet": _starts("control_model.", "controlnet_cond_embedding.", "zero_convs."),
    "a Stable Diffusion XL model": _starts("conditioner.embedders.1."),
    "a Stable Diffusion XL refiner": _starts("conditioner.embedders.0.model."),
    "a Stable Diffusion 3 model": _contains("joint_blocks."),
    "a Flux model": _contains("double_blocks.", "single_transformer_blocks."),
    "a Stable Diffusion 2 model": _starts("cond_stage_model.model.transformer.", "cond_stage_model.model.token_emb"),
    "an upscaler": _starts("model.diffusion_model.label_emb.", "low_scale_model."),
    "a video model": _contains("motion_modules.", "temporal_transformer"),
}
# Advice for those that sdcli supports in another layout.
ADVICE: Mapping[str, str] = {
    "a Stable Diffusion 2 model": "Pass a diffusers folder or a hub id of it with --model.",
}
# Single parts of a model.
PARTS: Mapping[str, Callable[[Shapes], bool]] = {
    "a UNet in diffusers' layout": lambda shapes: _starts("down_blocks.")(shapes) and _starts("time_embed")(shapes),
    "a VAE in diffusers' layout": _starts("decoder.up_blocks."),
    "a VAE": _starts("decoder.up.", "encoder.down."),
    "a text encoder": _starts("text_model.", "encoder.layers."),
    "a UNet": _starts("input_blocks.", "output_blocks."),
}
WHOLE = {"UNet": UNET, "VAE": VAE, "text encoder": TEXT}


def check(path: Path, shapes: Shapes) -> None:
    """Check that a file contains a UNet, a VAE and a text encoder in the layout of Stable Diffusion 1.

    Args:
        path: the file, for errors.
        shapes: as `checkpoint_file.shapes` returns them.

    Raises:
        ModelError: it does not; the error says what the file seems to be.
    """
    for name, matches in OTHERS.items():
        if matches(shapes):
            raise ModelError(f"{path} seems to be {name}", why=_supported(), fix=ADVICE.get(name, WHOLE_V1))
    missing = [part for part, prefix in WHOLE.items() if not _starts(prefix)(shapes)]
    if not missing:
        return
    alone = [name for name, matches in PARTS.items() if matches(shapes)][:1]
    alone = alone or [part for part in WHOLE if part not in missing]
    if not alone:
        raise ModelError(f"{path} contains no model that sdcli supports", why=_supported(), fix=WHOLE_V1)
    raise ModelError(
        f"{path} seems to be part of a model: {' and '.join(alone)} alone",
        why="A checkpoint contains the UNet, the VAE and the text encoder together.",
        fix="Pass the file of the whole model.",
    )


def family(shapes: Shapes) -> str | None:
    """The name of the first family whose text encoder a checkpoint contains; None if it is unknown.

    Args:
        shapes: as `checkpoint_file.shapes` returns them.
    """
    return families.first(lambda family: any(name.startswith(family.tensor_prefixes) for name in shapes))


def _supported() -> str:
    return f"Supported original checkpoints: {', '.join(families.each('checkpoint_models'))}."
