"""Reads a text that is hidden in the least significant bits of the pixels, column by column.

NovelAI writes its texts there as JSON, extensions of AUTOMATIC1111's web UI their `parameters` text. A signature of 15
bytes is followed by the number of bits, in 32 bits, and the text in UTF-8, which may be compressed.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from sdcli.json_text import read_object
from sdcli.metadata.texts import PARAMETERS_KEY, graphs

if TYPE_CHECKING:
    from PIL import Image

# By signature: the channels, and whether the text is compressed.
SIGNATURES = {
    b"stealth_pnginfo": ("A", False),
    b"stealth_pngcomp": ("A", True),
    b"stealth_rgbinfo": ("RGB", False),
    b"stealth_rgbcomp": ("RGB", True),
}
CHANNELS = {"RGBA": ("A", "RGB"), "LA": ("A",), "RGB": ("RGB",)}
"""The channels that can hide a text, by the mode of the image."""
LONGEST = 1_000_000
"""Bytes of a text, compressed or not, that are read."""
MOST_PIXELS = 50_000_000
"""Pixels of the largest image that is decoded to look for a text."""
LOSSLESS = ("PNG", "WEBP")
_START = 15 + 4
_GZIP = 31
# The texts of NovelAI, which are the names in the JSON.
_NAMES = ("Title", "Description", "Software", "Source", "Comment")


def texts(image: Image.Image) -> dict[str, str]:
    """Returns the hidden text of an image under the names that its parts have in a file; none if there is no such text.

    Decodes the pixels, if the format and the mode can hide a text.
    """
    if image.format not in LOSSLESS or image.width * image.height > MOST_PIXELS:
        return {}
    hidden = ""
    # Pillow's decoders raise errors of any type for damaged pixels.
    with suppress(Exception):
        hidden = text(image)
    content = read_object(hidden) or {}
    named = {name: content[name] for name in _NAMES if name in content}
    if "Comment" in named:
        return {name: each if isinstance(each, str) else json.dumps(each) for name, each in named.items()}
    return dict(graphs(hidden)) or ({PARAMETERS_KEY: hidden} if hidden else {})


def text(image: Image.Image) -> str:
    """Returns the text in the pixels of an image; empty if there is none, or if it is damaged or too long."""
    for channels in CHANNELS.get(image.mode, ()):
        start = _bytes(image, channels, _START)
        signature = SIGNATURES.get(start[:15])
        if signature is None or signature[0] != channels or len(start) < _START:
            continue
        length = int.from_bytes(start[15:], "big") // 8
        data = _bytes(image, channels, _START + length)[_START:] if length <= LONGEST else b""
        if len(data) < length:
            return ""
        try:
            return (_decompressed(data) if signature[1] else data).decode()
        except (zlib.error, UnicodeDecodeError):
            return ""
    return ""


def _bytes(image: Image.Image, channels: str, count: int) -> bytes:
    """Returns so many bytes from the start of the pixels, or fewer if the image is too small."""
    import numpy as np

    columns = min(-(-count * 8 // (image.height * len(channels))), image.width)
    area = image.crop((0, 0, columns, image.height))
    values = np.asarray(area.getchannel("A") if channels == "A" else area)[..., None].reshape(image.height, columns, -1)
    bits = values[..., : len(channels)].swapaxes(0, 1).reshape(-1) & 1
    return np.packbits(bits[: min(count, len(bits) // 8) * 8]).tobytes()


def _decompressed(data: bytes) -> bytes:
    decompressor = zlib.decompressobj(_GZIP)
    found = decompressor.decompress(data, LONGEST)
    # A few kilobytes can decompress to gigabytes.
    return found if decompressor.eof else b""
