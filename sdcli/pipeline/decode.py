"""Latents become images."""

from __future__ import annotations

import torch

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
    return model.vae.decode(scaled, return_dict=False)[0].float()  # type: ignore[no-any-return]
