"""A run: settings, prompts, model and output, found to fit together before the model loads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from threading import Timer

from sdcli import models
from sdcli.errors import InputFileError, OutputError, UsageError, indented
from sdcli.events import Note, Phase, Progress, ignore
from sdcli.jobs import Job, batches, size, steps_of
from sdcli.models.model import ModelSource
from sdcli.outputs import formats, names
from sdcli.outputs.folder import SAMPLES
from sdcli.prompts import Prompts, Row
from sdcli.registry import SAMPLERS
from sdcli.settings import Settings
from sdcli.stages import StageContext, Stages

HASHING_AFTER = 1.0
"""Seconds after which it is said that the model is hashed; the hash of an earlier run takes none."""
_PATH_MAX = 4096
"""Bytes of a path on Linux, with the zero byte at its end."""


class Run:
    """A valid run.

    Args:
        settings: the settings.
        progress: receives a note for each skipped row.
        source: the model, if it is already found.

    Raises:
        sdcli.errors.SdcliError: an image cannot be generated or saved. The rows of a stream are only checked as they
            arrive.
    """

    def __init__(self, settings: Settings, progress: Progress = ignore, source: ModelSource | None = None) -> None:
        _require_current_folder()
        self.progress = progress
        self.skipped = 0
        """Rows skipped so far."""
        self.source: ModelSource = source or models.find_for(settings)
        self.spec = self.source.spec
        # In the journal, too: another version may have another default.
        settings = settings.model_copy(update={"steps": steps_of(settings, self.spec)})
        self.settings = settings
        if settings.output_name is not None:
            names.check_pattern(settings.output_name, settings.format)
        if settings.output not in (None, "-"):
            _require_new(Path(str(settings.output)))
        self._longest = 0
        context = StageContext(
            settings, self.spec, self.source, lambda pixels: formats.as_saved(pixels, settings.format)
        )
        self.stages = Stages(context, progress)
        self.notes = self._require(settings)
        """What the user should read before the run starts."""
        skip = self._skip if settings.on_error == "skip" else None
        self._prompts = Prompts(settings, self._check, skip, lambda note: progress(Note(note)))
        self.total = self._prompts.count()
        """Number of images; None for a stream of prompts."""
        self.counts = self._prompts.counts
        """How the number comes about; None for a stream."""

    def batches(self, *, report: bool = True) -> Iterator[list[Job]]:
        """The jobs in order, in batches. Only once for a stream. The first batch computes the model's hash.

        Args:
            report: whether skipped rows are counted and noted.
        """
        prompts = self._prompts.each(report=report)
        yield from batches(prompts, self.settings, self.spec, self.model_hash, self._step_draws)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the model's weights, which are downloaded if they are not on this machine."""
        here = self.source.here()
        if not here:
            self.progress(Phase("downloading model"))
        late = Timer(HASHING_AFTER, self.progress, [Phase("hashing model")])
        late.daemon = True
        if here:
            late.start()
        try:
            return self.source.hash()
        finally:
            late.cancel()

    def _step_draws(self, sampler: str, steps: int) -> int:
        draws: int = SAMPLERS[sampler].draws(steps, self.spec.schedule)
        return draws

    def _check(self, row: Row) -> None:
        if row.settings is not self.settings:
            self._require(row.settings)
        if row.out is not None:
            self._require_place(names.require_portable(row.out, self.settings.format, "out"))
        length = len(row.text) + len(row.settings.negative_prompt)
        if length > self._longest:
            self._longest = length
            height, width = size(row.settings, self.spec)
            formats.require_room(height, width, row.text, row.settings.negative_prompt, self.settings.format)

    def _require_place(self, name: str) -> None:
        """Raise `UsageError` if no file of this name can be in `samples/`."""
        path = Path(self.settings.outdir).absolute() / SAMPLES / name
        # A number may be appended to the name.
        if len(os.fsencode(path)) + 20 > _PATH_MAX:
            raise UsageError(
                f"out {name[:60]!r}... is too long for the folder {self.settings.outdir}", fix="Shorten it."
            )
        for folder in list(path.parents)[: name.count("/")]:
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"out {name!r} is in {folder}, which is not a folder", fix="Pass another name.")

    def _require(self, settings: Settings) -> list[str]:
        """Check that the model and the stages can handle these settings; returns the notes of the stages."""
        height, width = size(settings, self.spec)
        SAMPLERS[settings.sampler].check(steps_of(settings, self.spec), self.spec.schedule)
        return self.stages.check(height, width)

    def _skip(self, error: InputFileError) -> None:
        self.skipped += 1
        self.progress(Note(f"skipped: {indented(error)}"))


def _require_current_folder() -> None:
    """Raise `OutputError` if the current folder was deleted. PyTorch needs it, and its libraries end the process."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise OutputError(
            "there is no current folder", why=f"{error.strerror}.", fix="It was deleted: cd to another folder."
        ) from error


def _require_new(path: Path) -> None:
    """Raise `OutputError` if a file exists, or its folder does not."""
    try:
        exists = path.exists()
    except OSError as error:  # the name is too long
        raise OutputError(
            f"cannot write --output {path}", why=f"{error.strerror}.", fix="Pass another name."
        ) from error
    if exists:
        fix = "Pass a new name: sdcli never overwrites a file."
        if path.is_dir():
            fix = "It is a folder: add the name of the file, or pass --outdir instead."
        raise OutputError(f"--output {path} already exists", fix=fix)
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"cannot write --output {path}", why=f"The folder {path.parent} does not exist.", fix="Create it."
        )
