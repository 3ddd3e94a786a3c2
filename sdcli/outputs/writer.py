"""What becomes of a drawn image: withheld if unsafe, marked, saved with its records, put on grid and gallery."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdcli import metadata
from sdcli.events import Watch
from sdcli.executors.local import Canvas
from sdcli.jobs import Job
from sdcli.metadata import a1111
from sdcli.outputs.claims import Work
from sdcli.outputs.folder import OutputFolder, cannot_write, claim, written_aside
from sdcli.outputs.formats import FORMATS, encode, opened, stored
from sdcli.outputs.gallery import Gallery
from sdcli.outputs.grid import Grid, Page
from sdcli.outputs.journal import Entry, Journal
from sdcli.records import asked, at_home, new_record
from sdcli.run import Planned
from sdcli.settings import Settings
from sdcli.stages import safety, watermark

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_ENDLESS = 2**40
"""Stands for the number of images of a stream, until it ends."""


@dataclass(frozen=True)
class GeneratedImage:
    """One finished image."""

    pixels: NDArray[Any]
    """RGB, uint8, (height, width, 3), with its watermark."""
    job: Job
    record: dict[str, Any]
    """How it was made: what its file carries."""
    path: Path | None
    """Where it is saved, if it is."""

    @property
    def image(self) -> Image:
        """The image for Pillow."""
        from PIL import Image

        return Image.fromarray(self.pixels)


def output_folder(run: Planned, device: str, *, record: bool) -> OutputFolder | None:
    """Where the run's files go, if it writes any.

    Raises:
        sdcli.errors.OutputError: it cannot be written to.
    """
    settings = run.settings
    if settings.output is not None or (settings.skip_save and settings.skip_grid and not settings.gallery):
        return None
    path = Path(settings.outdir)
    journal = None
    if record and not settings.skip_save:
        journal = Journal(path, _start(settings, device), resume=settings.resume is not None)
    return OutputFolder(path, FORMATS[settings.format].suffix, journal)


def _start(settings: Settings, device: str) -> dict[str, Any]:
    """What heads the record of a run: enough to go on with it, and what it ran on."""
    said = settings.model_dump(mode="json", include=settings.model_fields_set - {"resume", "outdir"})
    libraries = ("torch", "diffusers", "transformers")
    return {
        "settings": said,
        "folder": at_home(str(Path.cwd())),
        "versions": {
            "sdcli": version("sdcli"),
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
        },
        "device": device,
    }


class Saver:
    """Finishes a run's images.

    Args:
        run: the run.
        folder: where its files go; None: nowhere, or to --output.
        work: what is there of a run that is resumed.
        checker: who looked at the images.
        watch: is told of each file.
    """

    def __init__(
        self,
        run: Planned,
        folder: OutputFolder | None,
        work: Work,
        checker: safety.SafetyChecker | None,
        watch: Watch,
    ) -> None:
        self.run = run
        self.settings = run.settings
        self.folder = folder
        self.work = work
        self.checker = checker
        self.watch = watch
        self.withheld = 0
        """Images that were unsafe, and not saved as they are."""
        per_row = self.settings.n_rows if self.settings.n_rows > 0 else self.settings.n_samples
        total = _ENDLESS if run.total is None else run.total
        self._grid = None if folder is None or self.settings.skip_grid else Grid(per_row, total)
        self._on_page = hashlib.sha256()
        self._gallery = None
        if folder and self.settings.gallery:
            self._gallery = Gallery(folder.new_gallery(), self.settings, run.spec.name)
            watch.note(f"the gallery is {self._gallery.path}")

    def finish(self, job: Job, key: str, canvas: Canvas) -> GeneratedImage | None:
        """Save an image and what goes with it; None if it is unsafe and --on-unsafe skip."""
        settings, verdict = self.settings, canvas.verdict
        drawn = canvas.pixels
        if verdict is not None and verdict.flagged:
            self.watch.note(f"image {job.index + 1} is unsafe by {verdict.checker}: --on-unsafe {settings.on_unsafe}")
            self.withheld += settings.on_unsafe != "keep"
            if (stand_in := safety.withhold(drawn, settings.on_unsafe)) is None:
                self.note("withheld", job, key, safety=self._safety(verdict))
                return None
            drawn = stand_in
        # The original cuts the fraction off rather than rounding.
        unmarked = (drawn * 255).astype("uint8")
        pixels, read_back = self._marked(unmarked, f"image {job.index + 1}")
        record = new_record(
            words_cut=canvas.words_cut or None,
            job=job.model_dump(mode="json"),
            settings=asked(settings),
            safety=self._safety(verdict) if verdict else None,
            watermark=read_back,
            **canvas.how,
        )
        path = self._save(pixels, job, key, record, canvas.effort)
        if self._gallery:
            self._gallery.add(pixels, job, record, path)
        self._lay_out(job, key, unmarked)
        return GeneratedImage(pixels, job, record, path)

    def add_saved(self, job: Job, key: str, entry: Entry) -> None:
        """Put an image that was there already on grid and gallery, from its file."""
        self.withheld += entry.withheld
        if self.folder is None or entry.file is None or not (self._grid or self._gallery):
            return
        path = self.folder.path / entry.file
        with opened(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            record = metadata.record.of(metadata.texts.read(image)) or {}
        if self._gallery:
            self._gallery.add(pixels, job, record, path)
        self._lay_out(job, key, pixels)

    def leave_out_the_grid(self) -> None:
        """Draw no grid from here on: some of its images are being drawn elsewhere."""
        if self._grid is not None:
            self._grid = None
            self.watch.note("no grid: other images of it are being drawn by another process; resume again for it")

    def note(self, kind: str, job: Job, key: str, **line: Any) -> None:
        """A line in the run's record for an image without a file."""
        if self.folder is not None:
            self.folder.note(kind, key=key, index=job.index, job=job.model_dump(mode="json"), **line)

    def close(self) -> None:
        """The run is done: the last page of the grid, and the end of the gallery."""
        if self._grid is not None:
            self._save_page(self._grid.rest())
        if self._gallery:
            self._gallery.finish()

    def _save(
        self, pixels: NDArray[Any], job: Job, key: str, record: dict[str, Any], effort: dict[str, Any]
    ) -> Path | None:
        settings = self.settings
        if settings.output is None and (self.folder is None or settings.skip_save):
            return None
        data = encode(pixels, record, a1111.write(job), settings.format)
        if settings.output == "-":
            self.watch.output(data)
            return None
        if settings.output is not None:
            path = _new_file(Path(settings.output), data)
        elif self.folder is not None:
            path = self.folder.save_sample(data, self._name(job, key), key=key, index=job.index, **effort, **record)
        self.watch.saved(path, record)
        return path

    def _name(self, job: Job, key: str) -> str | None:
        """What the file is to be called, in `samples/`: as it was, where it is drawn again."""
        before = self.work.name(key)
        return self.run.name(job) if before is None else before.removeprefix("samples/")

    def _lay_out(self, job: Job, key: str, pixels: NDArray[Any]) -> None:
        if self._grid is not None:
            self._on_page.update(key.encode())
            self._save_page(self._grid.add(job, pixels))

    def _save_page(self, page: Page | None) -> None:
        """Write a page of the grid, if there is one, with a mark of its own."""
        if page is None or self.folder is None:
            return
        # The images on it are its content.
        self._on_page.update(f"grid of {page.pixels.shape}".encode())
        key = self._on_page.hexdigest()
        self._on_page = hashlib.sha256()
        if self.work.find(key):
            return
        pixels, read_back = self._marked(page.pixels, "the grid")
        record = new_record(
            grid=self.settings.model_dump(mode="json"),
            page=page.number,
            job=page.first.model_dump(mode="json"),
            watermark=read_back,
        )
        data = encode(pixels, record, a1111.write(page.first), self.settings.format)
        path = self.folder.save_grid(data, self.work.name(key), key=key, page=page.number, watermark=read_back)
        self.watch.saved(path, record)

    def _safety(self, verdict: safety.SafetyVerdict) -> dict[str, Any]:
        """What a record says of the safety check: who looked, what it found, and what was done about it."""
        done = self.settings.on_unsafe if verdict.flagged else None
        source = self.checker.source if self.checker else ""
        return dataclasses.asdict(verdict) | {"source": source, "done": done}

    def _marked(self, pixels: NDArray[Any], what: str) -> tuple[NDArray[Any], dict[str, Any] | None]:
        """The image with its mark, and how the mark reads back from a file of the run's format."""
        mark = self.run.mark(*pixels.shape[:2])
        if mark is None:
            return pixels, None
        pixels = watermark.write(pixels, mark)
        read = watermark.check(stored(pixels, self.settings.format), mark)
        if not read.found:
            self.watch.note(
                f"the watermark of {what} does not read back: {read.wrong_bits} of {read.bits} bits are wrong"
            )
        return pixels, dataclasses.asdict(read)


def _new_file(path: Path, data: bytes) -> Path:
    """Write a file that was not there.

    Raises:
        OutputError: it cannot be written, or has come to be there.
    """
    try:
        with written_aside(data, path.absolute().parent) as aside:
            claim(aside, path)
    except OSError as error:
        raise cannot_write(path, error, "--output") from error
    return path
