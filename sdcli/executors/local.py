"""A batch of jobs becomes checked images; the model loads when the first is to be drawn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sdcli import estimates
from sdcli.errors import DeviceError, ModelError, SdcliError
from sdcli.events import Watch
from sdcli.jobs import Job
from sdcli.models.model import Model
from sdcli.run import Planned
from sdcli.stages import safety

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdcli.devices import Compute

_LESS_MEMORY = "Give a smaller --n_samples, --H or --W, or --device cpu."


@dataclass(frozen=True)
class Canvas:
    """An image as it was drawn and checked, before anything is done to it."""

    pixels: NDArray[Any]
    """RGB in [0, 1], float32, (height, width, 3)."""
    verdict: safety.SafetyVerdict | None
    """What the safety checker says; None if there is none."""
    words_cut: str
    """The end of the prompt, which the model did not read."""
    how: dict[str, Any]
    """What it was drawn with, as records tell it: device, precision, whether the VAE worked in tiles."""
    effort: dict[str, Any]
    """What it took, as the run's record tells it: seconds, and images drawn together."""


class Easel:
    """Draws a run's batches.

    Args:
        run: the run.
        compute: where.
        checker: looks at each image; None: nobody does.
        watch: is told of the progress.
    """

    def __init__(self, run: Planned, compute: Compute, checker: safety.SafetyChecker | None, watch: Watch) -> None:
        from sdcli.pipeline import Limits

        self.settings = run.settings
        self.source = run.source
        self.checker = checker
        self.watch = watch
        self.compute = compute
        self._limits = Limits()
        self._told: set[int] = set()
        self._batches = Counter[tuple[int, int, int]]()

    @cached_property
    def model(self) -> Model:
        """The model, and the safety checker, loaded when first asked for."""
        from sdcli import devices

        with devices.memory_errors(_LESS_MEMORY):
            model = self.source.load(self.compute.device, self.watch.loading)
            if self.checker:
                self.checker.load()
        return model

    def draw(self, jobs: Sequence[Job]) -> list[Canvas | SdcliError]:
        """A batch's images; with --on-error skip an error in the place of each that cannot be drawn.

        Raises:
            ModelError: the model cannot be loaded, or draws what are no numbers.
            DeviceError: not enough memory.
        """
        model = self.model
        try:
            return list(self._drawn(model, jobs))
        except (ModelError, DeviceError) as error:
            if self.settings.on_error == "stop":
                raise
            failure = error
        # One may spoil the batch for all.
        return [failure] if len(jobs) == 1 else [one for job in jobs for one in self.draw([job])]

    def _drawn(self, model: Model, jobs: Sequence[Job]) -> Iterator[Canvas]:
        from sdcli import devices
        from sdcli.models.tokenizer import words
        from sdcli.pipeline import generate

        texts = list(dict.fromkeys(text for job in jobs for text in (job.prompt, job.negative_prompt)))
        cut = {text: read.cut for text, read in zip(texts, words(model.tokenizer, texts), strict=True)}
        for text, unread in cut.items():
            if unread and hash(text) not in self._told:
                self._told.add(hash(text))
                self.watch.note(f"the prompt is longer than the model reads; not drawn: {unread}")
        began = time.monotonic()
        compute = devices.choose(self.settings.device, jobs[0].precision)
        with devices.memory_errors(_LESS_MEMORY):
            drawn = generate(model, jobs, compute, self.watch, self._limits)
            verdicts = self.checker.check(drawn.images) if self.checker else [None] * len(jobs)
        seconds = time.monotonic() - began
        effort = {"seconds": round(seconds / len(jobs), 3), "batch": drawn.rows}
        self._remember(jobs[0], len(jobs), seconds)
        how = {"device": str(compute.device), "precision": drawn.precision} | ({"vae": "tiled"} if drawn.tiled else {})
        for job, pixels, verdict in zip(jobs, drawn.images, verdicts, strict=True):
            yield Canvas(pixels, verdict, cut[job.prompt], how, effort)

    def _remember(self, job: Job, rows: int, seconds: float) -> None:
        """What a batch took, once for each size of it; the first of a size warms up."""
        shape = (job.height, job.width, rows)
        self._batches[shape] += 1
        if self._batches[shape] == 2:
            estimates.note(job, str(self.compute.device), rows, seconds)
