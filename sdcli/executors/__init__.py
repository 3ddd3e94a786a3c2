"""Executors: what generates batches of jobs. An executor knows no folder and prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from sdcli.events import Progress
from sdcli.images import Batch, Result
from sdcli.models.model import ModelSource
from sdcli.settings import DeviceName, OnError, Precision


class Executor(Protocol):
    """Generates batches, in order."""

    def __init__(
        self, source: ModelSource, *, device: DeviceName, precision: Precision, on_error: OnError, progress: Progress
    ) -> None:
        """Choose the device; the model loads with the first batch that is needed.

        Args:
            source: the model.
            device: the value of `--device`.
            precision: the value of `--precision`, for the description of the device; jobs have their own.
            on_error: "skip" turns the error of an image into a `FailedImage`, "stop" raises it.
            progress: receives the events `Phase`, `BatchStarted`, `StepDone`, `BatchDone` and `Note`.

        Raises:
            sdcli.errors.DeviceError: the device does not exist.
        """
        ...

    @property
    def device(self) -> str:
        """The device as PyTorch names it: "cpu", "cuda", "mps"."""
        ...

    @property
    def description(self) -> str:
        """The device and its precision in words."""
        ...

    def map(self, batches: Iterable[Batch]) -> Iterator[list[Result]]:
        """The results of each batch, one for each job, in order.

        Raises:
            sdcli.errors.ModelError: the model cannot be loaded, or its images contain NaN.
            sdcli.errors.DeviceError: out of memory.
        """
        ...
