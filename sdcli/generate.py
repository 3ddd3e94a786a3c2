"""One batch of jobs on its way: noise and words -> latents -> pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sdcli.denoise import decode, denoise
from sdcli.devices import Compute
from sdcli.errors import ModelError
from sdcli.jobs import Job
from sdcli.models.model import Model
from sdcli.noise import BatchNoise
from sdcli.samplers import SAMPLERS
from sdcli.text import encode
from sdcli.watch import Watch


def generate(
    model: Model, jobs: Sequence[Job], compute: Compute, watch: Watch
) -> tuple[list[NDArray[np.float32]], str]:
    """Draw jobs that differ in prompt and noise alone.

    Returns:
        Pictures, each (height, width, 3), RGB in [0, 1], and the precision they took, as records name it.

    Raises:
        ModelError: the pictures are not numbers, even in full precision.
    """
    precision = compute.precision
    pictures = _decoded(model, jobs, compute, watch)
    if pictures is None and compute.autocast_dtype is not None:
        watch.note(f"not a number in {precision}: drawing the batch again in full precision, from the same noise")
        precision = f"full, after not a number in {precision}"
        pictures = _decoded(model, jobs, compute.full(), watch)
    if pictures is None:
        raise ModelError(
            f"the model {model.spec.name} draws pictures that are not numbers",
            why="Its weights may be damaged, or the guidance scale is far too high.",
            fix="Check the checkpoint, or give a smaller --scale.",
        )
    finished = ((pictures + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    return list(finished.cpu().numpy()), precision


def _decoded(model: Model, jobs: Sequence[Job], compute: Compute, watch: Watch) -> torch.Tensor | None:
    """The batch as the VAE gives it, (batch, 3, height, width), about [-1, 1]; None where anything is no number."""
    first = jobs[0]
    plan = SAMPLERS[first.sampler].plan(first.steps, model.spec.schedule)
    shape = (model.spec.latent_channels, first.height // model.spec.downscale, first.width // model.spec.downscale)
    noise = BatchNoise(jobs, shape)
    watch.drawing(len(jobs), len(plan.evaluations))
    with torch.inference_mode(), compute.context():
        prompt = encode(model, [job.prompt for job in jobs])
        negative = encode(model, [job.negative_prompt for job in jobs])
        for stepped in denoise(model, noise, prompt, negative, plan, scale=first.scale, eta=first.eta):
            latents = stepped
            watch.step()
        pictures = decode(model, latents)
    # The latents too: a VAE may squash an infinity into a number.
    return pictures if torch.isfinite(latents).all() and torch.isfinite(pictures).all() else None
