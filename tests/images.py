"""How far apart two images are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def psnr(one: Path | Pixels, other: Path | Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two images, files or 8-bit pixels; inf if equal, -inf if sizes differ."""
    a, b = (_pixels(image) for image in (one, other))
    if a.shape != b.shape:
        return -math.inf
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _pixels(image: Path | Pixels) -> NDArray[np.float64]:
    if isinstance(image, Path):
        with Image.open(image) as opened:
            return np.asarray(opened.convert("RGB"), dtype=np.float64)
    return image.astype(np.float64)
