"""Image files that contain their record, one `Format` for each format.

Every format contains the same two texts: sdcli's record as JSON, and the `parameters` text that other tools read.
"""

from __future__ import annotations

import contextlib
import io
import json
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
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
    from PIL import Image, ImageCms

    Encode = Callable[[Image.Image, Mapping[str, Any], str], bytes]

JPEG_QUALITY = 95

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""The formats that are read, as Pillow names them. It would read others, EPS for example with a foreign program."""


_MULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""The modes in which the colours are multiplied by the alpha, and those without."""


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
    record = {"job": [prompt, negative_prompt], "words_cut": prompt, "reading": prompt[:4000], "rest": " " * 4096}
    # The formats limit each side, and not the number of pixels.
    for shape in ((height, 1, 3), (1, width, 3)):
        encode(np.zeros(shape, dtype=np.uint8), record, f"{prompt}{negative_prompt}{' ' * 1024}", format)


def as_saved(pixels: NDArray[np.uint8], format: str) -> NDArray[np.uint8]:
    """The pixels as they are read back from a file of this format: the same, unless it is lossy."""
    if FORMATS[format].lossless:
        return pixels
    import numpy as np
    from PIL import Image

    file = io.BytesIO(FORMATS[format].encode(Image.fromarray(pixels), {}, ""))
    with Image.open(file, formats=READABLE) as image:
        return np.asarray(image.convert("RGB"))


@contextlib.contextmanager
def opened(path: Path, *, decode: bool = True) -> Iterator[Image.Image]:
    """An image of one of the formats in `READABLE`.

    Args:
        path: the file.
        decode: whether to decode the pixels. Without them the file may be cut or damaged behind its metadata, and the
            image may have any number of pixels.

    Raises:
        InputFileError: the file does not exist, is not a regular file, or is not such an image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), texts.long_chunks(), texts.few_rationals():
            warnings.simplefilter("ignore")  # about large images; images that are too large raise an error
            if not stat.S_ISREG(path.stat().st_mode):
                raise ValueError("It is not a regular file")
            with contextlib.nullcontext() if decode else _any_size():
                image = Image.open(path, formats=READABLE)
            try:
                if decode:
                    image.load()
            except BaseException:
                image.close()
                raise
    # Pillow's decoders have no error class of their own: a damaged file can raise an error of any type.
    except Exception as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = f"Its content is not {', '.join(READABLE[:-1])} or {READABLE[-1]}"
        raise InputFileError(f"cannot read the image {path}", why=f"{why}.", fix="Pass an image file.") from error
    with image:
        yield image


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Removes Pillow's limit of pixels, and lets it pass over damaged chunks of PNG."""
    from PIL import Image, ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, True
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The colours of an image of any mode as 8-bit RGB, (height, width, 3), as a viewer shows them.

    Transparent pixels count with their colours, because they may contain the watermark. Values of more than 8 bits
    are scaled. Colours that are not RGB, such as CMYK, are converted with the color profile of the image, if any.
    """
    import numpy as np
    from PIL import ImageCms

    if image.mode.startswith("I") or image.mode == "F":
        image = _in_8_bits(image)
    if image.mode in _MULTIPLIED:
        image = image.convert(_MULTIPLIED[image.mode])
    if "transparency" in image.info:  # Pillow would warn that it loses it
        image = image.convert("RGBA")
    colours = {"LA": "L", "1": "L"}.get(image.mode, image.mode)
    if colours in ("L", "CMYK", "LAB") and (profile := _profile(image, colours)) is not None:
        with contextlib.suppress(ImageCms.PyCMSError):  # a damaged profile
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image.convert(colours), profile, srgb, outputMode="RGB")
            return np.asarray(converted)
    return np.asarray(image.convert("RGB"))


def alpha(image: Image.Image) -> Image.Image | None:
    """The transparency of an image of any mode as an 8-bit grey image; None if it has none."""
    import numpy as np
    from PIL import Image

    # A damaged file may have no palette.
    if (image.mode == "P" and image.palette is None) or not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):
        return Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8))
    return image.convert(_MULTIPLIED.get(image.mode, image.mode)).convert("RGBA").getchannel("A")


def rgb_profile(image: Image.Image) -> bytes | None:
    """The color profile that belongs to the pixels of `rgb`; None if there is none."""
    profile: bytes | None = image.info.get("icc_profile")
    # The color space of the profile is in its header.
    return profile if profile and profile[16:20] == b"RGB " else None


def _in_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16-bit, 32-bit or floating-point values, as an image of 8-bit values."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    # The usual ranges; the file does not say which one it has.
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((limit for limit in ranges if largest <= limit), largest)
    grey = Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey


def _profile(image: Image.Image, mode: str) -> ImageCms.ImageCmsProfile | None:
    """The color profile of an image that is not RGB, if it fits to the mode; None if there is none."""
    from PIL import ImageCms

    if mode == "LAB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    space = {"L": b"GRAY", "CMYK": b"CMYK"}[mode]
    embedded = image.info.get("icc_profile") or b""
    if embedded[16:20] != space:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    except OSError:
        return None


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
