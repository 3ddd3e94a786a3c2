"""What a run tells those who watch it; this one does nothing with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Watch:
    """Override what is of interest. Called in the order in which things happen."""

    def planned(self, images: int | None, model: str, compute: str) -> None:
        """Everything that could be checked is, and so many images come; None: as many as a stream brings."""

    def loading(self, part: str) -> None:
        """A part of the model begins to load."""

    def drawing(self, images: int, evaluations: int) -> None:
        """A batch of so many images begins, each taking so many evaluations of the model."""

    def step(self) -> None:
        """One evaluation of the batch is done."""

    def drawn(self, images: int) -> None:
        """A batch is done."""

    def saved(self, path: Path, record: dict[str, Any]) -> None:
        """An image, or the grid, is on disk, complete."""

    def output(self, data: bytes) -> None:
        """An image's file, for standard output."""

    def note(self, text: str) -> None:
        """Something that a person should know."""
