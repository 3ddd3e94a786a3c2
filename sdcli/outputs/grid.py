"""All images of a run side by side, as the original lays them out; long runs in pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdcli.jobs import Job

PIXELS = 2**24
"""The most that a page holds, 4096 x 4096: its mark is written in up to 100 bytes a pixel."""
HEIGHT = 16_383
"""The highest page, in pixels; past it viewers, and WebP, fail."""
_PADDING = 2


@dataclass(frozen=True)
class Page:
    """A finished sheet of images."""

    number: int
    """Its place among the run's pages, from 0."""
    first: Job
    """The job of its first image."""
    pixels: NDArray[np.uint8]
    """(height, width, 3)."""


class Grid:
    """Images in rows, with 2 black pixels around and between, cut into pages of whole rows.

    Only the page being filled is kept. A run that fits on one page gives the original's grid.

    Args:
        per_row: images in a row; fewer where a row of so many would be more than a page.
        total: the most images there will be.
    """

    def __init__(self, per_row: int, total: int) -> None:
        self.per_row = per_row
        self.total = total
        self.pages = 0
        self.filled = 0
        self.first: Job | None = None

    def add(self, job: Job, image: NDArray[np.uint8]) -> Page | None:
        """Put the next image, (height, width, 3), in its place; the page, if that fills it.

        One of another size than the page's first is made to fit, with black where it leaves room.
        """
        if self.first is None:
            self._begin(job, *image.shape[:2])
        image = _fitted(image, self.cell_height - _PADDING, self.cell_width - _PADDING)
        row, column = divmod(self.filled, self.columns)
        top, left = row * self.cell_height + _PADDING, column * self.cell_width + _PADDING
        self.sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        self.filled += 1
        return self.rest() if self.filled == self.rows * self.columns else None

    def rest(self) -> Page | None:
        """The page begun and not yet full, cut to what it holds; None if there is no such page."""
        if self.first is None:
            return None
        height = math.ceil(self.filled / self.columns) * self.cell_height + _PADDING
        width = min(self.filled, self.columns) * self.cell_width + _PADDING
        page = Page(self.pages, self.first, np.ascontiguousarray(self.sheet[:height, :width]))
        del self.sheet
        self.first = None
        self.pages += 1
        self.total -= self.filled
        return page

    def _begin(self, first: Job, height: int, width: int) -> None:
        self.first, self.filled = first, 0
        self.cell_height, self.cell_width = height + _PADDING, width + _PADDING
        cell = self.cell_height * self.cell_width
        self.columns = max(1, min(self.per_row, self.total, PIXELS // cell))
        at_most = max(1, min(PIXELS // (cell * self.columns), (HEIGHT - _PADDING) // self.cell_height))
        self.rows = min(at_most, math.ceil(self.total / self.columns))
        shape = (self.rows * self.cell_height + _PADDING, self.columns * self.cell_width + _PADDING, 3)
        self.sheet = np.zeros(shape, dtype=np.uint8)


def _fitted(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image at its own proportions in the middle of so many black pixels."""
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.pad(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS))
