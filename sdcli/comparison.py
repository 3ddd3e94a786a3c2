"""How far two images are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAME_FROM = 40.0
"""PSNR in dB from which two images count as the same. Rounding, on another device or in another batch, stays above it."""


@dataclass(frozen=True)
class Comparison:
    """The difference between two images of one size.

    Attributes:
        psnr: peak signal-to-noise ratio over all pixels and channels, in dB; infinite for identical images.
        largest_difference: of one channel of one pixel, 0 to 255.
    """

    psnr: float
    largest_difference: int

    @property
    def identical(self) -> bool:
        return self.largest_difference == 0

    @property
    def same(self) -> bool:
        """Whether the images are the same, except for rounding."""
        return self.psnr >= SAME_FROM


def compare(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Comparison:
    """Compare two images of the same size, (height, width, 3)."""
    import numpy as np

    difference = first.astype(np.float64) - second
    error = float(np.mean(difference**2))
    psnr = 10 * math.log10(255**2 / error) if error else math.inf
    return Comparison(psnr, int(np.abs(difference).max()))
