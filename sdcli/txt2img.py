"""From settings to pictures: the whole way, and the library's front door."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli import models, prompts
from sdcli.errors import WithheldError
from sdcli.jobs import Job, plan, size
from sdcli.outputs import png
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.grid import grid
from sdcli.outputs.record import new_record
from sdcli.samplers import SAMPLERS
from sdcli.settings import Settings
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
    """How it was made: what its PNG carries under "sdcli"."""
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
    """Draw a prompt, as `sdcli txt2img` does with the same settings.

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


def draw(settings: Settings, watch: Watch) -> Iterator[Picture]:
    """Draw a run's pictures in order, each saved before it is handed over, and the grid after the last.

    Raises:
        sdcli.errors.SdcliError: whatever can be known before the model loads is raised before it does.
    """
    # 1. Refuse what can be refused before anything heavy loads.
    one_pass = prompts.read(settings)
    total = len(one_pass) * settings.n_iter
    source = models.find(
        model=settings.model,
        ckpt=settings.checkpoint,
        config=settings.config,
        revision=settings.revision,
        offline=settings.offline,
    )
    spec = source.spec
    height, width = size(settings, spec)
    sampler = SAMPLERS[settings.sampler]
    sampler.check(settings.steps, spec.schedule)
    mark = _mark(settings, spec.watermark_method, height, width)
    if mark:
        watermark.require_library()
    folder = None if settings.skip_save and settings.skip_grid else OutputFolder(Path(settings.outdir))
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
    plans = plan(one_pass, settings, spec, source.hash(), sampler.draws(settings.steps, spec.schedule))

    # 3. Draw, batch by batch.
    withheld = 0
    for_grid: list[tuple[Job, NDArray[Any]]] = []
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
            if not settings.skip_grid:
                for_grid.append((job, pixels))
            pixels, read_back = _marked(pixels, mark, f"picture {job.index + 1}", watch)
            record = new_record(
                words_cut=words_cut(model, job.prompt) or None,
                job=job.model_dump(mode="json"),
                safety=_safety(checker, verdict, settings.on_unsafe) if checker and verdict else None,
                watermark=read_back,
                device=str(compute.device),
                precision=precision,
            )
            path = None
            if folder and not settings.skip_save:
                path = folder.save_sample(png.encode(pixels, record, png.parameters(job)))
                watch.saved(path, record)
            yield Picture(pixels, job, record, path)
        watch.drawn(len(jobs))

    # 4. The grid of them all.
    if folder and for_grid:
        first = for_grid[0][0]
        sheet = grid([pixels for _, pixels in for_grid], settings.n_rows if settings.n_rows > 0 else settings.n_samples)
        sheet_mark = _mark(settings, spec.watermark_method, sheet.shape[0], sheet.shape[1])
        sheet, read_back = _marked(sheet, sheet_mark, "the grid", watch)
        record = new_record(
            grid=settings.model_dump(mode="json"), job=first.model_dump(mode="json"), watermark=read_back
        )
        watch.saved(folder.save_grid(png.encode(sheet, record, png.parameters(first))), record)
    if withheld == total:
        raise WithheldError(
            "every picture was withheld by the safety checker",
            fix="Try another prompt or seed, or see --safety-checker and --on-unsafe.",
        )


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
    pixels: NDArray[Any], mark: watermark.Mark | None, what: str, watch: Watch
) -> tuple[NDArray[Any], dict[str, Any] | None]:
    """The picture with its mark, and how the mark reads back."""
    if mark is None:
        return pixels, None
    pixels = watermark.write(pixels, mark)
    read = watermark.check(pixels, mark)
    if not read.found:
        watch.note(f"the watermark of {what} does not read back: {read.wrong_bits} of {read.bits} bits are wrong")
    return pixels, dataclasses.asdict(read)
