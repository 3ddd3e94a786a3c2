"""An image format: TIFF through Pillow, with the record in its XMP tag and the `parameters` text in EXIF.

To use it as a template: sdcli/outputs/NAME.py, and a line in `sdcli.registry.FORMATS`. `sdcli.metadata.texts.read`
finds both texts, because Pillow returns XMP and EXIF of all formats in the same way.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdcli.metadata import texts
from sdcli.outputs.formats import Format
from sdcli.version import VERSION

if TYPE_CHECKING:
    from PIL import Image


def encode(image: Image.Image, record: Mapping[str, Any], parameters: str) -> bytes:
    """A TIFF file of the image."""
    from PIL import Image, TiffImagePlugin

    exif = Image.Exif()
    exif.load(texts.exif(f"sdcli {VERSION}", parameters))
    exif[TiffImagePlugin.XMP] = texts.xmp(json.dumps(record))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", exif=exif)
    return buffer.getvalue()


FORMAT = Format((".tif", ".tiff"), lossless=True, encode=encode, title="TIFF")
