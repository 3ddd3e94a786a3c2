"""OpenCLIP's text encoder, by the names of CLIP's in transformers.

A file may have transformers' names already (ComfyUI writes them).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Tensor = TypeVar("Tensor")

_NAMES = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYERS = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_IN_PROJECTION = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_NOT_WEIGHTS = ("logit_scale", "attn_mask", "embeddings.position_ids")


def tensors(found: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors by the names that `CLIPTextModel` has, and `text_projection.weight`. Parts of a tensor are views.

    Args:
        found: all tensors of a checkpoint.
        prefix: that of the text encoder's names.
    """
    return dict(_renamed(found, prefix, lambda tensor: tensor.chunk(3), lambda tensor: tensor.T))


def shapes(found: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    """The same for shapes."""
    return dict(
        _renamed(
            found, prefix, lambda shape: ((shape[0] // 3, *shape[1:]),) * 3 if shape else (), lambda shape: shape[::-1]
        )
    )


def _renamed(
    found: Mapping[str, Tensor],
    prefix: str,
    divided: Callable[[Tensor], tuple[Tensor, ...]],
    turned: Callable[[Tensor], Tensor],
) -> Iterator[tuple[str, Tensor]]:
    for full, tensor in found.items():
        if not full.startswith(prefix):
            continue
        name = full.removeprefix(prefix).removeprefix("text_model.")
        if name in _NOT_WEIGHTS:
            continue
        if name == "text_projection":
            yield "text_projection.weight", turned(tensor)
        elif match := _IN_PROJECTION.fullmatch(name):
            for which, part in zip("qkv", divided(tensor), strict=False):
                yield f"encoder.layers.{match[1]}.self_attn.{which}_proj.{match[2]}", part
        elif (match := _LAYER.fullmatch(name)) and match[2] in _LAYERS:
            yield f"encoder.layers.{match[1]}.{_LAYERS[match[2]]}.{match[3]}", tensor
        else:
            yield _NAMES.get(name, name), tensor


def originals(found: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors by OpenCLIP's names: `tensors` the other way round.

    Args:
        found: by the names that `CLIPTextModel` has, with or without `text_model.`, and `text_projection.weight`.
        prefix: that of the text encoder's names.
    """
    import torch

    names = {new: old for old, new in _NAMES.items()}
    inner = {new: old for old, new in _LAYERS.items()}
    tensors = {name.removeprefix("text_model."): each for name, each in found.items()}
    renamed: dict[str, torch.Tensor] = {}
    for name, each in tensors.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name == "text_projection.weight":
            renamed["text_projection"] = each.T
        elif layer and layer[2] == "self_attn.q_proj":
            three = (tensors[f"encoder.layers.{layer[1]}.self_attn.{which}_proj.{layer[3]}"] for which in "qkv")
            renamed[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(list(three))
        elif layer and layer[2] in inner:
            renamed[f"transformer.resblocks.{layer[1]}.{inner[layer[2]]}.{layer[3]}"] = each
        elif name in names:
            renamed[names[name]] = each
    return {prefix + name: each for name, each in renamed.items()}
