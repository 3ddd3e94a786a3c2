"""Checkpoints of the original layout, converted to the models of diffusers.

UNet and VAE use diffusers' own converters. Each family converts its text encoder (`sdcli.models.families`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from sdcli.errors import ModelError
from sdcli.models import weights
from sdcli.models.original_yaml import OriginalConfig
from sdcli.models.renaming import EMA, UNET, VAE

Tensors = Mapping[str, torch.Tensor]

# diffusers' functions have no types.
unet_config: Any = single_file_utils.create_unet_diffusers_config_from_ldm
vae_config: Any = single_file_utils.create_vae_diffusers_config_from_ldm
convert_unet: Any = single_file_utils.convert_ldm_unet_checkpoint
convert_vae: Any = single_file_utils.convert_ldm_vae_checkpoint

# Tensors among those of the parts that are not their weights: position numbers, what only training uses, and the rest
# of a whole CLIP.
NOT_WEIGHTS = re.compile(
    r"\.position_ids$|^first_stage_model\.(loss|model_ema)\.|^cond_stage_model\.(transformer\.)?"
    r"(text_model\.)?(logit_scale|text_projection|vision_model|visual_projection)"
)


def part(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    """The weights of one part, by their full names.

    Args:
        tensors: all tensors of the checkpoint.
        prefix: of the part's names; a constant in `sdcli.models.renaming`.
    """
    return {
        name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and not NOT_WEIGHTS.search(name)
    }


def unet(tensors: Tensors, config: OriginalConfig, *, source: str, config_name: str) -> Any:
    """The UNet, as `Model.unet`; with averaged (EMA) weights if the configuration enables them and the file has them.

    Args:
        tensors: all tensors of the checkpoint.
        config: the checkpoint's YAML configuration.
        source: the checkpoint's name, for errors.
        config_name: the configuration's name, for errors.

    Raises:
        ModelError: tensors are missing, left over or of another shape.
    """
    original = part(tensors, UNET)
    if config.model.params.use_ema:
        original = {name: tensors.get(_ema_name(name), tensor) for name, tensor in original.items()}
    described = described_unet(config)
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(described)
    return assign(model, original, convert_unet, described, "UNet", source, config_name)


def described_unet(config: OriginalConfig) -> dict[str, Any]:
    """The `config.json` of the UNet in diffusers."""
    params = config.model.params.unet_config.params
    described: dict[str, Any] = unet_config(config.model_dump(), {})
    described["sample_size"] = config.model.params.image_size
    if params.num_head_channels > 0:
        described["attention_head_dim"] = [
            params.model_channels * mult // params.num_head_channels for mult in params.channel_mult
        ]
    if params.use_scale_shift_norm:
        described["resnet_time_scale_shift"] = "scale_shift"
    if params.adm_in_channels:
        described |= {
            "class_embed_type": None,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.model.params.cond_stage_config.params.size_width,
            "projection_class_embeddings_input_dim": params.adm_in_channels,
        }
    if params.transformer_depth_middle == 0:
        described["mid_block_type"] = "UNetMidBlock2D"
    if params.transformer_depth_output is not None:
        described["reverse_transformer_layers_per_block"] = params.transformer_depth_output
    return described


def _ema_name(name: str) -> str:
    return EMA + name.removeprefix("model.").replace(".", "")


def vae(tensors: Tensors, config: OriginalConfig, *, source: str, config_name: str) -> Any:
    """The VAE, as `Model.vae`; `vae.config.scaling_factor` is the configuration's `scale_factor`.

    Args and errors are those of `unet`.
    """
    described: dict[str, Any] = vae_config(config.model_dump(), {})
    with torch.device("meta"):
        model = AutoencoderKL.from_config(described)
    return assign(model, part(tensors, VAE), convert_vae, described, "VAE", source, config_name)


def assign(
    model: Any, original: Tensors, convert: Any, described: dict[str, Any], what: str, source: str, config_name: str
) -> Any:
    """Convert tensors and make them the model's weights; tensors that the converter ignores count as left over."""
    expected = len(model.state_dict())
    if len(original) > 2 * expected:  # the converter's time grows with the square
        raise ModelError(
            f"the {what} in {source} does not fit {config_name}",
            why=f"It has {len(original):,} tensors, by the configuration {expected:,}.",
        )
    try:
        found: dict[str, torch.Tensor | None] = convert(dict(original), described)
        converted = {name: tensor for name, tensor in found.items() if tensor is not None}
    except (KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise ModelError(f"the {what} in {source} does not fit {config_name}", why=f"{error!r}.") from error
    used = {tensor.data_ptr() for tensor in converted.values()}
    left = {name: tensor for name, tensor in original.items() if tensor.data_ptr() not in used}
    return weights.assign(model, converted | left, what=what, source=source, config=config_name)
