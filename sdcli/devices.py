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
    note: str = ""
    """Why the precision differs from the setting; empty if it does not."""

    @property
    def precision(self) -> str:
        """The name in records: "full", "autocast float16" or "autocast bfloat16"."""
        return "full" if self.autocast_dtype is None else f"autocast {self.autocast_dtype}".replace("torch.", "")

    def __str__(self) -> str:
        return f"{self.device}, precision {self.precision}" + (f" ({self.note})" if self.note else "")

    def context(self) -> AbstractContextManager[object]:
        """Returns the context manager for the text encoder, UNet and VAE. The weights stay in float32."""
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
        precision: "full", or "autocast": float16 on a GPU, as in the original script; bfloat16 on a CPU with
            instructions for it; full precision on other CPUs.

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
    if precision == "full":
        return Compute(device, None)
    if kind != "cpu":
        return Compute(device, torch.float16)
    if _cpu_has_bfloat16():
        return Compute(device, torch.bfloat16)
    return Compute(device, None, "this CPU has no fast bfloat16")


def _cpu_has_bfloat16() -> bool:
    """True if the CPU has instructions for bfloat16; without them, autocast is slower than full precision."""
    return any(
        bool(getattr(torch.cpu, probe, lambda: False)())
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def empty_cache(device: torch.device) -> None:
    """Releases the device memory that PyTorch keeps for reuse."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
