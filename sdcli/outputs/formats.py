"""Image files that say how they were made: one table of formats.

Every format carries the same two texts: sdcli's record as JSON, and the `parameters` that other tools read.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcli.errors import InputFileError, OutputError
from sdcli.metadata import texts
from sdcli.settings import ImageFormat
from sdcli.version import VERSION

if TYPE_CHECKING:
    from PIL import Image

    Encode = Callable[[Image.Image, Mapping[str, Any], str], bytes]

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Format:
    """How images become files: `encode` takes the image, its record and the parameters' text."""

    suffix: str
    lossless: bool
    encode: Encode


def encode(pixels: NDArray[np.uint8], record: Mapping[str, Any], parameters: str, format: ImageFormat = "png") -> bytes:
    """A file of RGB pixels (height, width, 3) that carries its record and the text form other tools read.

    Raises:
        OutputError: the format has no room for so long a prompt, or for so large an image.
    """
    from PIL import Image

    try:
        return FORMATS[format].encode(Image.fromarray(pixels), record, parameters)
    except (ValueError, OSError) as error:  # Pillow's words for both
        raise OutputError(
            f"the image or its record does not go into a {format.upper()} file",
            why=f"{error}.",
            fix="Draw with --format png.",
        ) from error


def require_room(height: int, width: int, prompt: str, negative_prompt: str, format: ImageFormat) -> None:
    """That an image of this size, in pixels, can be written with these words, before it is drawn.

    Raises:
        OutputError: the format has no room for so long a prompt, or for so large an image.
    """
    # A record tells a prompt that is too long for the model twice; the rest of it is short.
    record = {"job": [prompt, negative_prompt], "words_cut": prompt, "rest": " " * 4096}
    encode(np.zeros((height, width, 3), dtype=np.uint8), record, f"{prompt}{negative_prompt}{' ' * 1024}", format)


def stored(pixels: NDArray[np.uint8], format: ImageFormat) -> NDArray[np.uint8]:
    """The pixels as they come out of a file of this format: the same, unless it loses some."""
    if FORMATS[format].lossless:
        return pixels
    from PIL import Image

    with Image.open(io.BytesIO(FORMATS[format].encode(Image.fromarray(pixels), {}, ""))) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image of any format, decoded.

    Raises:
        InputFileError: it is missing or no image.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images; too large ones are errors
            image = Image.open(path)
            image.load()
    # Pillow's decoders have no error of their own: a broken file can raise any of these.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputFileError(
            f"cannot read the image {path}", why=f"{why}.", fix="Name PNG, JPEG or WebP files."
        ) from error
    with image:
        yield image


def _png(image: Image.Image, record: Mapping[str, Any], parameters: str) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(texts.RECORD_KEY, json.dumps(record, ensure_ascii=False))
    if parameters:
        info.add_itxt(texts.PARAMETERS_KEY, parameters)
    return _saved(image, "PNG", pnginfo=info)


def _jpeg(image: Image.Image, record: Mapping[str, Any], parameters: str) -> bytes:
    # Colours at full size (4:4:4): the watermark lives in them.
    return _saved(image, "JPEG", quality=JPEG_QUALITY, subsampling=0, **_exif_and_xmp(record, parameters))


def _webp(image: Image.Image, record: Mapping[str, Any], parameters: str) -> bytes:
    # Without loss, and still smaller than PNG; its lossy form halves the colours' size.
    return _saved(image, "WEBP", lossless=True, **_exif_and_xmp(record, parameters))


def _exif_and_xmp(record: Mapping[str, Any], parameters: str) -> dict[str, bytes]:
    return {"exif": texts.exif(f"sdcli {VERSION}", parameters), "xmp": texts.xmp(json.dumps(record))}


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


FORMATS: dict[ImageFormat, Format] = {
    "png": Format(".png", lossless=True, encode=_png),
    "jpeg": Format(".jpg", lossless=False, encode=_jpeg),
    "webp": Format(".webp", lossless=True, encode=_webp),
}
