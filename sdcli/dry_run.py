"""What a run would do: its jobs, files, tokens, watermarks, time and memory, without loading its model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from sdcli import estimates
from sdcli.estimates import Estimate
from sdcli.events import Note, Progress
from sdcli.jobs import Job
from sdcli.models import adapters
from sdcli.models.chunks import Encoded
from sdcli.models.tokenizer import PromptLength
from sdcli.outputs.files import HIDDEN, cannot_write, numbered, variants
from sdcli.outputs.folder import SAMPLES, next_numbers
from sdcli.outputs.journal import Ledger
from sdcli.outputs.names import name_of
from sdcli.records import Keys, Line
from sdcli.registry import FORMATS
from sdcli.run import Run
from sdcli.settings import Settings
from sdcli.stages.watermark import Mark, WatermarkStage

_AT_ONCE = 200
"""Batches whose prompts are tokenized in one call, which is faster."""


@dataclass(frozen=True)
class Forecast:
    """One image of the run.

    Attributes:
        job: its job.
        file: where it would be saved, if no other process takes the name; None if it is not saved.
        exists: with --resume, whether it already exists.
        words: how the text encoder reads its prompt.
        mark: its watermark; None with --no-watermark.
        reading: how the model's vocabulary reads its prompt, as in the record.
        encoded: the texts of its prompts with their weights, if they have a syntax or several chunks.
    """

    job: Job
    file: Path | None
    exists: bool
    words: PromptLength
    mark: Mark | None
    reading: dict[str, Any]
    encoded: Sequence[Encoded] = ()


class DryRun:
    """A run that is only planned.

    Args:
        settings: the settings of the run.
        progress: receives a note for each skipped row.

    Raises:
        sdcli.errors.SdcliError: as a real run, for everything that is known before the model loads.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings = settings
        _require_writable(settings)
        self.run = Run(settings, progress)
        for note in self.run.notes:
            progress(Note(note))
        if settings.device != "auto":
            # Only PyTorch knows whether the device exists, and importing it is slow.
            from sdcli import devices

            devices.choose(settings.device, settings.precision)
        self.weights = self.run.source.weights() if self.run.source.here() else None
        """Bytes of the model's weights; None if they are not on this machine yet."""
        if self.weights is None:
            # A dry run does not fetch the weights, and needs no hash of them.
            self.run.model_hash = ""
        self.images = self.existing = 0
        """Images so far, and those of them that already exist."""
        self.seconds: float | None = 0.0
        """Time of the images that are missing; None if this model has never run on this machine."""
        self.loading = 0.0
        """Time until the first of them is begun, for libraries and model; 0 if it is not known, or none is missing."""
        self.largest: Estimate | None = None
        """The estimate of the batch that needs the most memory."""
        self._estimates: dict[tuple[int, int, int, str, int], Estimate] = {}

    def __iter__(self) -> Iterator[Forecast]:
        """Each image, in order."""
        outdir = Path(self.settings.outdir)
        ledger = Ledger(outdir) if self.settings.resume is not None and self.weights is not None else None
        keys = Keys(self.settings)
        tokenizer = self.run.source.tokenizer()
        file_of = self._files()
        batches = self.run.batches()
        while together := list(islice(batches, _AT_ONCE)):
            jobs = [job for batch in together for job in batch]
            lines = [ledger.find(keys.next(job)) for job in jobs] if ledger else [None] * len(jobs)
            self._add_up(together, lines)
            read = self._read(tokenizer, jobs)
            for job, line, (length, texts) in zip(jobs, lines, read, strict=True):
                file = file_of(job) if line is None else outdir / line.file if line.file else None
                yield Forecast(job, file, line is not None, length, self._mark(job), self._reading(job), texts)

    @staticmethod
    def _read(tokenizer: Any, jobs: Sequence[Job]) -> Iterator[tuple[PromptLength, Sequence[Encoded]]]:
        """How the text encoder reads the prompt of each job."""
        for embedding, some in groupby(jobs, lambda job: job.embedding):
            words = adapters.words(embedding)
            own, alike = words.tokenizer(tokenizer), list(some)
            for job, length in zip(alike, words.measure(own, alike), strict=True):
                yield length, words.encoded(own, job)

    def _reading(self, job: Job) -> dict[str, Any]:
        vocabulary = self.run.vocabulary
        return {} if vocabulary is None else vocabulary.read(job.prompt, job.prompt_syntax).values()

    def _mark(self, job: Job) -> Mark | None:
        for stage in self.run.stages:
            if isinstance(stage, WatermarkStage):
                return stage.mark(job.height, job.width)
        return None

    def _files(self) -> Callable[[Job], Path | None]:
        """A function from a job to the name that its file would get, if no other process takes it."""
        settings = self.settings
        samples = Path(settings.outdir) / SAMPLES
        next_sample, _ = next_numbers(Path(settings.outdir))
        unnamed = numbered(samples, f"{{:05}}{FORMATS[settings.format].suffix}", next_sample)
        taken: set[Path] = set()

        def file_of(job: Job) -> Path | None:
            if settings.output is not None:
                return Path(settings.output)
            if settings.skip_save:
                return None
            name = name_of(job, settings.output_name, settings.format)
            paths = unnamed if name is None else variants(samples / name)
            path = next(path for path in paths if path not in taken and not path.exists())
            taken.add(path)
            return path

        return file_of

    def _add_up(self, batches: Sequence[Sequence[Job]], lines: Sequence[Line | None]) -> None:
        """Add the estimates of the batches."""
        left = iter(lines)
        for batch in batches:
            existing = sum(next(left) is not None for _ in batch)
            self.images += len(batch)
            self.existing += existing
            if existing == len(batch):
                continue
            if self.largest is None:
                self.loading = estimates.loading(batch[0], self.settings.device)
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


def _require_writable(settings: Settings) -> None:
    """Raise `OutputError` if a run could not write its files. Nothing is created."""
    if settings.output == "-" or (settings.skip_save and settings.skip_grid and not settings.gallery):
        return
    folder = Path(settings.outdir) / SAMPLES if settings.output is None else Path(settings.output).parent
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        # A file without a name, where the system has such files.
        with tempfile.TemporaryFile(prefix=HIDDEN, dir=folder):
            pass
    except OSError as error:
        raise cannot_write(folder, error, "--outdir" if settings.output is None else "--output") from error
