"""Events that report the progress of a run. Whoever listens is a `Progress`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run is valid.

    Attributes:
        images: the number of images; None if a stream decides.
        model: the name of the model.
        device: the device in words.
        how: how the number comes about, such as "3 prompts x 2 iterations"; "" if there is nothing to say.
        batches: the number of batches; None if a stream decides.
        missing: with --resume, the number of images that do not exist yet; None if it is not known.
    """

    images: int | None
    model: str
    device: str
    how: str = ""
    batches: int | None = None
    missing: int | None = None


@dataclass(frozen=True)
class Phase:
    """What takes time begins, such as "importing libraries" or "loading model"."""

    name: str


@dataclass(frozen=True)
class BatchStarted:
    """A batch starts, or a part of one if memory is short.

    Attributes:
        images: the number of images.
        evaluations: how often the model is evaluated.
        number: of the batch in the run, from 1.
        why: why `evaluations` is not the number of steps; "" if it is.
    """

    images: int
    evaluations: int
    number: int = 1
    why: str = ""


@dataclass(frozen=True)
class StepDone:
    """One evaluation of a batch is done. `index` counts from 0."""

    index: int


@dataclass(frozen=True)
class BatchDone:
    """The images of a batch are generated, or found on disk."""

    images: int


@dataclass(frozen=True)
class Saved:
    """An image or a page of the grid is saved, complete. `record` is what the file says of itself, as JSON types."""

    path: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Output:
    """An image file for standard output."""

    data: bytes


@dataclass(frozen=True)
class Note:
    """A sentence that a user should read."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The run is finished.

    Attributes:
        images: images that were generated.
        place: where they are, in words, such as "in outputs/txt2img-samples".
        seeds: their seeds, each once, the first few.
        more_seeds: whether there are more.
        existing: images that existed before, with --resume.
        elsewhere: images that were left to another process.
        withheld: unsafe images of which nothing was saved.
        failed: images that could not be generated, with --on-error skip.
        skipped_rows: invalid rows of the prompt file, with --on-error skip.
    """

    images: int
    place: str = ""
    seeds: tuple[int, ...] = ()
    more_seeds: bool = False
    existing: int = 0
    elsewhere: int = 0
    withheld: int = 0
    failed: int = 0
    skipped_rows: int = 0


Event = Started | Phase | BatchStarted | StepDone | BatchDone | Saved | Output | Note | Finished
Progress = Callable[[Event], None]
"""Called with every event, in order."""


def ignore(event: Event) -> None:
    """A `Progress` that does nothing."""
