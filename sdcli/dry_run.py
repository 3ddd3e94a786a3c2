"""What a run would do: its jobs, files, words, watermarks, time and memory, without loading its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from sdcli import estimates
from sdcli.estimates import Estimate
from sdcli.events import Watch
from sdcli.jobs import Job
from sdcli.models.tokenizer import Words, words
from sdcli.outputs.folder import SAMPLES, next_numbers, variants
from sdcli.outputs.formats import FORMATS
from sdcli.outputs.journal import Entry, Keys, Ledger
from sdcli.run import Planned
from sdcli.settings import Settings
from sdcli.stages.watermark import Mark

_TOGETHER = 200
"""Batches whose words are counted together, which is faster."""


@dataclass(frozen=True)
class Forecast:
    """One image that would be drawn.

    file: where it would be saved; None if it is not. A number that is free now.
    there: with --resume, whether it is there already.
    words: of its prompt.
    mark: its watermark; None with --no-watermark.
    """

    job: Job
    file: Path | None
    there: bool
    words: Words
    mark: Mark | None


class DryRun:
    """A run that is not made.

    Args:
        settings: the run.
        watch: is told of rows that are left out.

    Raises:
        sdcli.errors.SdcliError: as a real run, for all that is known before the model loads.
    """

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self.settings = settings
        self.run = Planned(settings, watch)
        if settings.device != "auto":
            # PyTorch alone knows whether it is there, and is slow to import.
            from sdcli import devices

            devices.choose(settings.device, settings.precision)
        self.weights = self.run.source.weights() if self.run.source.here() else None
        """Bytes of the model's weights; None if they are still to be fetched."""
        if self.weights is None:
            # Which is no matter for a dry run.
            self.run.model_hash = ""
        self.images = self.there = 0
        """Forecast so far, and those of them that are there already."""
        self.seconds: float | None = 0.0
        """What those that are to be drawn will take; None if this model never drew on this machine."""
        self.largest: Estimate | None = None
        """What takes most memory."""
        self._estimates: dict[tuple[int, int, int, str, int], Estimate] = {}

    def __iter__(self) -> Iterator[Forecast]:
        """Each image, in order."""
        outdir = Path(self.settings.outdir)
        ledger = Ledger(outdir) if self.settings.resume is not None and self.weights is not None else None
        keys = Keys(self.settings)
        tokenizer = self.run.source.tokenizer()
        names = self._names()
        batches = self.run.batches()
        while together := list(islice(batches, _TOGETHER)):
            jobs = [job for batch in together for job in batch]
            entries = [ledger.find(keys.next(job)) for job in jobs] if ledger else [None] * len(jobs)
            self._reckon(together, entries)
            read = words(tokenizer, [job.prompt for job in jobs])
            for job, entry, its_words in zip(jobs, entries, read, strict=True):
                file = names(job) if entry is None else outdir / entry.file if entry.file else None
                yield Forecast(job, file, entry is not None, its_words, self.run.mark(job.height, job.width))

    def _names(self) -> Callable[[Job], Path | None]:
        """Gives each job the name that its file would get, if nobody else takes it."""
        settings = self.settings
        samples = Path(settings.outdir) / SAMPLES
        numbers = count(next_numbers(Path(settings.outdir))[0])
        taken: set[str] = set()

        def name(job: Job) -> Path | None:
            if settings.output is not None:
                return Path(settings.output)
            if settings.skip_save:
                return None
            asked = self.run.name(job)
            numbered = (samples / f"{number:05}{FORMATS[settings.format].suffix}" for number in numbers)
            for path in numbered if asked is None else variants(samples / asked):
                if str(path) not in taken and not path.exists():
                    if asked is not None:
                        taken.add(str(path))
                    return path
            return None

        return name

    def _reckon(self, batches: Sequence[Sequence[Job]], entries: Sequence[Entry | None]) -> None:
        """Add up what the batches will take."""
        left = iter(entries)
        for batch in batches:
            there = sum(next(left) is not None for _ in batch)
            self.images += len(batch)
            self.there += there
            if there == len(batch):
                continue
            estimate = self._estimate(batch[0], len(batch))
            if self.seconds is not None:
                self.seconds = None if estimate.seconds is None else self.seconds + estimate.seconds * len(batch)
            if self.largest is None or (estimate.memory or 0) > (self.largest.memory or 0):
                self.largest = estimate

    def _estimate(self, job: Job, rows: int) -> Estimate:
        key = (job.height, job.width, job.steps, job.precision, rows)
        if key not in self._estimates:
            self._estimates[key] = estimates.estimate(job, self.settings.device, rows, self.weights)
        return self._estimates[key]
