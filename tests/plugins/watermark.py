"""A watermark method: each bit is the lowest bit of a blue value. It does not survive any change of the image.

To use it as a template: sdcli/stages/NAME.py, and a line in `sdcli.registry.WATERMARK_METHODS`.
"""

from __future__ import annotations

from sdcli.stages.watermark import Bits, Method, Pixels


def write(image: Pixels, bits: Bits) -> Pixels:
    """A copy of the image with the bits in its first pixels."""
    marked = image.copy()
    blue = marked[..., 2].ravel()
    blue[: bits.size] = blue[: bits.size] & 0xFE | bits
    marked[..., 2] = blue.reshape(marked.shape[:2])
    return marked


def read(image: Pixels, length: int) -> Bits:
    """The lowest bits of the first blue values."""
    bits: Bits = image[..., 2].ravel()[:length] & 1
    return bits


METHOD = Method(smallest=0, write=write, read=read)
