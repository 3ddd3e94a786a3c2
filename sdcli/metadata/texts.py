"""Texts in image files of all formats.

PNG has named text chunks. JPEG and WebP have EXIF, with the `parameters` text in UserComment, and XMP, with sdcli's
record as a property.
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
    """Returns the texts of a decoded image by name: PNG text chunks, and texts that tools store in EXIF and XMP."""
    texts = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
    # For damaged EXIF, Pillow's parser raises errors of many types, and warns.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = image.getexif()
        comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
        if isinstance(comment, bytes):
            texts.setdefault(COMMENT_KEY, decode_comment(comment))
        # ComfyUI writes its two texts into the camera's make and model in WebP files.
        for tag in (_MAKE, _MODEL):
            name, colon, text = str(exif.get(tag, "")).partition(":")
            if colon and name.casefold() in ("prompt", "workflow"):
                texts.setdefault(name.casefold(), text)
    if (xmp := image.info.get("xmp")) and (record := _record_of_xmp(xmp)):
        texts.setdefault(RECORD_KEY, record)
    return texts


def exif(software: str, comment: str) -> bytes:
    """Returns EXIF data with the name of the software and a comment."""
    from PIL import Image

    tags = Image.Exif()
    tags[_SOFTWARE] = software
    # Other tools use UTF-16 with the byte order of the EXIF data, which is big-endian here.
    tags.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + comment.encode("utf-16-be")
    return tags.tobytes()


def decode_comment(data: bytes) -> str:
    """Decodes UserComment of EXIF: 8 bytes with the name of the encoding, then the text.

    Raises:
        UnicodeError: the text does not have that encoding.
    """
    code, text = data[:8], data[8:]
    if code != _UNICODE:
        return text.decode(_CODES[code]) if code in _CODES else data.decode()
    # The comment does not state its byte order, and tools use both. Every `parameters` text contains "Steps: ".
    swapped = text.decode("utf-16-le", "replace")
    return swapped if "Steps: " in swapped else text.decode("utf-16-be")


def xmp(record: str) -> bytes:
    """Returns an XMP packet with sdcli's record, which is JSON in ASCII, as its only property."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:sdcli="{NAMESPACE}"><sdcli:record>{escape(record)}</sdcli:record>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _record_of_xmp(data: bytes | str) -> str | None:
    """Returns the record in an XMP packet: an element, or an attribute if another program has rewritten the packet."""
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

    def text(data: str) -> None:
        if depth:
            found.append(data)

    def refuse(*_: object) -> None:
        # Entities, which a document type defines, can expand a small file to gigabytes.
        raise ValueError("XMP must not have a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError):
        return None
    return "".join(found) or None
