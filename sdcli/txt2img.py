"""From settings to images: the whole way, and the library's front door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sdcli.errors import SdcliError, SkippedError, WithheldError
from sdcli.events import Watch
from sdcli.executors.local import Canvas, Easel
from sdcli.jobs import Job, size
from sdcli.outputs.claims import Work
from sdcli.outputs.journal import Entry
from sdcli.outputs.writer import GeneratedImage, Saver, output_folder
from sdcli.run import Planned
from sdcli.settings import Settings
from sdcli.stages import safety

__all__ = ["GeneratedImage", "draw", "txt2img"]


def txt2img(
    prompt: str, *, outdir: str | Path | None = None, watch: Watch | None = None, **settings: Any
) -> list[GeneratedImage]:
    """Draw a prompt, as `sdcli txt2img` does with the same settings; those of files and the environment do not count.

    Args:
        prompt: the words to draw.
        outdir: where to save images and grid; by default nothing is written.
        watch: is told of the progress.
        settings: any of `sdcli.settings.Settings`, by name: steps, sampler, scale, seed, height, width, n_samples...

    Raises:
        sdcli.errors.SdcliError: each with what failed, why, and what to do.
    """
    where = {"skip_save": True, "skip_grid": True} if outdir is None else {"outdir": str(outdir)}
    return list(draw(Settings.of(prompt=prompt, **(where | settings)), watch or Watch()))


def draw(
    settings: Settings, watch: Watch, *, change: Callable[[Job], Job] = lambda job: job, record: bool = True
) -> Iterator[GeneratedImage]:
    """Draw a run's images in order, each saved before it is handed over; each page of the grid once it is full.

    Args:
        settings: the run.
        watch: is told of the progress.
        change: makes of each job the one that is drawn.
        record: keep the run's record in the output folder.

    Raises:
        sdcli.errors.SdcliError: whatever can be known before the model loads is raised before it does.
    """
    # 1. Refuse what can be refused before anything heavy loads.
    run = Planned(settings, watch)
    from sdcli import devices

    compute = devices.choose(settings.device, settings.precision)
    checker = safety.find_checker(
        settings.safety_checker,
        model_folder=run.source.safety_checker(download=settings.safety_checker == "clip"),
        safety_model=settings.safety_model,
        offline=settings.offline,
        device=compute.device,
        nsfw_threshold=settings.nsfw_threshold,
    )
    folder = output_folder(run, str(compute), record=record)
    watch.planned(run.total, run.spec.name, str(compute))
    mark = run.mark(*size(settings, run.spec))
    for note in (mark.note if mark else "", "" if checker else "the safety checker is off"):
        if note:
            watch.note(note)

    # 2. Draw, batch by batch, what is not there yet. The model loads when the first image is to be drawn.
    easel = Easel(run, compute, checker, watch)
    work = Work(settings, folder)
    saver = Saver(run, folder, work, checker, watch)
    planned = failed = there = elsewhere = 0
    watch.loading("checksum")
    if folder:
        folder.begin()
    for jobs in run.batches():
        jobs = [change(job) for job in jobs]
        with work.taken(jobs) as taken:
            drawn: list[Canvas | SdcliError | None] = [None] * len(jobs)
            if any(state == "ours" for _, _, state in taken):
                # The whole batch, also where some is there: an image's last digits depend on how many are drawn.
                drawn = [*easel.draw(jobs)]
            else:
                watch.drawn(len(jobs))
            for (job, key, state), canvas in zip(taken, drawn, strict=True):
                planned += 1
                if isinstance(state, Entry):
                    there += 1
                    saver.add_saved(job, key, state)
                elif state == "theirs":
                    elsewhere += 1
                    saver.leave_out_the_grid()
                elif isinstance(canvas, SdcliError):
                    failed += 1
                    watch.note(f"image {job.index + 1} is left out: {canvas}")
                    saver.note("failed", job, key, error=str(canvas))
                elif canvas is not None and (image := saver.finish(job, key, canvas)) is not None:
                    yield image

    # 3. What is left for the grid's last page, and what is to be said of the whole.
    saver.close()
    if there:
        watch.note(f"{there} of {planned} images were there already")
    if elsewhere:
        watch.note(f"{elsewhere} of {planned} images were left to another process")
    if run.skipped or failed:
        raise SkippedError(run.skipped, failed)
    if saver.withheld and saver.withheld == planned:
        raise WithheldError(
            "every image was withheld by the safety checker",
            fix="Try another prompt or seed, or see --safety-checker and --on-unsafe.",
        )
