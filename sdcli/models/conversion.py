"""The original layout of Stable Diffusion v1 and of LAION-400M into the models of diffusers and transformers.

UNet and VAE go through diffusers' own converters. CLIP's names have lost a prefix in transformers 5; LAION-400M's BERT
is renamed in `bert`, as diffusers' converter for it does not work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from sdcli.errors import ModelError
from sdcli.models import bert as bert_text
from sdcli.models import weights
from sdcli.models.checkpoint_config import OriginalConfig
from sdcli.models.recognition import TEXT, UNET, VAE

Tensors = Mapping[str, torch.Tensor]

# diffusers' functions bear no types.
unet_config: Any = single_file_utils.create_unet_diffusers_config_from_ldm
vae_config: Any = single_file_utils.create_vae_diffusers_config_from_ldm
convert_unet: Any = single_file_utils.convert_ldm_unet_checkpoint
convert_vae: Any = single_file_utils.convert_ldm_vae_checkpoint

EMA = "model_ema."
TEXT_MODEL = "cond_stage_model.transformer."
# What original checkpoints carry beside the weights of their parts: counts, and what training needs.
NOT_WEIGHTS = re.compile(
    r"\.position_ids$|^first_stage_model\.(loss|model_ema)\.|^cond_stage_model\.(logit_scale|text_projection)"
)


def part(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    """The weights under a prefix, by their whole names."""
    return {
        name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and not NOT_WEIGHTS.search(name)
    }


def unet(tensors: Tensors, config: OriginalConfig, *, source: str, config_name: str) -> Any:
    """The denoising UNet, with its averaged (EMA) weights if the configuration says so and the file has them."""
    params = config.model.params.unet_config.params
    ours = part(tensors, UNET)
    if config.model.params.use_ema:
        ours = {name: tensors.get(_ema_name(name), tensor) for name, tensor in ours.items()}
    described: dict[str, Any] = unet_config(config.model_dump(), {})
    described["sample_size"] = config.model.params.image_size
    if params.num_head_channels > 0:
        described["attention_head_dim"] = [
            params.model_channels * mult // params.num_head_channels for mult in params.channel_mult
        ]
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(described)
    return _give(model, ours, convert_unet, described, "UNet", source, config_name)


def _ema_name(name: str) -> str:
    return EMA + name.removeprefix("model.").replace(".", "")


def vae(tensors: Tensors, config: OriginalConfig, *, source: str, config_name: str) -> Any:
    """The autoencoder; `vae.config.scaling_factor` is the configuration's `scale_factor`."""
    described: dict[str, Any] = vae_config(config.model_dump(), {})
    with torch.device("meta"):
        model = AutoencoderKL.from_config(described)
    return _give(model, part(tensors, VAE), convert_vae, described, "VAE", source, config_name)


def _give(
    model: Any, ours: Tensors, convert: Any, described: dict[str, Any], what: str, source: str, config_name: str
) -> Any:
    """Convert and assign; a tensor that the converter left out is an error as much as one that is missing."""
    try:
        converted: dict[str, torch.Tensor] = convert(dict(ours), described)
    except (KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise ModelError(f"the {what} in {source} does not fit {config_name}", why=f"{error!r}.") from error
    taken = {tensor.data_ptr() for tensor in converted.values()}
    left = {name: tensor for name, tensor in ours.items() if tensor.data_ptr() not in taken}
    return weights.give(model, converted | left, what=what, source=source, config=config_name)


def clip(tensors: Tensors, folder: Path, *, source: str, config_name: str) -> Any:
    """The CLIP text model described by `folder/config.json`."""
    try:
        config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises what it pleases for a broken file
        raise ModelError(f"the text encoder's configuration in {folder} cannot be read", why=f"{error!r}.") from error
    ours = {
        name.removeprefix(TEXT_MODEL).removeprefix("text_model."): tensor
        for name, tensor in part(tensors, TEXT).items()
    }
    with torch.device("meta"):
        model = CLIPTextModel(config)
    return weights.give(model, ours, what="text encoder", source=source, config=config_name)


def bert(tensors: Tensors, config: OriginalConfig, *, source: str, config_name: str) -> Any:
    """The text encoder of LAION-400M in the sizes of the configuration."""
    with torch.device("meta"):
        model = bert_text.build(config.model.params.cond_stage_config.params)
    ours = {bert_text.name(name.removeprefix(TEXT_MODEL)): tensor for name, tensor in part(tensors, TEXT).items()}
    return weights.give(model, ours, what="text encoder", source=source, config=config_name)
