"""What an adapter adds to the weight of one layer, from the tensors that a file has for it.

LoRA is by Hu et al. (2021), DoRA by Liu et al. (2024), LoHa and LoKr by Yeh et al. ("Navigating Text-To-Image
Customization", 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

Tensors = Mapping[str, torch.Tensor]
"""The tensors of a layer by their roles, see `sdcli.models.adapters.layouts`, in float32."""


def delta(weight: torch.Tensor, tensors: Tensors, alpha: float | None = None) -> torch.Tensor:
    """What is added to a weight at the strength 1.

    Args:
        weight: the weight of the model, of any floating type.
        tensors: on the weight's device.
        alpha: the scale of the change is alpha / rank; used if the layer has no tensor `alpha`. None is the rank.

    Returns:
        A tensor of the weight's shape, float32.

    Raises:
        ValueError, RuntimeError: the tensors do not fit each other, or not the weight.
    """
    if "diff" in tensors:
        return _shaped(tensors["diff"], weight)
    change, rank = _product(tensors)
    own = tensors["alpha"].item() if "alpha" in tensors else alpha
    scale = 1.0 if own is None or not rank else own / rank
    if not math.isfinite(scale):
        raise ValueError(f"alpha is {own}")
    change = _shaped(change, weight) * scale
    if "magnitude" in tensors:
        return _decomposed(weight, change, tensors["magnitude"], by_output=True)
    if "dora_scale" in tensors:
        magnitude = tensors["dora_scale"]
        return _decomposed(weight, change, magnitude, by_output=magnitude.shape[0] == weight.shape[0])
    return change


def _product(tensors: Tensors) -> tuple[torch.Tensor, int]:
    """The change of a layer without its scale, and its rank; 0 for a change that has none."""
    if "up" in tensors:
        up, down = tensors["up"], tensors["down"]
        if "mid" in tensors:
            return torch.einsum("mnkl,im,nj->ijkl", tensors["mid"], up.flatten(1), down.flatten(1)), down.shape[0]
        return up.flatten(1) @ down.flatten(1), down.shape[0]
    if "hada_w1_a" in tensors:
        return _hada(tensors, 1) * _hada(tensors, 2), tensors["hada_w1_b"].shape[0]
    ranks = [tensors[f"lokr_w{number}_b"].shape[0] for number in (1, 2) if f"lokr_w{number}_b" in tensors]
    one, two = tensors.get("lokr_w1"), tensors.get("lokr_w2")
    if one is None:
        one = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if two is None:
        a, b = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
        two = _core(tensors["lokr_t2"], a, b) if "lokr_t2" in tensors else a @ b
    return torch.kron(one.reshape(*one.shape, *[1] * (two.ndim - one.ndim)), two), ranks[-1] if ranks else 0


def _hada(tensors: Tensors, number: int) -> torch.Tensor:
    a, b = (tensors[f"hada_w{number}_{side}"] for side in "ab")
    return _core(tensors[f"hada_t{number}"], a, b) if f"hada_t{number}" in tensors else a @ b


def _core(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The weight of a convolution from its Tucker decomposition: (outputs, inputs, height, width)."""
    return torch.einsum("ijkl,jr,ip->prkl", core, b, a)


def _shaped(change: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The change in the shape of the weight: linear layers and convolutions of 1 x 1 are the same."""
    if change.numel() != weight.numel() or change.shape[0] != weight.shape[0]:
        raise ValueError(f"it has the shape {tuple(change.shape)}, the model's weight {tuple(weight.shape)}")
    return change.reshape(weight.shape)


def _decomposed(
    weight: torch.Tensor, change: torch.Tensor, magnitude: torch.Tensor, *, by_output: bool
) -> torch.Tensor:
    """The change of DoRA: the changed weight gets the length of `magnitude` in each output, or in each input."""
    merged = weight.float() + change
    kept = 0 if by_output else 1
    length = torch.linalg.vector_norm(merged, dim=[axis for axis in range(merged.ndim) if axis != kept], keepdim=True)
    if magnitude.numel() != length.numel():
        raise ValueError(f"its magnitude has {magnitude.numel()} numbers, and not {length.numel()}")
    changed: torch.Tensor = merged * (magnitude.reshape(length.shape) / length) - weight.float()
    return changed
