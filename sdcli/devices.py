"""Device and precision of the computation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from sdcli.errors import DeviceError
from sdcli.settings import DeviceName, Precision


@dataclass(frozen=True)
class Compute:
    """A device and the data type of autocast; None for full precision."""

    device: torch.device
    autocast_dtype: torch.dtype | None

    @property
    def precision(self) -> str:
        """The name in records: "full", "autocast float16" or "autocast bfloat16"."""
        return "full" if self.autocast_dtype is None else f"autocast {self.autocast_dtype}".replace("torch.", "")

    def __str__(self) -> str:
        return f"{self.device}, precision {self.precision}"

    def context(self) -> AbstractContextManager[object]:
        """Returns the context manager for the text encoder, UNet and VAE. Weights are in float32, or in float16
        where that is exact, see `sdcli.models.weights.placed`.
        """
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def full(self) -> Compute:
        """Returns the same device with full precision."""
        return Compute(self.device, None)


def choose(name: DeviceName, precision: Precision) -> Compute:
    """Chooses the device and the data type of autocast.

    Args:
        name: a device, or "auto" for the first available one of cuda, mps and cpu.
        precision: "full", or "autocast": float16 on a GPU, as in the original script; full precision on a CPU. There
            autocast to bfloat16 is slower than full precision, and its images differ from one CPU to another.

    Raises:
        DeviceError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, is_available in available.items() if is_available]
    kind = usable[0] if name == "auto" else name
    if kind not in usable:
        raise DeviceError(
            f"--device {kind} is not available",
            why="PyTorch finds no such device, or was installed without support for it.",
            fix=f"Omit --device, or choose one of: {', '.join(usable)}.",
        )
    device = torch.device(kind)
    return Compute(device, None if precision == "full" or kind == "cpu" else torch.float16)


def empty_cache(device: torch.device) -> None:
    """Releases the device memory that PyTorch keeps for reuse."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
