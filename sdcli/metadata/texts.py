"""The texts that image files carry, whatever the format.

PNG has text chunks with names. JPEG and WebP have EXIF, whose UserComment holds the `parameters` text, and XMP, which
holds sdcli's record as one property.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING
from xml.parsers import expat
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from PIL import Image

RECORD_KEY = "sdcli"
PARAMETERS_KEY = "parameters"
COMMENT_KEY = "UserComment"
NAMESPACE = "urn:sdcli"

_EXIF_IFD, _MAKE, _MODEL, _SOFTWARE, _USER_COMMENT = 0x8769, 0x010F, 0x0110, 0x0131, 0x9286
_CODES = {b"ASCII\0\0\0": "ascii", b"JIS\0\0\0\0\0": "iso2022_jp", b"\0" * 8: "utf-8"}
_UNICODE = b"UNICODE\0"


def read(image: Image.Image) -> dict[str, str]:
    """The texts of a decoded image, by name: PNG's chunks, and of EXIF and XMP what tools leave there."""
    texts = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
    # A damaged EXIF raises whatever its parser stumbles over, and says so in warnings.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = image.getexif()
        comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
        if isinstance(comment, bytes):
            texts.setdefault(COMMENT_KEY, decode_comment(comment))
        # ComfyUI's WebP has its two texts where cameras have their maker and model.
        for tag in (_MAKE, _MODEL):
            name, colon, text = str(exif.get(tag, "")).partition(":")
            if colon and name.casefold() in ("prompt", "workflow"):
                texts.setdefault(name.casefold(), text)
    if (xmp := image.info.get("xmp")) and (record := _record_of_xmp(xmp)):
        texts.setdefault(RECORD_KEY, record)
    return texts


def exif(software: str, comment: str) -> bytes:
    """EXIF that names the software and holds the comment."""
    from PIL import Image

    tags = Image.Exif()
    tags[_SOFTWARE] = software
    # UTF-16 in the order of the bytes that the rest has, which is what other tools write and read.
    tags.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + comment.encode("utf-16-be")
    return tags.tobytes()


def decode_comment(data: bytes) -> str:
    """EXIF's UserComment: 8 bytes that name the encoding, and the text.

    Raises:
        UnicodeError: it is not in the encoding that it names.
    """
    code, text = data[:8], data[8:]
    if code != _UNICODE:
        return text.decode(_CODES[code]) if code in _CODES else data.decode()
    # Which byte comes first is written nowhere, and tools do both. A `parameters` text always has this in it.
    swapped = text.decode("utf-16-le", "replace")
    return swapped if "Steps: " in swapped else text.decode("utf-16-be")


def xmp(record: str) -> bytes:
    """An XMP packet with sdcli's record, which is JSON in ASCII, as its one property."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:sdcli="{NAMESPACE}"><sdcli:record>{escape(record)}</sdcli:record>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _record_of_xmp(data: bytes | str) -> str | None:
    """The record in an XMP packet, as an element or, where another program wrote it anew, as an attribute."""
    name = f"{NAMESPACE} record"
    depth = 0
    found: list[str] = []

    def start(element: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += element == name
        if name in attributes:
            found.append(attributes[name])

    def end(element: str) -> None:
        nonlocal depth
        depth -= element == name

    def text(words: str) -> None:
        if depth:
            found.append(words)

    def refuse(*_: object) -> None:
        # Entities are how a small file becomes a large one.
        raise ValueError("XMP has no document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError):
        return None
    return "".join(found) or None
