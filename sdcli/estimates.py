"""Time and memory of a run, estimated from earlier runs on this machine if there were any."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sdcli.cache import Cache
from sdcli.jobs import Job

BYTES_PER_PIXEL = 2048
"""Memory for each pixel of an image while the VAE decodes it: two layers of 256 channels in float32."""
BASE = 600_000_000
"""Memory of Python, PyTorch and the libraries without weights."""
_known = Cache(
    "speeds",
    r"\S+ \S+ \S+ [1-9]\d{0,6}x[1-9]\d{0,6}x[1-9]\d{0,6}",
    tuple[Annotated[float, Field(gt=0)], Annotated[int, Field(ge=0)]],
)
"""Seconds for each image and step, and bytes of memory, by model, precision, device and size."""
_known_loading = Cache("loading", r"\S+ \S+", Annotated[float, Field(ge=0)])
"""Seconds from the start of a run to its first batch, by model and device."""


@dataclass(frozen=True)
class Estimate:
    """The estimate for a batch.

    Attributes:
        seconds: for one image; None if this model has never run on this machine.
        memory: bytes of the process, or of the device.
        measured: whether the memory was measured in an earlier run; otherwise it is computed from the weights.
    """

    seconds: float | None
    memory: int | None
    measured: bool


def remember(job: Job, device: str, rows: int, seconds: float) -> None:
    """Remember the time and memory of a batch.

    Args:
        job: a job of the batch.
        device: the device that generated it.
        rows: images in the batch.
        seconds: for the whole batch.
    """
    place = f"{job.model_hash[:16]} {job.precision} {device}"
    _known[f"{place} {job.height}x{job.width}x{rows}"] = [seconds / rows / job.steps, _peak(device)]


def remember_loading(job: Job, device: str, seconds: float) -> None:
    """Remember how long it takes to import the libraries and to load the model of a job."""
    _known_loading[f"{job.model_hash[:16]} {device}"] = round(seconds, 3)


def loading(job: Job, device: str) -> float:
    """Seconds until the first batch; 0 if this model has never run on this machine.

    Args:
        job: a job of the run.
        device: the device's name; "auto" for any on which the model has run.
    """
    places = (key.split(" ") for key in _known_loading.all())
    found = [its for model, its in places if model == job.model_hash[:16] and device in ("auto", its)]
    return float(_known_loading[f"{job.model_hash[:16]} {found[-1]}"]) if found else 0.0


def estimate(job: Job, device: str, rows: int, weights: int | None) -> Estimate:
    """The estimate for a batch of such jobs.

    Args:
        job: a job of the batch.
        device: the device's name; "auto" for any on which the model has run.
        rows: images in the batch.
        weights: bytes of the model's weights in float32; None if they are unknown.
    """
    pixels = job.height * job.width
    computed = None if weights is None else BASE + weights + rows * pixels * BYTES_PER_PIXEL
    nearest: tuple[float, float, int] | None = None
    for key, value in _known.all().items():
        model, precision, its_device, size = key.split(" ")
        if (model, precision) == (job.model_hash[:16], job.precision) and device in ("auto", its_device):
            height, width, its_rows = map(int, size.split("x"))
            # Small images in small batches are slow for their size, so the nearest size gives the best estimate.
            apart = abs(height * width * its_rows - pixels * rows)
            if nearest is None or apart < nearest[0]:
                memory = value[1] if (height, width, its_rows) == (job.height, job.width, rows) else 0
                nearest = (apart, value[0] * pixels / (height * width), memory)
    if nearest is None:
        return Estimate(None, computed, measured=False)
    return Estimate(nearest[1] * job.steps, nearest[2] or computed, measured=bool(nearest[2]))


def _peak(device: str) -> int:
    """The peak memory so far, in bytes."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    # In kilobytes on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
