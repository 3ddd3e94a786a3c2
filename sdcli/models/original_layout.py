"""The names and shapes of the original layout, from those of diffusers: `conversion` the other way round."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from sdcli.errors import ModelError
from sdcli.models.adapters import layouts
from sdcli.models.adapters.vae import newer_name

Tensors = Mapping[str, torch.Tensor]

_RESNETS = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.resnets\.(\d+)\.(.+)")
_SAMPLERS = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(down|up)samplers\.0\.(.+)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet(tensors: Tensors, blocks: int, *, source: str) -> dict[str, torch.Tensor]:
    """The weights of a UNet by their original names, without the prefix of the part.

    Args:
        tensors: by their names in diffusers.
        blocks: `layers_per_block` of its configuration.
        source: the model's name, for errors.

    Raises:
        ModelError: the original layout has no name for a layer.
    """
    attention = {int(block[1]) for name in tensors if (block := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    found = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        original = layouts.original(layer, blocks, attention)
        if not original:
            raise ModelError(f"the UNet of {source} has the layer {layer}, which the original layout does not have")
        found[f"{original}.{leaf}"] = tensor
    return found


def vae(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The weights of an AutoencoderKL by their original names, without the prefix of the part."""
    renamed = {newer_name(name): tensor for name, tensor in tensors.items()}
    last = max((int(block[2]) for name in renamed if (block := _RESNETS.fullmatch(name))), default=0)
    found = {}
    for name, tensor in renamed.items():
        original = _vae_name(name, last)
        is_attention = ".mid.attn_1." in original and tensor.ndim == 2
        found[original] = tensor[:, :, None, None] if is_attention else tensor  # a convolution of one pixel
    return found


def _vae_name(name: str, last: int) -> str:
    """The original name of a tensor; `last` is the number of the last block, from which the original counts upward."""
    if found := _RESNETS.fullmatch(name):
        side, number, inner, rest = found.groups()
        place = int(number) if side.startswith("encoder") else last - int(number)
        return f"{side}.{place}.block.{inner}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    if found := _SAMPLERS.fullmatch(name):
        side, number, way, rest = found.groups()
        place = int(number) if side.startswith("encoder") else last - int(number)
        return f"{side}.{place}.{way}sample.{rest}"
    if found := _MIDDLE.fullmatch(name):
        side, kind, number, rest = found.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{rest}"
        layer, _, leaf = rest.rpartition(".")
        return f"{side}.mid.attn_1.{_ATTENTION.get(layer, layer)}.{leaf}"
    return name.replace("conv_norm_out", "norm_out")
