"""From settings to pictures: the whole way, and the library's front door."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli import models, prompts
from sdcli.errors import WithheldError
from sdcli.jobs import Job, plan, size
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.formats import FORMATS, encode, require_room, stored
from sdcli.outputs.gallery import Gallery
from sdcli.outputs.grid import Grid, Page
from sdcli.outputs.metadata import a1111
from sdcli.outputs.record import asked, new_record
from sdcli.samplers import SAMPLERS
from sdcli.settings import ImageFormat, Settings
from sdcli.stages import safety, watermark
from sdcli.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_LESS_MEMORY = "Give a smaller --n_samples, --H or --W, or --device cpu."


@dataclass(frozen=True)
class Picture:
    """One finished picture."""

    pixels: NDArray[Any]
    """RGB, uint8, (height, width, 3), with its watermark."""
    job: Job
    record: dict[str, Any]
    """How it was made: what its file carries."""
    path: Path | None
    """Where it is saved, if it is."""

    @property
    def image(self) -> Image:
        """The picture for Pillow."""
        from PIL import Image

        return Image.fromarray(self.pixels)


def txt2img(
    prompt: str, *, outdir: str | Path | None = None, watch: Watch | None = None, **settings: Any
) -> list[Picture]:
    """Draw a prompt, as `sdcli txt2img` does with the same settings; those of files and the environment do not count.

    Args:
        prompt: the words to draw.
        outdir: where to save pictures and grid; by default nothing is written.
        watch: is told of the progress.
        settings: any of `sdcli.settings.Settings`, by name: steps, sampler, scale, seed, height, width, n_samples...

    Raises:
        sdcli.errors.SdcliError: each with what failed, why, and what to do.
    """
    where = {"skip_save": True, "skip_grid": True} if outdir is None else {"outdir": str(outdir)}
    return list(draw(Settings.of(prompt=prompt, **(where | settings)), watch or Watch()))


def draw(settings: Settings, watch: Watch, plan_jobs: Callable[..., Iterator[list[Job]]] = plan) -> Iterator[Picture]:
    """Draw a run's pictures in order, each saved before it is handed over; each page of the grid once it is full.

    Args:
        settings: the run.
        watch: is told of the progress.
        plan_jobs: makes the jobs, as `jobs.plan` does from the same arguments.

    Raises:
        sdcli.errors.SdcliError: whatever can be known before the model loads is raised before it does.
    """
    # 1. Refuse what can be refused before anything heavy loads.
    one_pass = prompts.read(settings)
    total = len(one_pass) * settings.n_iter
    source = models.find_for(settings)
    spec = source.spec
    height, width = size(settings, spec)
    sampler = SAMPLERS[settings.sampler]
    sampler.check(settings.steps, spec.schedule)
    mark = _mark(settings, spec.watermark_method, height, width)
    if mark:
        watermark.require_library()
    require_room(height, width, max(one_pass, key=len), settings.negative_prompt, settings.format)
    folder = _folder(settings)
    from sdcli import devices
    from sdcli.generate import generate
    from sdcli.text import words_cut

    compute = devices.choose(settings.device, settings.precision)
    checker = safety.find_checker(
        settings.safety_checker,
        model_folder=source.safety_checker(download=settings.safety_checker == "clip"),
        safety_model=settings.safety_model,
        offline=settings.offline,
        device=compute.device,
        nsfw_threshold=settings.nsfw_threshold,
    )
    watch.planned(total, spec.name, str(compute))
    for note in (mark.note if mark else "", "" if checker else "the safety checker is off"):
        if note:
            watch.note(note)

    # 2. Load.
    with devices.memory_errors(_LESS_MEMORY):
        model = source.load(compute.device, watch.loading)
        if checker:
            checker.load()
    watch.loading("checksum")
    plans = plan_jobs(one_pass, settings, spec, source.hash(), sampler.draws(settings.steps, spec.schedule))

    # 3. Draw, batch by batch.
    withheld = 0
    grid = None if settings.skip_grid else Grid(settings.n_rows if settings.n_rows > 0 else settings.n_samples, total)
    gallery = Gallery(folder.new_gallery(), settings, spec.name) if folder and settings.gallery else None
    if gallery:
        watch.note(f"the gallery is {gallery.path}")
    cut: set[str] = set()
    for jobs in plans:
        for prompt in {text for job in jobs for text in (job.prompt, job.negative_prompt)} - cut:
            if words := words_cut(model, prompt):
                cut.add(prompt)
                watch.note(f"the prompt is longer than the model reads; not drawn: {words}")
        with devices.memory_errors(_LESS_MEMORY):
            pictures, precision = generate(model, jobs, compute, watch)
            verdicts = checker.check(pictures) if checker else [None] * len(jobs)
        for job, picture, verdict in zip(jobs, pictures, verdicts, strict=True):
            if verdict is not None and verdict.flagged:
                watch.note(f"picture {job.index + 1} is unsafe by {verdict.checker}: --on-unsafe {settings.on_unsafe}")
                withheld += settings.on_unsafe != "keep"
                if (stand_in := safety.withhold(picture, settings.on_unsafe)) is None:
                    continue
                picture = stand_in
            # The original cuts the fraction off rather than rounding.
            pixels = (picture * 255).astype("uint8")
            unmarked = pixels
            pixels, read_back = _marked(pixels, mark, settings.format, f"picture {job.index + 1}", watch)
            record = new_record(
                words_cut=words_cut(model, job.prompt) or None,
                job=job.model_dump(mode="json"),
                settings=asked(settings),
                safety=_safety(checker, verdict, settings.on_unsafe) if checker and verdict else None,
                watermark=read_back,
                device=str(compute.device),
                precision=precision,
            )
            path = None
            if folder and not settings.skip_save:
                path = folder.save_sample(encode(pixels, record, a1111.write(job), settings.format))
                watch.saved(path, record)
            if gallery:
                gallery.add(pixels, job, record, path)
            yield Picture(pixels, job, record, path)
            if folder and grid:
                _save_page(grid.add(job, unmarked), settings, spec.watermark_method, folder, watch)
        watch.drawn(len(jobs))

    # 4. The grid of them all, or what is left for its last page.
    if folder and grid:
        _save_page(grid.rest(), settings, spec.watermark_method, folder, watch)
    if gallery:
        gallery.finish()
    if withheld == total:
        raise WithheldError(
            "every picture was withheld by the safety checker",
            fix="Try another prompt or seed, or see --safety-checker and --on-unsafe.",
        )


def _save_page(page: Page | None, settings: Settings, method: str, folder: OutputFolder, watch: Watch) -> None:
    """Write a page of the grid, if there is one, with a mark of its own."""
    if page is None:
        return
    pixels = page.pixels
    mark = _mark(settings, method, pixels.shape[0], pixels.shape[1])
    pixels, read_back = _marked(pixels, mark, settings.format, "the grid", watch)
    record = new_record(
        grid=settings.model_dump(mode="json"),
        page=page.number,
        job=page.first.model_dump(mode="json"),
        watermark=read_back,
    )
    watch.saved(folder.save_grid(encode(pixels, record, a1111.write(page.first), settings.format)), record)


def _folder(settings: Settings) -> OutputFolder | None:
    """Where the run's files go, if it writes any."""
    if settings.skip_save and settings.skip_grid and not settings.gallery:
        return None
    return OutputFolder(Path(settings.outdir), FORMATS[settings.format].suffix)


def _safety(checker: safety.SafetyChecker, verdict: safety.SafetyVerdict, on_unsafe: str) -> dict[str, Any]:
    """What a record says of the safety check: who looked, what it found, and what was done about it."""
    done = on_unsafe if verdict.flagged else None
    return dataclasses.asdict(verdict) | {"source": checker.source, "done": done}


def _mark(settings: Settings, method: str, height: int, width: int) -> watermark.Mark | None:
    """The watermark for a picture of this size; None with --no-watermark."""
    if settings.no_watermark:
        return None
    return watermark.choose(settings.watermark_method, method, height, width, settings.watermark)


def _marked(
    pixels: NDArray[Any], mark: watermark.Mark | None, format: ImageFormat, what: str, watch: Watch
) -> tuple[NDArray[Any], dict[str, Any] | None]:
    """The picture with its mark, and how the mark reads back from a file of this format."""
    if mark is None:
        return pixels, None
    pixels = watermark.write(pixels, mark)
    read = watermark.check(stored(pixels, format), mark)
    if not read.found:
        watch.note(f"the watermark of {what} does not read back: {read.wrong_bits} of {read.bits} bits are wrong")
    return pixels, dataclasses.asdict(read)
