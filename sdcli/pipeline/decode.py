"""Latents become images."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from sdcli.models.families import get
from sdcli.models.model import Model


def decode(model: Model, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents with the VAE.

    Args:
        model: the loaded model.
        latents: (batch, C, height/f, width/f), float32.

    Returns:
        (batch, 3, height, width), RGB, about [-1, 1], not clamped, float32.
    """
    scaled = latents / model.vae.config.scaling_factor
    # The VAE of Stable Diffusion XL returns NaN in float16; one that does not says so.
    full = get(model.spec.family).full_precision_vae and getattr(model.vae.config, "force_upcast", True)
    with torch.autocast(latents.device.type, enabled=False) if full else nullcontext():
        return model.vae.decode(scaled, return_dict=False)[0].float()  # type: ignore[no-any-return]
