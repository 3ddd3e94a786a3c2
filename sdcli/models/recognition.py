"""Recognition of a checkpoint's kind from the names of its tensors, and the original names of those with others."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from sdcli.errors import ModelError
from sdcli.models import families

Names = Collection[str]
Tensor = TypeVar("Tensor")

# Prefixes of the names of the parts, in the layout of Stable Diffusion 1.
UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."
EMA = "model_ema."
EMA_UNET = f"{EMA}diffusion_model"

# Other beginnings of the names of a text encoder or a VAE, and the original ones.
BEGINNINGS = {
    "conditioner.embedders.0.transformer.": f"{TEXT}transformer.",
    f"{TEXT}text_model.": f"{TEXT}transformer.text_model.",
    f"{TEXT}clip_l.": TEXT,
    f"{TEXT}wrapped.": TEXT,
    "text_encoders.clip_l.": TEXT,
    "vae.": VAE,
}
# Names of the VAE's attention in versions of diffusers, and the original ones.
VAE_ATTENTION = re.compile(rf"({re.escape(VAE)}(?:encoder|decoder)\.mid\.attn_1\.)(.+)\.(weight|bias)")
VAE_ATTENTION_NAMES = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip
# The parts of the names of a UNet's weights; longer ones before their beginnings.
UNET_NAMES = re.compile(
    r"middle_block|time_embed|transformer_blocks|in_layers|out_layers|emb_layers|skip_connection|attn[12]|to_out|to_[qkv]|"
    r"ff|net|proj_in|proj_out|proj|norm[123]|norm|conv|op|out|weight|bias|\d+"
)

WHOLE_V1 = "Pass a checkpoint of a whole Stable Diffusion 1 model."


def _starts(*prefixes: str) -> Callable[[Names], bool]:
    return lambda names: any(name.startswith(prefixes) for name in names)


def _contains(*parts: str) -> Callable[[Names], bool]:
    return lambda names: any(part in name for name in names for part in parts)


# Files that are not supported, most specific first. The first match wins.
OTHERS: Mapping[str, Callable[[Names], bool]] = {
    "a LoRA: a change to a model, not a model": lambda names: (
        _starts("lora_unet_", "lora_te")(names) or _contains(".lora_")(names)
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
PARTS: Mapping[str, Callable[[Names], bool]] = {
    "a UNet in diffusers' layout": lambda names: _starts("down_blocks.")(names) and _starts("time_embed")(names),
    "a VAE in diffusers' layout": _starts("decoder.up_blocks."),
    "a VAE": _starts("decoder.up.", "encoder.down."),
    "a text encoder": _starts("text_model.", "encoder.layers."),
    "a UNet": _starts("input_blocks.", "output_blocks."),
}
WHOLE = {"UNet": UNET, "VAE": VAE, "text encoder": TEXT}


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of the original layout, which differ in files of some trainers.

    Handles names with a wrapper's prefix, other names of the text encoder and of the VAE's attention, and averaged
    (EMA) weights without the weights that they are the average of.

    Args:
        tensors: tensors, or their shapes, by the names in the file.
    """
    unet, averaged = (next((name for name in tensors if f".{root}" in f".{name}"), "") for root in (UNET, EMA_UNET))
    prefix = unet[: unet.find(UNET)] if unet else averaged[: max(averaged.find(EMA_UNET), 0)]
    found = {}
    for name, tensor in tensors.items():
        new = name.removeprefix(prefix).replace("_orig_mod.", "")
        old = next((old for old in BEGINNINGS if new.startswith(old)), "")
        new = BEGINNINGS.get(old, "") + new.removeprefix(old)
        if match := VAE_ATTENTION.fullmatch(new):
            new = f"{match[1]}{VAE_ATTENTION_NAMES.get(match[2], match[2])}.{match[3]}"
        if averaged and not unet and new.startswith(EMA_UNET):
            new = UNET + _with_dots(new.removeprefix(EMA_UNET))
        found[new] = tensor
    return found


def _with_dots(name: str) -> str:
    """The name of a UNet's weight from that of its average, which has no dots."""
    block = re.match(r"(input_blocks|output_blocks)(\d+)(\d)", name)
    rest = name[block.end() :] if block else name
    return ".".join([*(block.groups() if block else ()), *UNET_NAMES.findall(rest)])


def check(path: Path, names: Names) -> None:
    """Check that a file contains a UNet, a VAE and a text encoder in the layout of Stable Diffusion 1.

    Args:
        path: the file, for errors.
        names: as `original_names` returns them.

    Raises:
        ModelError: it does not; the error says what the file seems to be.
    """
    for name, matches in OTHERS.items():
        if matches(names):
            raise ModelError(f"{path} seems to be {name}", why=_supported(), fix=ADVICE.get(name, WHOLE_V1))
    missing = [part for part, prefix in WHOLE.items() if not _starts(prefix)(names)]
    if not missing:
        return
    alone = [name for name, matches in PARTS.items() if matches(names)][:1]
    alone = alone or [part for part in WHOLE if part not in missing]
    if not alone:
        raise ModelError(f"{path} contains no model that sdcli supports", why=_supported(), fix=WHOLE_V1)
    raise ModelError(
        f"{path} seems to be part of a model: {' and '.join(alone)} alone",
        why="A checkpoint contains the UNet, the VAE and the text encoder together.",
        fix="Pass the file of the whole model.",
    )


def family(names: Names) -> str | None:
    """The name of the first family whose text encoder a checkpoint contains; None if it is unknown.

    Args:
        names: as `original_names` returns them.
    """
    return families.first(lambda family: any(name.startswith(family.tensor_prefixes) for name in names))


def _supported() -> str:
    return f"Supported original checkpoints: {', '.join(families.each('checkpoint_models'))}."
