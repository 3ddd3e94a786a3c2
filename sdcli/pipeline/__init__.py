"""How a batch of jobs becomes images.

conditioning   prompts -> Conditioning        (embeddings)
noise          seeds   -> latents             (batch, C, height/f, width/f)
sampler        Step, Step, Step ...           (latents, denoised, sigma)
decode         latents -> images              (batch, 3, height, width)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sdcli.registry import SAMPLERS

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.models.model import Model
    from sdcli.pipeline.samplers import Step


def generate(model: Model, jobs: Sequence[Job], on_step: Callable[[Step], None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate a batch of jobs that differ only in prompt, negative prompt, seed and noise.

    Args:
        model: the loaded model.
        jobs: the batch; the settings that it shares are read from its first job.
        on_step: called after each step.

    Returns:
        The images, (batch, 3, height, width), RGB, about [-1, 1], not clamped; and their latents. Both float32.
    """
    import torch

    from sdcli.pipeline.conditioning import encode
    from sdcli.pipeline.decode import decode
    from sdcli.pipeline.guidance import GuidedDenoiser
    from sdcli.pipeline.noise import BatchNoise, latent_shape
    from sdcli.pipeline.samplers import Plan

    first = jobs[0]
    with torch.inference_mode():
        conditioning = encode(model, jobs)
        noise = BatchNoise(jobs, latent_shape(first, model.spec), model.device)
        embedding = model.spec.guidance_embedding
        denoiser = GuidedDenoiser(model.unet, conditioning, first.scale, first.guidance_rescale, embedding)
        plan = Plan.of(first, first.steps)
        for step in SAMPLERS[first.sampler].sample(denoiser, noise, plan, model.spec.schedule):
            on_step(step)
        return decode(model, step.latents), step.latents
