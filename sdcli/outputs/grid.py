"""All pictures of a run side by side, as the original lays them out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PADDING = 2


def grid(pictures: Sequence[NDArray[np.uint8]], per_row: int) -> NDArray[np.uint8]:
    """Pictures (height, width, 3) of one size in rows of `per_row`, with 2 black pixels around and between."""
    height, width, _ = pictures[0].shape
    columns = min(per_row, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    cell_height, cell_width = height + _PADDING, width + _PADDING
    sheet = np.zeros((rows * cell_height + _PADDING, columns * cell_width + _PADDING, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        top = index // columns * cell_height + _PADDING
        left = index % columns * cell_width + _PADDING
        sheet[top : top + height, left : left + width] = picture
    return sheet
