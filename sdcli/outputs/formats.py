"""Image files that contain their record, one `Format` for each format.

Every format contains the same two texts: sdcli's record as JSON, and the `parameters` text that other tools read.
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

from sdcli.errors import InputFileError, OutputError
from sdcli.metadata import texts
from sdcli.registry import FORMATS
from sdcli.version import VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Encode = Callable[[Image.Image, Mapping[str, Any], str], bytes]

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        suffixes: the suffixes that name it; files get the first.
        lossless: whether the pixels are read back unchanged.
        encode: from an image, its record and the `parameters` text to a file.
        title: the name that Pillow gives it when it opens such a file.
    """

    suffixes: tuple[str, ...]
    lossless: bool
    encode: Encode
    title: str

    @property
    def suffix(self) -> str:
        """The suffix of new files."""
        return self.suffixes[0]


def encode(pixels: NDArray[np.uint8], record: Mapping[str, Any], parameters: str, format: str = "png") -> bytes:
    """A file of RGB pixels, (height, width, 3), that contains its record and the `parameters` text.

    Raises:
        OutputError: the prompt is too long for the format, or the image too large.
    """
    from PIL import Image

    try:
        encoded: bytes = FORMATS[format].encode(Image.fromarray(pixels), record, parameters)
    except (ValueError, OSError) as error:  # Pillow's errors for both
        raise OutputError(
            f"the image or its record does not fit into a {format.upper()} file",
            why=f"{error}.",
            fix="Pass --format png.",
        ) from error
    return encoded


def require_room(height: int, width: int, prompt: str, negative_prompt: str, format: str) -> None:
    """Check that an image of this size, in pixels, can be saved with these prompts.

    Raises:
        OutputError: the prompt is too long for the format, or the image too large.
    """
    import numpy as np

    # A record contains a prompt that is too long for the model twice; the rest of it is short.
    record = {"job": [prompt, negative_prompt], "words_cut": prompt, "rest": " " * 4096}
    encode(np.zeros((height, width, 3), dtype=np.uint8), record, f"{prompt}{negative_prompt}{' ' * 1024}", format)


def as_saved(pixels: NDArray[np.uint8], format: str) -> NDArray[np.uint8]:
    """The pixels as they are read back from a file of this format: the same, unless it is lossy."""
    if FORMATS[format].lossless:
        return pixels
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(FORMATS[format].encode(Image.fromarray(pixels), {}, ""))) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image of any format, decoded.

    Raises:
        InputFileError: the file does not exist or is not an image.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images; images that are too large raise an error
            image = Image.open(path)
            try:
                image.load()
            except BaseException:
                image.close()
                raise
    # Pillow's decoders have no error class of their own: a damaged file can raise any of these.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputFileError(
            f"cannot read the image {path}", why=f"{why}.", fix="Pass an image file, such as PNG, JPEG or WebP."
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
    # Without chroma subsampling (4:4:4): the watermark is in the colours.
    return _saved(image, "JPEG", quality=JPEG_QUALITY, subsampling=0, **_exif_and_xmp(record, parameters))


def _webp(image: Image.Image, record: Mapping[str, Any], parameters: str) -> bytes:
    # Lossless, and still smaller than PNG; lossy WebP always subsamples the colours.
    return _saved(image, "WEBP", lossless=True, **_exif_and_xmp(record, parameters))


def _exif_and_xmp(record: Mapping[str, Any], parameters: str) -> dict[str, bytes]:
    return {"exif": texts.exif(f"sdcli {VERSION}", parameters), "xmp": texts.xmp(json.dumps(record))}


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


PNG = Format((".png",), lossless=True, encode=_png, title="PNG")
JPEG = Format((".jpg", ".jpeg"), lossless=False, encode=_jpeg, title="JPEG")
WEBP = Format((".webp",), lossless=True, encode=_webp, title="WEBP")
