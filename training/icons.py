"""Drawings as training images: read, composited on a ground."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "grey": (150, 150, 150),
    "black": (32, 32, 36),
    "red": (214, 64, 64),
    "orange": (240, 150, 60),
    "yellow": (242, 214, 80),
    "green": (92, 178, 96),
    "blue": (74, 134, 226),
    "purple": (146, 96, 206),
    "pink": (240, 160, 196),
    "brown": (140, 100, 70),
}
"""Ground colours by name, RGB 0-255. The first is the ground where none is named: off-white, since the invisible
watermark needs head-room below 255."""

TINTS = ((245, 225, 190), (196, 220, 245), (200, 236, 200), (245, 204, 220))
"""Pale grounds, RGB 0-255, that a thing alone may have where nothing is said of the ground: so that another seed draws
another image.

It is the ground that differs, since the text encoder tells one place for a thing: drawings that were moved about, by
chance or to four corners, came out crooked after an hour's training, a part of the thing here and another there.
"""

CORNERS = ((-1, -1), (1, -1), (-1, 1), (1, 1))
"""Where one of two things may be moved to, across and down, in sixteenths of its half of the image."""

VARIANTS = 8
"""Images of a drawing that training may see, at most: as it is on the default ground and on three colours, and one
for each of `TINTS`, or of `CORNERS`."""

PLAIN_VARIANTS = range(0, VARIANTS, 2)
"""The variants of a drawing that show it as it is, on the default ground and on coloured ones."""

OUTLINE_INKS = ((36, 36, 40), (245, 245, 245))
"""Ink of the "outlined" style on light grounds and on dark ones."""

VALIDATION_SHARE = 0.05
"""Share of the drawings whose images the VAE never sees; its PSNR is measured on them."""

HELD_OUT_SHARE = 0.06
"""Share of the drawings, other than those of the default style, that the UNet and the text encoder never see: the
concept is known from its other styles, the style from other concepts, the two together must be worked out."""


def _share(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32


@dataclass(frozen=True)
class Icon:
    """One drawing of one concept in one style.

    Attributes:
        key: `style/hexcode`, unique; the augmentation's randomness and the held-out splits follow from it.
        path: an RGBAn image, square.
        label: the concept, in emojibase's words.
        style: a key of `sources.STYLES`.
        words: plain names of the concept, the one used most first; no two concepts share one.
        tags: further words that go with it.
        colour: the colour of most of it, where one has most of it and the names say none.
        weight: how often the UNet's training sees it, relative to the others.
    """

    key: str
    path: Path
    label: str
    style: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    colour: str | None
    weight: float

    @property
    def vae_held_out(self) -> bool:
        """Whether the VAE's training leaves this drawing out."""
        return _share(self.key) < VALIDATION_SHARE

    @property
    def pair_held_out(self) -> bool:
        """Whether the training of UNet and text encoder leaves this pair of style and concept out."""
        return self.style != "3d" and _share(f"pair {self.key}") < HELD_OUT_SHARE


def ground_of(key: str, variant: int) -> str:
    """The ground of a variant of a drawing: the default one, or for plain ones after the first a colour by chance."""
    if not variant or variant not in PLAIN_VARIANTS:
        return next(iter(GROUNDS))
    names = list(GROUNDS)[1:]
    return names[zlib.crc32(f"{key} ground {variant}".encode()) % len(names)]


def read_icon(path: Path) -> Image.Image:
    """The drawing as premultiplied RGBA ("RGBa"), so that turning it leaves no dark rim."""
    with Image.open(path) as image:
        return image.convert("RGBA").convert("RGBa")


def inked(drawing: Image.Image, ground: str) -> Image.Image:
    """An "outlined" drawing ("RGBa") in the ink that shows on this ground."""
    light = sum(GROUNDS[ground]) / 3 > 110
    ink = OUTLINE_INKS[0 if light else 1]
    alpha = drawing.getchannel("a")
    return Image.merge(
        "RGBa", [*(alpha.point([round(value * part / 255) for value in range(256)]) for part in ink), alpha]
    )


def render(icon: Icon, drawing: Image.Image, variant: int, size: int, *, margin: int = 0) -> NDArray[np.uint8]:
    """One training image of a drawing: as it is, on a tint, or, with a margin, moved a little.

    The same icon, variant and size give the same image on every machine.

    Args:
        drawing: from `read_icon`.
        variant: one of `PLAIN_VARIANTS` for the drawing as it is, any other number for one of `TINTS` or `CORNERS`.
        size: edge in pixels.
        margin: further pixels of ground on each side, for what stands beside another: it fills its `size` more.

    Returns:
        RGB, `(size + 2 margin, size + 2 margin, 3)`, 0-255.
    """
    scale = 0.95 if margin else 0.9
    ground = ground_of(icon.key, variant)
    colour, (across, down) = GROUNDS[ground], (0, 0)
    if variant not in PLAIN_VARIANTS:
        which = (zlib.crc32(icon.key.encode()) + variant // 2) % len(TINTS)
        if margin:
            across, down = CORNERS[which]
        else:
            colour = TINTS[which]
    edge = round(size * scale)
    if icon.style == "outlined":
        drawing = inked(drawing, ground)
    small = drawing.resize((edge, edge), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGBA")
    image = Image.new("RGB", (size + 2 * margin, size + 2 * margin), colour)
    left, top = (margin + round((size - edge) / 2) + step * (size // 16) for step in (across, down))
    image.paste(small, (left, top), small)
    return np.asarray(image)
