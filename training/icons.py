"""Icons as training pictures: read, moved about a little, composited on the ground colour."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GROUND = (245, 245, 245)
"""Ground colour, RGB 0-255: off-white, since the invisible watermark needs head-room below 255."""

VALIDATION_SHARE = 0.05
"""Share of the concepts whose pictures the VAE never sees; its PSNR is measured on them."""


@dataclass(frozen=True)
class Icon:
    """One drawing of one concept in one style.

    Attributes:
        key: `style/name`, unique; the augmentation's randomness and the held-out split follow from it.
        path: an RGBA picture, square.
        captions: what the drawing may be called, each with its weight; weights sum to 1.
        weight: how often the UNet's training sees it, relative to the others.
    """

    key: str
    path: Path
    label: str
    style: str
    captions: tuple[tuple[str, float], ...]
    weight: float

    @property
    def held_out(self) -> bool:
        """Whether the VAE's training leaves this icon out (the UNet's never does: it must know every concept)."""
        return zlib.crc32(self.key.encode()) / 2**32 < VALIDATION_SHARE


def read_icon(path: Path) -> Image.Image:
    """The drawing as premultiplied RGBA ("RGBa"), so that turning it leaves no dark rim."""
    with Image.open(path) as picture:
        return picture.convert("RGBA").convert("RGBa")


def render(drawing: Image.Image, key: str, variant: int, size: int) -> NDArray[np.uint8]:
    """One training picture of a drawing: scaled, turned, moved, sometimes mirrored, on the ground.

    The same key, variant and size give the same picture on every machine.

    Args:
        drawing: from `read_icon`.
        key: the icon's.
        variant: 0 for the plain drawing, any other number for a moved one.
        size: edge in pixels.

    Returns:
        RGB, `(size, size, 3)`, 0-255.
    """
    random = np.random.default_rng([zlib.crc32(key.encode()), variant])
    scale, angle, mirrored = 0.9, 0.0, False
    across, down = 0.5, 0.5
    if variant:
        scale = random.uniform(0.78, 0.96)
        angle = random.normal(0.0, 4.0)
        mirrored = random.random() < 0.3
        across, down = random.uniform(0.1, 0.9, 2)
    edge = round(size * scale)
    if mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        drawing = drawing.rotate(angle, Image.Resampling.BICUBIC)
    small = drawing.resize((edge, edge), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGBA")
    picture = Image.new("RGB", (size, size), GROUND)
    picture.paste(small, (round((size - edge) * across), round((size - edge) * down)), small)
    return np.asarray(picture)
