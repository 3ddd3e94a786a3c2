"""All that is known of a run before its model loads: what will be drawn and saved, and whether that can be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from sdcli import models
from sdcli.errors import InputFileError, OutputError
from sdcli.events import Watch
from sdcli.jobs import Job, plan, size
from sdcli.models.model import ModelSource
from sdcli.outputs import names
from sdcli.outputs.formats import require_room
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.prompts import Prompts, Row
from sdcli.settings import SamplerName, Settings
from sdcli.stages import watermark


class Planned:
    """A run whose settings, prompts, model and files were found to go together.

    Args:
        settings: the run.
        watch: is told of rows that are left out.

    Raises:
        sdcli.errors.SdcliError: what cannot be drawn, or not be saved; for a stream of prompts only as far as the
            settings tell, its rows are checked as they come.
    """

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self.settings = settings
        self.watch = watch
        self.skipped = 0
        """Rows left out so far."""
        self.source: ModelSource = models.find_for(settings)
        self.spec = self.source.spec
        if settings.output_name is not None:
            names.check_pattern(settings.output_name, settings.format)
        if settings.output not in (None, "-"):
            _require_new(Path(str(settings.output)))
        self._longest = 0
        self._marks: dict[tuple[int, int], watermark.Mark] = {}
        self._require(settings)
        self.prompts = Prompts(settings, self._check, self._skip if settings.on_error == "skip" else None)
        self.total = self.prompts.look()
        """Images of the run; None while a stream is not at its end."""

    def batches(self) -> Iterator[list[Job]]:
        """The jobs in order; what can be drawn together, together. For a stream only once."""
        return plan(self.prompts, self.settings, self.spec, self.model_hash, self._step_draws)

    @cached_property
    def model_hash(self) -> str:
        return self.source.hash()

    def mark(self, height: int, width: int) -> watermark.Mark | None:
        """The watermark for an image of this size, in pixels; None with --no-watermark."""
        if self.settings.no_watermark:
            return None
        if (height, width) not in self._marks:
            self._marks[height, width] = watermark.choose(
                self.settings.watermark_method, self.spec.watermark_method, height, width, self.settings.watermark
            )
        return self._marks[height, width]

    def name(self, job: Job) -> str | None:
        """The name of a job's file in `samples/`; None: the next number."""
        return names.name_of(job, self.settings.output_name, self.settings.format)

    def _step_draws(self, sampler: SamplerName, steps: int) -> int:
        return SAMPLERS[sampler].draws(steps, self.spec.schedule)

    def _check(self, row: Row) -> None:
        if row.settings is not self.settings:
            self._require(row.settings)
        if row.out is not None:
            names.require_name(row.out, self.settings.format, "out")
        words = row.prompt + row.settings.negative_prompt
        if len(words) > self._longest:
            self._longest = len(words)
            height, width = size(row.settings, self.spec)
            require_room(height, width, row.prompt, row.settings.negative_prompt, self.settings.format)

    def _require(self, settings: Settings) -> None:
        """That the model can draw what these settings ask for, and that its watermark fits."""
        height, width = size(settings, self.spec)
        SAMPLERS[settings.sampler].check(settings.steps, self.spec.schedule)
        if self.mark(height, width):
            watermark.require_library()

    def _skip(self, error: InputFileError) -> None:
        self.skipped += 1
        self.watch.note(f"left out: {error}")


def _require_new(path: Path) -> None:
    """That a file for an image can come to be there.

    Raises:
        OutputError: it is there already, or its folder is not.
    """
    if path.exists():
        raise OutputError(f"--output {path} is there already", fix="Name a new file: nothing is ever written over.")
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"--output {path} lies in no folder", why=f"There is no folder {path.parent}.", fix="Make it."
        )
