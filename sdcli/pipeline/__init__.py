"""How a batch of jobs becomes images.

conditioning   prompts -> Conditioning        (embeddings)
noise          seeds   -> latents             (batch, C, height/f, width/f)
sampler        Step, Step, Step ...           (latents, denoised, sigma)
decode         latents -> images              (batch, 3, height, width)

A model that a pipeline of diffusers generates as a whole goes another way, which is in `of_diffusers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sdcli.registry import SAMPLERS

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.models.model import Model, PipelineModel
    from sdcli.pipeline.samplers import Denoiser, Step


def generate(
    model: Model | PipelineModel, jobs: Sequence[Job], on_step: Callable[[Step], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate a batch of jobs that differ only in prompt, negative prompt, seed and noise.

    Args:
        model: the loaded model.
        jobs: the batch; the settings that it shares are read from its first job.
        on_step: called after each step; not by all pipelines of diffusers.

    Returns:
        The images, (batch, 3, height, width), RGB, about [-1, 1], not clamped; and their latents. Both float32.
    """
    import torch

    from sdcli.models.model import PipelineModel
    from sdcli.pipeline import of_diffusers
    from sdcli.pipeline.conditioning import Conditioning, encode
    from sdcli.pipeline.decode import decode
    from sdcli.pipeline.guidance import ComposedDenoiser, GuidedDenoiser
    from sdcli.pipeline.noise import BatchNoise, latent_shape
    from sdcli.pipeline.samplers import Plan

    first = jobs[0]
    with torch.inference_mode():
        if isinstance(model, PipelineModel):
            return of_diffusers.generate(model, jobs, on_step)
        conditioning = encode(model, jobs)
        noise = BatchNoise(jobs, latent_shape(first, model.spec), model.device)
        guidance = (first.scale, first.guidance_rescale, model.spec.guidance_embedding)
        sampler, plan = SAMPLERS[first.sampler], Plan.of(first, first.steps)
        if isinstance(conditioning, Conditioning):
            denoiser: Denoiser = GuidedDenoiser(model.unet, conditioning, *guidance)
        else:
            evaluations = sampler.evaluations(plan, model.spec.schedule)
            denoiser = ComposedDenoiser(model.unet, conditioning, *guidance, steps=plan.steps, evaluations=evaluations)
        for step in sampler.sample(denoiser, noise, plan, model.spec.schedule):
            on_step(step)
        return decode(model, step.latents), step.latents
