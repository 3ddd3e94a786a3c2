"""One batch of jobs on its way: noise and words -> latents -> images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdcli.devices import Compute, empty_cache, is_out_of_memory
from sdcli.errors import ModelError
from sdcli.events import Watch
from sdcli.jobs import Job
from sdcli.models.model import Model
from sdcli.pipeline.conditioning import encode
from sdcli.pipeline.denoise import decode, denoise
from sdcli.pipeline.noise import BatchNoise
from sdcli.pipeline.samplers import SAMPLERS


@dataclass
class Limits:
    """What memory was found to hold, kept for the rest of the run."""

    rows: int | None = None
    """The most images drawn together; None: no limit is known."""
    tiled: bool = False
    """Whether the VAE decodes an image in parts."""

    def narrow(self, rows: int, job: Job, model: Model, watch: Watch) -> bool:
        """Ask for less memory than `rows` images such as the job's took; False where there is no less."""
        side = min(job.height, job.width) // model.spec.downscale
        if rows > 1:
            self.rows = rows // 2
            watch.note(f"out of memory with {rows} images at a time: going on with {self.rows}, from the same noise")
        elif not self.tiled and _tile(model.vae, side, model.spec.downscale):
            self.tiled = True
            watch.note("out of memory with one image at a time: going on with the VAE in tiles, from the same noise")
        else:
            return False
        return True


@dataclass(frozen=True)
class Drawn:
    """Images, and how they came to be.

    images: each (height, width, 3), RGB in [0, 1].
    precision: that they took, as records name it.
    rows: the most that were drawn together.
    tiled: whether the VAE decoded them in parts.
    """

    images: list[NDArray[np.float32]]
    precision: str
    rows: int
    tiled: bool


def generate(model: Model, jobs: Sequence[Job], compute: Compute, watch: Watch, limits: Limits) -> Drawn:
    """Draw jobs that differ in prompt, seed and noise alone.

    Where memory does not hold them all, half as many at a time, down to one; then with the VAE in tiles.

    Raises:
        ModelError: the images are not numbers, even in full precision.
        RuntimeError, MemoryError: not enough memory for one image.
    """
    images: list[NDArray[np.float32]] = []
    precision = compute.precision
    most = 0
    while todo := list(jobs[len(images) :]):
        rows = min(len(todo), limits.rows or len(todo))
        finished = None
        try:
            finished, precision = _numbers(model, todo[:rows], compute, watch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not limits.narrow(rows, jobs[0], model, watch):
                raise
        if finished is None:
            # Only out here, where nothing of the failed batch is held any more.
            empty_cache(compute.device)
            continue
        images += finished
        most = max(most, rows)
        watch.drawn(rows)
    return Drawn(images, precision, most, limits.tiled)


def _tile(vae: Any, side: int, downscale: int) -> bool:
    """Let the VAE decode latents in overlapping tiles of half their shorter side; False if it cannot."""
    if not hasattr(vae, "use_tiling"):
        return False
    vae.enable_tiling()
    vae.tile_latent_min_size = max(8, side // 2)
    vae.tile_sample_min_size = vae.tile_latent_min_size * downscale
    return True


def _numbers(
    model: Model, jobs: Sequence[Job], compute: Compute, watch: Watch
) -> tuple[list[NDArray[np.float32]], str]:
    """The batch as numbers in [0, 1], drawn again in full precision where they are none, and the precision it took."""
    precision = compute.precision
    images = _decoded(model, jobs, compute, watch)
    if images is None and compute.autocast_dtype is not None:
        watch.note(f"not a number in {precision}: drawing the batch again in full precision, from the same noise")
        precision = f"full, after not a number in {precision}"
        images = _decoded(model, jobs, compute.full(), watch)
    if images is None:
        raise ModelError(
            f"the model {model.spec.name} draws images that are not numbers",
            why="Its weights may be damaged, or the guidance scale is far too high.",
            fix="Check the checkpoint, or give a smaller --scale.",
        )
    finished = ((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
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
        images = decode(model, latents)
    # The latents too: a VAE may squash an infinity into a number.
    return images if torch.isfinite(latents).all() and torch.isfinite(images).all() else None
