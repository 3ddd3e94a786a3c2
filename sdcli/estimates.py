"""How long a run takes and how much memory: from what earlier runs of this machine took, where there were any."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sdcli.cache import Remembered
from sdcli.jobs import Job

BYTES_PER_PIXEL = 2048
"""What an image takes while it is decoded, for each of its pixels: two layers of 256 channels in float32."""
BASE = 600_000_000
"""What Python, PyTorch and the libraries take before any weights."""
_known = Remembered("speeds")


@dataclass(frozen=True)
class Estimate:
    """What a batch is expected to take.

    seconds: for one image; None if this model never drew here.
    memory: bytes of the process, or of the card.
    measured: whether an earlier run took that much memory; else it is reckoned from the size of the weights.
    """

    seconds: float | None
    memory: int | None
    measured: bool


def note(job: Job, device: str, rows: int, seconds: float) -> None:
    """Remember what a batch took.

    Args:
        job: one of the batch.
        device: where.
        rows: images in it.
        seconds: for all of it.
    """
    place = f"{job.model_hash[:16]} {job.precision} {device}"
    _known[f"{place} {job.height}x{job.width}x{rows}"] = [seconds / rows / job.steps, _peak(device)]


def estimate(job: Job, device: str, rows: int, weights: int | None) -> Estimate:
    """What a batch of so many such jobs will take.

    Args:
        device: its name; "auto": any that the model drew on.
        weights: bytes of the model's weights in float32, if they are known.
    """
    pixels = job.height * job.width
    reckoned = None if weights is None else BASE + weights + rows * pixels * BYTES_PER_PIXEL
    nearest: tuple[float, float, int] | None = None
    for key, value in _known.all().items():
        model, precision, its_device, size = key.split(" ")
        if (model, precision) == (job.model_hash[:16], job.precision) and device in ("auto", its_device):
            height, width, its_rows = map(int, size.split("x"))
            # Small images in small batches are slow for their size: the nearest to what is asked tells most.
            apart = abs(height * width * its_rows - pixels * rows)
            if nearest is None or apart < nearest[0]:
                memory = value[1] if (height, width, its_rows) == (job.height, job.width, rows) else 0
                nearest = (apart, value[0] * pixels / (height * width), memory)
    if nearest is None:
        return Estimate(None, reckoned, measured=False)
    return Estimate(nearest[1] * job.steps, nearest[2] or reckoned, measured=bool(nearest[2]))


def _peak(device: str) -> int:
    """The most memory taken so far, in bytes."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
