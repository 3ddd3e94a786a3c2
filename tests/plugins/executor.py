"""An executor: `LocalExecutor` that counts its batches.

To use it as a template: sdcli/executors/NAME.py, and a line in `sdcli.registry.EXECUTORS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sdcli.events import Note, Progress
from sdcli.executors.local import LocalExecutor
from sdcli.images import Batch, Result
from sdcli.models.model import ModelSource
from sdcli.settings import DeviceName, OnError, Precision


class CountingExecutor:
    """See `sdcli.executors.Executor`."""

    def __init__(
        self, source: ModelSource, *, device: DeviceName, precision: Precision, on_error: OnError, progress: Progress
    ) -> None:
        self._local = LocalExecutor(source, device=device, precision=precision, on_error=on_error, progress=progress)
        self._progress = progress

    @property
    def device(self) -> str:
        return self._local.device

    @property
    def description(self) -> str:
        return f"{self._local.description}, counted"

    def map(self, batches: Iterable[Batch]) -> Iterator[list[Result]]:
        count = 0
        for results in self._local.map(batches):
            count += 1
            yield results
        self._progress(Note(f"counted {count} batches"))
