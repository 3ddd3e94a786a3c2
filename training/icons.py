"""Drawings as training images: reading, and compositing on a background."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
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
"""Background colours by name, RGB 0-255. The first is the default. It is off-white, since the invisible watermark needs
headroom below 255."""

TINTS = ((245, 225, 190), (196, 220, 245), (200, 236, 200), (245, 204, 220))
"""Pale backgrounds, RGB 0-255, of single objects whose caption names no background: they make the seed matter.

The background varies and not the position, since the text encoder predicts one position for a single object. When the
position was random, or one of four corners, the objects were deformed after an hour of training."""

CORNERS = ((-1, -1), (1, -1), (-1, 1), (1, 1))
"""Offsets of an object in an image of two: right and down, in sixteenths of its half of the image."""

VARIANTS = 8
"""Maximum number of training images per drawing: the plain one on the default background and on three colours, and one
for each of `TINTS` (or of `CORNERS`)."""

PLAIN_VARIANTS = range(0, VARIANTS, 2)
"""Variants that show the drawing unchanged, on the default background and on coloured ones."""

OUTLINE_INKS = ((36, 36, 40), (245, 245, 245))
"""Ink of the "outlined" style on light backgrounds and on dark ones."""

VALIDATION_SHARE = 0.05
"""Fraction of the drawings that the VAE is validated on (PSNR) instead of trained."""

HELD_OUT_SHARE = 0.06
"""Fraction of the drawings, except those of the default style, that the UNet and the text encoder are not trained on.
They test generalisation: the concept is known from other styles, and the style from other concepts."""


def fraction_of(text: str) -> float:
    """Returns a pseudo-random number in [0, 1) that depends on the text only."""
    return zlib.crc32(text.encode()) / 2**32


@dataclass(frozen=True)
class Icon:
    """One drawing of one concept in one style.

    Attributes:
        key: `style/hexcode`, unique. The augmentation and the held-out splits depend on it.
        path: image file, RGBA, square.
        label: the concept; a label of emojibase.
        style: a key of `sources.STYLES`.
        words: names of the concept, most common first; each name belongs to one concept only.
        tags: further words for the captions.
        colour: the dominant colour; None if there is none, or if the names contain a colour.
        weight: relative frequency in the training of the UNet.
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
        """Whether the drawing is in the validation set of the VAE."""
        return fraction_of(self.key) < VALIDATION_SHARE

    @property
    def style_held_out(self) -> bool:
        """Whether the UNet and the text encoder are not trained on this combination of concept and style."""
        return self.style != "3d" and fraction_of(f"pair {self.key}") < HELD_OUT_SHARE


def background_of(key: str, variant: int) -> str:
    """Name of the background of a variant: a pseudo-random colour for plain variants after the first, else the
    default.
    """
    if not variant or variant not in PLAIN_VARIANTS:
        return next(iter(BACKGROUNDS))
    names = list(BACKGROUNDS)[1:]
    return names[zlib.crc32(f"{key} ground {variant}".encode()) % len(names)]


def read_icon(path: Path) -> Image.Image:
    """Reads a drawing as premultiplied RGBA ("RGBa"), which has no dark fringes when it is resampled."""
    with Image.open(path) as image:
        return image.convert("RGBA").convert("RGBa")


def inked(drawing: Image.Image, background: str) -> Image.Image:
    """Colours an "outlined" drawing ("RGBa") with the ink that contrasts with the background."""
    light = sum(BACKGROUNDS[background]) / 3 > 110
    ink = OUTLINE_INKS[0 if light else 1]
    alpha = drawing.getchannel("a")
    return Image.merge(
        "RGBa", [*(alpha.point([round(value * part / 255) for value in range(256)]) for part in ink), alpha]
    )


def render(icon: Icon, drawing: Image.Image, variant: int, size: int, *, margin: int = 0) -> NDArray[np.uint8]:
    """Renders one training image of a drawing: plain, on a tint, or, with a margin, shifted.

    The result depends on the icon, variant and size only.

    Args:
        drawing: from `read_icon`.
        variant: one of `PLAIN_VARIANTS` for the plain drawing, any other number for one of `TINTS` or `CORNERS`.
        size: edge in pixels, without the margin.
        margin: width in pixels of the background added on each side. A drawing with a margin is one of two objects in
            an image, and is larger relative to `size`.

    Returns:
        RGB, `(size + 2 margin, size + 2 margin, 3)`, 0-255.
    """
    scale = 0.95 if margin else 0.9
    background = background_of(icon.key, variant)
    colour, (across, down) = BACKGROUNDS[background], (0, 0)
    if variant not in PLAIN_VARIANTS:
        which = (zlib.crc32(icon.key.encode()) + variant // 2) % len(TINTS)
        if margin:
            across, down = CORNERS[which]
        else:
            colour = TINTS[which]
    edge = round(size * scale)
    if icon.style == "outlined":
        drawing = inked(drawing, background)
    small = drawing.resize((edge, edge), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGBA")
    image = Image.new("RGB", (size + 2 * margin, size + 2 * margin), colour)
    left, top = (margin + round((size - edge) / 2) + step * (size // 16) for step in (across, down))
    image.paste(small, (left, top), small)
    return np.asarray(image)
