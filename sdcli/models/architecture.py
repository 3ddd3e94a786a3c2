"""The configuration of a checkpoint without a YAML, from the shapes of its tensors.

What shapes do not show is that of all known models: the number of attention heads, the noise schedule and the scale of
the latents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdcli.errors import ModelError
from sdcli.models import families, json_files
from sdcli.models.checkpoint_file import Shapes
from sdcli.models.original_yaml import OriginalConfig
from sdcli.models.renaming import UNET, VAE

HEADS = 8
"""Attention heads in UNets whose attention has convolutions (Stable Diffusion 1, LAION-400M)."""
HEAD_CHANNELS = 64
"""Channels of a head in those with linear layers (Stable Diffusion 2 and XL)."""


def configuration(path: Path, family: str, shapes: Shapes, **params: Any) -> OriginalConfig:
    """The configuration, as a YAML would have it.

    Args:
        path: the checkpoint, for errors.
        family: the name of its family.
        shapes: of its tensors, by their original names.
        params: further fields of `model.params`, which shapes do not show.

    Raises:
        ModelError: the shapes are not those of a model.
    """
    kind = families.get(family)
    try:
        unet, vae = _unet(shapes), _vae(shapes)
        described = {
            "linear_start": 0.00085,
            "linear_end": 0.012,
            "image_size": 64,
            "scale_factor": kind.latent_scale,
            "use_ema": False,
            "unet_config": {"target": "UNetModel", "params": unet},
            "first_stage_config": {"target": "AutoencoderKL", "params": vae},
            "cond_stage_config": {"target": kind.embedder, "params": kind.text_params(shapes)},
            **params,
        }
        return OriginalConfig.model_validate({"model": {"params": described}})
    except (LookupError, ValueError) as error:
        why = json_files.invalid_fields(error) if isinstance(error, ValidationError) else f"There is no tensor {error}."
        raise ModelError(
            f"the sizes of the model in {path} are not those of a model that sdcli knows",
            why=why,
            fix="Pass the YAML file of the checkpoint with --config.",
        ) from error


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """The size of a tensor along an axis. Raises `LookupError` if it has none."""
    shape = shapes.get(name, ())
    if len(shape) <= axis or not shape[axis]:
        raise LookupError(name)
    return shape[axis]


def _unet(shapes: Shapes) -> dict[str, Any]:
    """The fields of `unet_config.params`. Raises `LookupError` for a tensor that is missing."""
    blocks_of = (_TRANSFORMER.fullmatch(name.removeprefix(UNET)) for name in shapes)
    depths = Counter(block[1] for block in blocks_of if block is not None)
    levels: list[list[tuple[int, int]]] = [[]]
    for number in count(1):
        block = f"{UNET}input_blocks.{number}.0."
        if f"{block}op.weight" in shapes:
            levels.append([])
        elif f"{block}in_layers.2.weight" in shapes:
            levels[-1].append((_size(shapes, f"{block}in_layers.2.weight", 0), depths[f"input_blocks.{number}"]))
        else:
            break
    if not all(levels):
        raise LookupError(f"{UNET}input_blocks.{number}.0.in_layers.2.weight")
    channels, blocks = _size(shapes, f"{UNET}input_blocks.0.0.weight", 0), len(levels[0])
    # A level without attention has no depth; configurations write 1.
    depth = [_same([each for _, each in level]) or 1 for level in levels]
    up = [
        _same([depths[f"output_blocks.{level * (blocks + 1) + at}"] for at in range(blocks + 1)]) or 1
        for level in range(len(levels))
    ]
    linear = any(len(shape) == 2 and name.endswith(".proj_in.weight") for name, shape in shapes.items())
    context = next((name for name in shapes if name.endswith(".attn2.to_k.weight")), f"{UNET}attn2.to_k.weight")
    first = f"{UNET}input_blocks.1.0.emb_layers.1.weight"
    found: dict[str, Any] = {
        "in_channels": _size(shapes, f"{UNET}input_blocks.0.0.weight", 1),
        "out_channels": _size(shapes, f"{UNET}out.2.weight", 0),
        "model_channels": channels,
        "attention_resolutions": [
            2**at for at in reversed(range(len(levels))) if any(attention for _, attention in levels[at])
        ],
        "num_res_blocks": blocks,
        "channel_mult": [level[0][0] // channels for level in levels],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": linear,
        "transformer_depth": 1 if all(each == 1 for each in depth) else depth,
        "context_dim": _size(shapes, context, 1),
        "use_scale_shift_norm": _size(shapes, first, 0) == 2 * levels[0][0][0],
        **({"num_head_channels": HEAD_CHANNELS} if linear else {"num_heads": HEADS}),
    }
    if f"{UNET}label_emb.0.0.weight" in shapes:
        adm = _size(shapes, f"{UNET}label_emb.0.0.weight", 1)
        found |= {"num_classes": "sequential", "adm_in_channels": adm}
    if depths["middle_block"] != depth[-1]:
        found["transformer_depth_middle"] = depths["middle_block"]
    if up != depth[::-1]:
        found["transformer_depth_output"] = up
    return found


_TRANSFORMER = re.compile(r"((?:in|out)put_blocks\.\d+|middle_block)\.1\.transformer_blocks\.\d+\.norm1\.weight")


def _same(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def _vae(shapes: Shapes) -> dict[str, Any]:
    """The fields of `first_stage_config.params`. Raises `LookupError` for a tensor that is missing."""

    def block(level: int, number: int) -> str:
        return f"{VAE}decoder.up.{level}.block.{number}.conv1.weight"

    levels = next(level for level in count() if block(level, 0) not in shapes)
    blocks = next(number for number in count() if block(0, number) not in shapes)
    channels = _size(shapes, f"{VAE}decoder.norm_out.weight", 0)
    return {
        "embed_dim": _size(shapes, f"{VAE}post_quant_conv.weight", 1),
        "ddconfig": {
            "z_channels": _size(shapes, f"{VAE}decoder.conv_in.weight", 1),
            "in_channels": _size(shapes, f"{VAE}encoder.conv_in.weight", 1),
            "out_ch": _size(shapes, f"{VAE}decoder.conv_out.weight", 0),
            "ch": channels,
            "ch_mult": [_size(shapes, block(level, 0), 0) // channels for level in range(levels)],
            "num_res_blocks": blocks - 1,  # the decoder has one more
            "resolution": _RESOLUTION,
            "attn_resolutions": [
                _RESOLUTION >> level for level in range(levels) if f"{VAE}decoder.up.{level}.attn.0.q.weight" in shapes
            ],
        },
    }


_RESOLUTION = 256
"""Of the images that the levels of the VAE are named for, in configurations."""


def clip(shapes: Mapping[str, tuple[int, ...]], activation: str) -> dict[str, Any]:
    """The `config.json` of a CLIP text encoder with these shapes.

    Args:
        shapes: by the names that transformers has, without "text_model.".
        activation: "quick_gelu" for OpenAI's, "gelu" for OpenCLIP's.

    Raises:
        LookupError: a tensor is missing.
    """
    tokens, width = (_size(shapes, "embeddings.token_embedding.weight", axis) for axis in (0, 1))
    layers = [int(found[1]) for name in shapes if (found := re.match(r"encoder\.layers\.(\d+)\.", name))]
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "max_position_embeddings": _size(shapes, "embeddings.position_embedding.weight", 0),
        "intermediate_size": _size(shapes, "encoder.layers.0.mlp.fc1.weight", 0),
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": max(1, width // HEAD_CHANNELS),
        "hidden_act": activation,
        "projection_dim": (shapes.get("text_projection.weight") or (width,))[0],
    }
