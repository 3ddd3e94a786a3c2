"""Events that report the progress of a run. Whoever listens is a `Progress`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run is valid. `images` is None if a stream decides how many there are."""

    images: int | None
    model: str
    device: str


@dataclass(frozen=True)
class Loading:
    """A part of the model starts to load, or its checksum to be computed."""

    part: str


@dataclass(frozen=True)
class BatchStarted:
    """A batch starts. It takes `evaluations` evaluations of the model."""

    images: int
    evaluations: int


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


Event = Started | Loading | BatchStarted | StepDone | BatchDone | Saved | Output | Note
Progress = Callable[[Event], None]
"""Called with every event, in order."""


def ignore(event: Event) -> None:
    """A `Progress` that does nothing."""
