"""Noise becomes latents: guidance, and the scheduler's steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sdcli.models.model import Model
from sdcli.pipeline.noise import BatchNoise
from sdcli.pipeline.samplers import Plan


def guided(
    model: Model, latents: torch.Tensor, time: float, prompt: torch.Tensor, negative: torch.Tensor, scale: float
) -> torch.Tensor:
    """The model's prediction under classifier-free guidance (Ho and Salimans, 2022), of the latents' shape.

    As in the original the negative half comes first in the batch, and a scale of exactly 1 is without guidance.
    """
    times = torch.full((len(latents),), time, device=latents.device)
    # The original hands whole times over as integers; DPM-Solver's lie between.
    times = times.long() if float(time).is_integer() else times
    if scale == 1.0:
        alone: torch.Tensor = model.unet(latents, times, prompt, return_dict=False)[0]
        return alone.float()
    both: torch.Tensor = model.unet(
        torch.cat([latents] * 2), torch.cat([times] * 2), torch.cat([negative, prompt]), return_dict=False
    )[0]
    without, with_prompt = both.float().chunk(2)
    return without + scale * (with_prompt - without)


def denoise(
    model: Model,
    noise: BatchNoise,
    prompt: torch.Tensor,
    negative: torch.Tensor,
    plan: Plan,
    *,
    scale: float,
    eta: float,
) -> Iterator[torch.Tensor]:
    """The latents after each evaluation of the model, (batch, C, height/f, width/f), float32; the last are the result.

    Args:
        noise: the batch's starting noise, and the noise of each step.
        prompt: embeddings of the prompts, (batch, tokens, width).
        negative: embeddings of the negative prompts, of the same shape.
        scale: guidance scale; 1 is without.
        eta: share of new noise at each DDIM step, 0 to 1.
    """
    latents = noise.start().to(model.device) * plan.scheduler.init_noise_sigma
    for number, evaluation in enumerate(plan.evaluations):
        output = guided(model, latents, evaluation.model_time, prompt, negative, scale)
        fresh = noise.step(number).to(model.device) if plan.takes_noise and eta else None
        latents = plan.step(output, evaluation, latents, eta, fresh)
        yield latents


def decode(model: Model, latents: torch.Tensor) -> torch.Tensor:
    """The VAE's images, (batch, 3, height, width), RGB about [-1, 1], not yet clamped."""
    scaled = latents / model.vae.config.scaling_factor
    return model.vae.decode(scaled, return_dict=False)[0].float()  # type: ignore[no-any-return]
