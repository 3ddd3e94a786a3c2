"""Saves the images of a run: files and their records, the journal, the grid, the gallery, and claims on jobs."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdcli.errors import OutputError, SkippedError, UsageError, WithheldError, indented
from sdcli.events import Finished, Note, Output, Phase, Progress, Saved
from sdcli.images import Batch, FailedImage, GeneratedImage, Result, UnneededImage, WithheldImage
from sdcli.jobs import Job, at_home
from sdcli.metadata import a1111, record_in, texts
from sdcli.outputs.claims import Claims, State
from sdcli.outputs.files import cannot_write, write_new
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.formats import encode, opened
from sdcli.outputs.gallery import Gallery
from sdcli.outputs.grid import Grid, Page
from sdcli.outputs.journal import Journal, journaled
from sdcli.outputs.names import name_of, require_name
from sdcli.records import (
    SCHEMA,
    GridRecord,
    ImageRecord,
    Key,
    Keys,
    Line,
    PageKey,
    RunLine,
    recorded_settings,
)
from sdcli.registry import FORMATS
from sdcli.settings import Settings, image_format, names, suffixes
from sdcli.stages import Stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENDLESS = 2**40
"""Stands for the number of images of a stream until it ends."""
_SEEDS = 5
"""The most seeds that are reported."""


class Writer:
    """Saves the images of a run.

    Args:
        settings: those of the run.
        stages: those of the run; the ones that work on files are applied to each file.
        model: the name of the model.
        total: the number of images; None if a stream decides.
        device: the device in words, for the journal.
        progress: receives the events `Saved`, `Output`, `Note`, `Phase` and `Finished`.
        journal: whether the output folder gets a journal.

    Raises:
        sdcli.errors.OutputError: the output folder cannot be written to.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Stages,
        *,
        model: str,
        total: int | None,
        device: str,
        progress: Progress,
        journal: bool = True,
    ) -> None:
        self._settings = settings
        self._stages = stages
        self._progress = progress
        self._folder = _output_folder(settings, device, journal=journal)
        self._claims = Claims(self._folder if settings.resume is not None else None)
        self._keys = Keys(settings)
        self._jobs: dict[int, tuple[Key, State]] = {}
        """Of the batches that are not saved yet, by the job's index."""
        self._seen = self._failed = self._withheld = self._done_before = self._elsewhere = 0
        self._images = self._dropped = 0
        self._seeds: dict[int, None] = {}
        per_row = settings.n_rows if settings.n_rows > 0 else settings.n_samples
        at_most = _ENDLESS if total is None else total
        self._grid = None if self._folder is None or not settings.has_grid(total) else Grid(per_row, at_most)
        self._page_key = PageKey()
        self._gallery: Gallery | None = None
        self._model = model
        self._missing: int | None = None

    def missing(self, batches: Iterable[list[Job]]) -> int | None:
        """With --resume, the number of images that do not exist yet; None if no earlier run is in the folder.

        Args:
            batches: all jobs of the run.
        """
        if self._claims.has_lines:
            self._progress(Phase("checking existing images"))
            keys = Keys(self._settings)
            self._missing = sum(self._claims.find(keys.next(job)) is None for jobs in batches for job in jobs)
        return self._missing

    def unfinished(self, batches: Iterable[list[Job]]) -> Iterator[Batch]:
        """The batches, each with its jobs claimed and those that are needed marked."""
        if self._folder:
            if self._settings.gallery and (self._missing != 0 or not self._folder.has_gallery()):
                self._gallery = Gallery(self._folder.new_gallery(), self._settings, self._model)
                self._progress(Note(f"the gallery is {self._gallery.path}"))
            self._folder.begin()
        for jobs in batches:
            keys = [self._keys.next(job) for job in jobs]
            states = self._claims.claim(keys)
            self._jobs |= {job.index: (key, state) for job, key, state in zip(jobs, keys, states, strict=True)}
            yield Batch(jobs, [state == "claimed" for state in states])

    def save(self, result: Result) -> GeneratedImage | None:
        """Save a generated image with its line in the journal, and put it on grid and gallery.

        The results of a run must come in the order of its jobs. An image that is already on disk is put on grid and
        gallery, too.

        Returns:
            The image as it was saved; None if this process saved none.

        Raises:
            sdcli.errors.OutputError: it cannot be written; nothing incomplete stays.
        """
        job = result.job
        key, state = self._jobs.pop(job.index)
        self._seen += 1
        try:
            match result:
                case GeneratedImage():
                    return self._save_image(result, key)
                case WithheldImage():
                    self._withheld += 1
                    self._dropped += 1
                    safety = result.record.values().get("safety")
                    self._note("withheld", job, key, safety=safety)
                case FailedImage():
                    self._failed += 1
                    self._progress(Note(f"image {job.index + 1} skipped: {indented(result.error)}"))
                    self._note("failed", job, key, error=str(result.error))
                case UnneededImage():
                    self._pass_over(job, key, state)
        finally:
            if state == "claimed":
                self._claims.release([key])
        return None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """Open all jobs that are not saved to other processes, also if the run ends early."""
        self._claims.release([key for key, state in self._jobs.values() if state == "claimed"])
        self._jobs.clear()

    def close(self, skipped_rows: int = 0) -> None:
        """Save the last page of the grid, finish the gallery and report the whole run with the event `Finished`.

        Args:
            skipped_rows: invalid rows of the prompt file that were skipped.

        Raises:
            SkippedError: rows or images were skipped.
            WithheldError: the safety checker withheld every image.
        """
        if self._grid is not None:
            self._save_page(self._grid.rest())
        if self._gallery:
            self._gallery.finish()
        self._progress(
            Finished(
                self._images,
                self._place(),
                tuple(self._seeds)[:_SEEDS],
                len(self._seeds) > _SEEDS,
                existing=self._done_before,
                elsewhere=self._elsewhere,
                withheld=self._dropped,
                failed=self._failed,
                skipped_rows=skipped_rows,
            )
        )
        if skipped_rows or self._failed:
            raise SkippedError(skipped_rows, self._failed)
        if self._withheld and self._withheld == self._seen:
            raise WithheldError(
                "the safety checker withheld every image",
                fix="Try another prompt or seed, or see --safety-checker and --on-unsafe.",
            )

    def _save_image(self, image: GeneratedImage, key: Key) -> GeneratedImage:
        job = image.job
        self._images += 1
        if len(self._seeds) <= _SEEDS:
            self._seeds.setdefault(job.seed)
        # The original truncates; it does not round.
        pixels = (image.pixels * 255).astype("uint8")
        finished, fields = self._stages.finish(pixels, f"image {job.index + 1}")
        record = image.record.model_copy(update={"settings": recorded_settings(self._settings), **fields})
        self._withheld += record.withheld
        saved = replace(image, pixels=finished, record=record, writer=save_as)
        saved = replace(saved, path=self._write(saved, key))
        if self._gallery:
            self._gallery.add(finished, job, record, saved.path)
        self._lay_out(job, key, pixels)
        return saved

    def _place(self) -> str:
        """Where the images are, in words."""
        settings = self._settings
        if settings.output is not None:
            return "to standard output" if settings.output == "-" else f"saved as {settings.output}"
        if not settings.skip_save:
            return f"in {settings.outdir}"
        return "not saved" if settings.skip_grid else f"not saved but for the grid in {settings.outdir}"

    def _write(self, image: GeneratedImage, key: Key) -> Path | None:
        settings, record = self._settings, image.record.values()
        if settings.output is None and (self._folder is None or settings.skip_save):
            return None
        data = encode(image.pixels, record, a1111.write(image.job), settings.format)
        if settings.output == "-":
            self._progress(Output(data))
            return None
        if settings.output is not None:
            path = Path(settings.output)
            try:
                write_new(path, data)
            except OSError as error:
                raise cannot_write(path, error, "--output") from error
        elif self._folder is not None:
            path = self._folder.save_sample(
                data, key, self._name(image.job, key), index=image.job.index, **image.effort, **record
            )
        self._progress(Saved(path, record))
        return path

    def _name(self, job: Job, key: Key) -> str | None:
        """The name of the file in `samples/`: the same as before, if the image is generated again."""
        before = self._before(key)
        if before is not None and before.startswith("samples/"):
            return before.removeprefix("samples/")
        return name_of(job, self._settings.output_name, self._settings.format)

    def _before(self, key: Key) -> str | None:
        """The name of a file in the journal, if a row of a prompt file could have it, too."""
        name = self._claims.name(key)
        try:
            return None if name is None else require_name(name, self._settings.format, "file")
        except UsageError:
            return None

    def _pass_over(self, job: Job, key: Key, state: State) -> None:
        """Handle a job that is finished, or that another process has claimed."""
        if not isinstance(state, Line):
            self._elsewhere += 1
            if self._grid is not None:
                self._grid = None
                self._progress(
                    Note("no grid: another process generates some of its images; run --resume again for the grid")
                )
            return
        self._done_before += 1
        self._withheld += state.withheld
        if self._folder is None or state.file is None or not (self._grid or self._gallery):
            return
        path = self._folder.path / state.file
        with opened(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            record = record_in(texts.read(image))
        if self._gallery:
            self._gallery.add(pixels, job, record if isinstance(record, ImageRecord) else ImageRecord(), path)
        self._lay_out(job, key, pixels)

    def _note(self, kind: str, job: Job, key: Key, **fields: Any) -> None:
        """Write a line without a file into the journal."""
        if self._folder is not None:
            line = Line.new(kind, key, index=job.index, job=job.model_dump(mode="json"), **fields)
            self._folder.note(line)

    def _lay_out(self, job: Job, key: Key, pixels: NDArray[Any]) -> None:
        if self._grid is not None:
            self._page_key.add(key)
            self._save_page(self._grid.add(job, pixels))

    def _save_page(self, page: Page | None) -> None:
        """Save a page of the grid, if there is one, with its own watermark."""
        if page is None or self._folder is None:
            return
        key = self._page_key.close(page.pixels.shape)
        self._page_key = PageKey()
        if self._claims.find(key):
            return
        pixels, fields = self._stages.finish(page.pixels, "the grid")
        grid = self._settings.model_dump(mode="json", include=set(names(of_grid=True)))
        record = GridRecord.new(grid=grid, page=page.number, job=page.first, **fields)
        values = record.values()
        data = encode(pixels, values, a1111.write(page.first), self._settings.format)
        journaled = {name: value for name, value in values.items() if name in ("page", *fields)}
        path = self._folder.save_grid(data, key, self._before(key), **journaled)
        self._progress(Saved(path, values))


def save_as(image: GeneratedImage, path: Path) -> None:
    """Save a finished image with its record as a new file.

    Raises:
        OutputError: the suffix is that of no format, the file exists, or it cannot be written.
    """
    by_name = image_format(str(path))
    if by_name is None:
        raise OutputError(
            f"{path} has the suffix of no image format", fix=f"Pass a name that ends in {', '.join(suffixes())}."
        )
    data = encode(image.pixels, image.record.values(), a1111.write(image.job), by_name)
    try:
        write_new(path, data)
    except OSError as error:
        raise cannot_write(path, error, "save(path)") from error


def _output_folder(settings: Settings, device: str, *, journal: bool) -> OutputFolder | None:
    """The output folder; None if the run writes nothing into it."""
    if settings.output is not None or (settings.skip_save and settings.skip_grid and not settings.gallery):
        return None
    path = Path(settings.outdir)
    kept = None
    if journal and not settings.skip_save:
        kept = Journal(path, _start(settings, device), resume=settings.resume is not None)
    return OutputFolder(path, FORMATS[settings.format].suffix, kept)


def _start(settings: Settings, device: str) -> RunLine:
    """The line of this start: what is needed to continue the run, and what it runs on."""
    libraries = ("torch", "diffusers", "transformers")
    return RunLine(
        kind="run",
        schema_version=SCHEMA,
        settings=journaled(settings),
        folder=at_home(str(Path.cwd())),
        versions={
            "sdcli": version("sdcli"),
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
        },
        device=device,
    )
