"""Grid of all images of a run, with the layout of the original script; a long run has several pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdcli.jobs import Job

PIXELS = 2**24
"""The most pixels of a page, 4096 x 4096, since writing its watermark takes up to 100 bytes of memory per pixel."""
HEIGHT = 16_383
"""The greatest height of a page in pixels, the limit of WebP; image viewers have similar limits."""
_PADDING = 2


@dataclass(frozen=True)
class Page:
    """A finished page of a grid.

    Attributes:
        number: the index of the page in the run, from 0.
        first: the job of the first image on the page.
        pixels: (height, width, 3), RGB.
    """

    number: int
    first: Job
    pixels: NDArray[np.uint8]


class Grid:
    """Lays images out in rows, with 2 black pixels around and between them, on pages of whole rows.

    Only the current page is kept in memory. If all images fit on one page, it equals the grid of the original script.

    Args:
        per_row: images in a row; a row has fewer if this many exceed a page.
        total: the greatest number of images that are added.
    """

    def __init__(self, per_row: int, total: int) -> None:
        self.per_row = per_row
        self.total = total
        self.pages = 0
        self.filled = 0
        self.first: Job | None = None

    def add(self, job: Job, image: NDArray[np.uint8]) -> Page | None:
        """Adds the next image.

        Args:
            job: the job of the image.
            image: (height, width, 3). If its size differs from that of the page's first image, it is scaled to fit and
                padded with black.

        Returns:
            The page if it is now full, else None.
        """
        if self.first is None:
            self._begin(job, *image.shape[:2])
        image = _fitted(image, self.cell_height - _PADDING, self.cell_width - _PADDING)
        row, column = divmod(self.filled, self.columns)
        top, left = row * self.cell_height + _PADDING, column * self.cell_width + _PADDING
        self.pixels[top : top + image.shape[0], left : left + image.shape[1]] = image
        self.filled += 1
        return self.rest() if self.filled == self.rows * self.columns else None

    def rest(self) -> Page | None:
        """Returns the current page, cropped to its images; None if it has none."""
        if self.first is None:
            return None
        height = math.ceil(self.filled / self.columns) * self.cell_height + _PADDING
        width = min(self.filled, self.columns) * self.cell_width + _PADDING
        page = Page(self.pages, self.first, np.ascontiguousarray(self.pixels[:height, :width]))
        del self.pixels
        self.first = None
        self.pages += 1
        self.total -= self.filled
        return page

    def _begin(self, first: Job, height: int, width: int) -> None:
        self.first, self.filled = first, 0
        self.cell_height, self.cell_width = height + _PADDING, width + _PADDING
        cell = self.cell_height * self.cell_width
        self.columns = max(1, min(self.per_row, self.total, PIXELS // cell))
        most_rows = max(1, min(PIXELS // (cell * self.columns), (HEIGHT - _PADDING) // self.cell_height))
        self.rows = min(most_rows, math.ceil(self.total / self.columns))
        shape = (self.rows * self.cell_height + _PADDING, self.columns * self.cell_width + _PADDING, 3)
        self.pixels = np.zeros(shape, dtype=np.uint8)


def _fitted(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scales the image to fit, keeps its aspect ratio, and centres it on black."""
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.pad(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS))
