"""From settings to saved images: the whole way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sdcli.events import Note, Progress, Started, ignore
from sdcli.executors import Executor
from sdcli.images import GeneratedImage
from sdcli.jobs import Job
from sdcli.models.model import ModelSource
from sdcli.outputs.writer import Writer
from sdcli.registry import EXECUTORS
from sdcli.run import Run
from sdcli.settings import Settings


def generate(
    settings: Settings, progress: Progress = ignore, source: ModelSource | None = None
) -> Iterator[GeneratedImage]:
    """Generate the images of a run, in order. Each is saved before it is yielded.

    Args:
        settings: the settings of the run.
        progress: receives the events of the run.
        source: the model, if it is already found.

    Raises:
        sdcli.errors.SdcliError: whatever can be known before the model loads is raised before it does.
    """
    return execute(Run(settings, progress, source), progress)


def execute(
    run: Run, progress: Progress, *, batches: Iterable[list[Job]] | None = None, journal: bool = True
) -> Iterator[GeneratedImage]:
    """Generate the images of a valid run; see `generate`.

    Args:
        run: the run.
        progress: receives the events of the run.
        batches: the jobs; by default those of the run.
        journal: whether the output folder gets a journal.
    """
    settings = run.settings
    executor: Executor = EXECUTORS[settings.executor](
        run.source,
        device=settings.device,
        precision=settings.precision,
        on_error=settings.on_error,
        progress=progress,
    )
    notes = run.stages.prepare(executor.device)
    writer = Writer(
        settings,
        run.stages,
        model=run.spec.name,
        total=run.total,
        device=executor.description,
        progress=progress,
        journal=journal,
    )
    whole = batches is None
    missing = writer.missing(run.batches(report=False)) if whole and run.total is not None else None
    how, count = (run.counts.in_words(), run.counts.batches) if whole and run.counts else ("", None)
    progress(Started(run.total, run.spec.name, executor.description, how, count, missing))
    for note in [*run.notes, *notes]:
        progress(Note(note))

    jobs = writer.unfinished(run.batches() if batches is None else batches)
    with writer:
        for batch in executor.map(run.stages.loaded(jobs)):
            for result in run.stages.apply(batch):
                if (image := writer.save(result)) is not None:
                    yield image
    writer.close(run.skipped)
