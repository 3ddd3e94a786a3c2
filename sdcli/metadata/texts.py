"""Texts in image files of all formats.

PNG has named text chunks. JPEG and WebP have EXIF, with the `parameters` text in UserComment, and XMP, with sdcli's
record as a property. Other tools also write their texts into other tags of EXIF, into other properties of XMP, and into
the comment of JPEG; these get the name that the same text has in PNG.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from sdcli.json_text import read_object

if TYPE_CHECKING:
    from PIL import Image

RECORD_KEY = "sdcli"
PARAMETERS_KEY = "parameters"
COMMENT_KEY = "UserComment"
CREATOR_KEY = "CreatorTool"
PROMPT_KEY = "prompt"
WORKFLOW_KEY = "workflow"
NAMESPACE = "urn:sdcli"

_EXIF_IFD, _SOFTWARE, _USER_COMMENT = 0x8769, 0x0131, 0x9286
_CODES = {b"JIS\0\0\0\0\0": "iso2022_jp", b"ASCII\0\0\0": "utf-8", b"\0" * 8: "utf-8"}
_LONGEST_CHUNK = 16 * 2**20
_PNG_HEADER, _CRC = 8, 4
_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
_UNICODE = b"UNICODE\0"
# Types of TIFF: fractions without and with a sign.
_RATIONALS = (5, 10)
_MOST_RATIONALS = 1000
_XMP_COMMENT = f"http://ns.adobe.com/exif/1.0/ {COMMENT_KEY}"
_XMP_CREATOR = f"http://ns.adobe.com/xap/1.0/ {CREATOR_KEY}"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_OBJECT = re.compile(r'\{\s*"')
_BOMS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


@contextmanager
def long_chunks() -> Iterator[None]:
    """Lets Pillow read compressed texts of PNG with up to 16 MiB."""
    from PIL import PngImagePlugin

    before = PngImagePlugin.MAX_TEXT_CHUNK
    PngImagePlugin.MAX_TEXT_CHUNK = _LONGEST_CHUNK
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK = before


@contextmanager
def few_rationals() -> Iterator[None]:
    """Lets Pillow read a thousand fractions of a tag of TIFF or EXIF: it makes an object of each, of millions too."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    loaders: dict[int, Any] = ImageFileDirectory_v2._load_dispatch

    def first(load: Any) -> Any:
        return lambda tags, data, legacy_api=True: load(tags, data[: _MOST_RATIONALS * 8], legacy_api)

    before = {kind: loaders[kind] for kind in _RATIONALS}
    loaders.update({kind: (size, first(load)) for kind, (size, load) in before.items()})
    try:
        yield
    finally:
        loaders.update(before)


def read(image: Image.Image) -> dict[str, str]:
    """Returns the texts of an image by name: PNG text chunks, and texts that tools store elsewhere.

    The pixels are not decoded.
    """
    chunks = _chunks(image)
    texts: dict[str, str] = {}
    for key, value in chunks.items():
        # Pillow decodes tEXt and zTXt as Latin-1, and iTXt, which has a class of its own, as UTF-8.
        if isinstance(value, str):
            texts[str(key)] = _without_bom(str(value) if hasattr(value, "lang") else _repaired(str(value)))
    for text in _of_exif(image, texts):
        for key, part in _sorted(text):
            texts.setdefault(key, part)
    # TIFF can give any type to the tag of XMP.
    xmp = image.info.get("xmp")
    found = _properties(xmp) if isinstance(xmp, (bytes, str)) else {}
    if record := found.pop(f"{NAMESPACE} record", ""):
        texts.setdefault(RECORD_KEY, record)
    if creator := found.pop(_XMP_CREATOR, ""):
        texts.setdefault(CREATOR_KEY, creator)
    comment = image.info.get("comment")
    # Draw Things writes JSON into UserComment, and a shorter text with the same values into another property.
    for text in (found.pop(_XMP_COMMENT, ""), *found.values(), _decoded(comment)):
        for key, part in _sorted(text):
            texts.setdefault(key, part)
    return texts


def _chunks(image: Image.Image) -> Mapping[Any, Any]:
    """Returns the text chunks of PNG, those after the pixels too; as far as the file is readable."""
    from PIL.PngImagePlugin import PngImageFile, PngStream

    if not isinstance(image, PngImageFile):
        return {}
    if image.fp is None:  # it is decoded, and Pillow has read the whole file
        return image.text
    place = image.fp.tell()
    image.fp.seek(_PNG_HEADER)
    stream = PngStream(image.fp)
    kind = b""
    with suppress(SyntaxError, struct.error), long_chunks():
        while kind != b"IEND":
            kind, start, length = stream.read()
            if kind in _CHUNKS:
                # A chunk that is damaged, cut or too long.
                with suppress(SyntaxError, ValueError, OSError):
                    stream.call(kind, start, length)
            image.fp.seek(start + length + _CRC)
    image.fp.seek(place)
    for name, value in stream.im_info.items():
        image.info.setdefault(name, value)
    return stream.im_text


def _of_exif(image: Image.Image, texts: dict[str, str]) -> Iterator[str]:
    """Yields the texts in EXIF. Adds UserComment to `texts`, whatever it contains."""
    from PIL.Image import Image as ImageClass

    tags: dict[int, Any] = {}
    comment: Any = None
    # For damaged EXIF, Pillow's parser raises errors of many types, and warns.
    with suppress(Exception), warnings.catch_warnings(), few_rationals():
        warnings.simplefilter("ignore")
        # Not that of PNG images, which decodes the pixels.
        exif = ImageClass.getexif(image)
        tags = dict(exif)
        comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    # Some tools write UserComment into the first directory.
    if comment is None:
        comment = tags.pop(_USER_COMMENT, None)
    if text := _decoded(comment):
        if COMMENT_KEY not in texts and not any(True for _ in graphs(text)):
            texts[COMMENT_KEY] = text
        yield text
    # ComfyUI writes its two texts into the camera's make and model in WebP files, other tools into other tags.
    for value in tags.values():
        if isinstance(value, str):
            yield _without_bom(_repaired(value))


def _sorted(text: str) -> Iterator[tuple[str, str]]:
    """Yields the parts of a text without a name, with the names that they have in PNG; ignores any other text."""
    name, separator, rest = text.partition("\0")
    if separator and name == PARAMETERS_KEY:
        yield name, rest.rstrip("\0")
        return
    text = text.strip("\0 \t\r\n")
    found = list(graphs(text))
    yield from found
    if not found and ("Steps: " in text or _OBJECT.match(text)):
        yield COMMENT_KEY, text


def graphs(text: str) -> Iterator[tuple[str, str]]:
    """Yields the graphs of ComfyUI in a text: `prompt:{...}`, a graph, or an object of graphs."""
    text = text.lstrip()
    name, colon, rest = text.partition(":")
    if colon and name.casefold() in (PROMPT_KEY, WORKFLOW_KEY):
        yield name.casefold(), rest
        return
    if not text.startswith("{"):
        return
    content = read_object(text)
    if not content:
        return
    if _is_graph(content):
        yield PROMPT_KEY, text
    elif _is_workflow(content):
        yield WORKFLOW_KEY, text
    else:
        for key, value in content.items():
            inner = read_object(value) if isinstance(value, str) else value
            # The prompt of other tools is a text, which can be JSON, too.
            is_one = {PROMPT_KEY: _is_graph, WORKFLOW_KEY: _is_workflow}.get(key.casefold())
            if is_one and isinstance(inner, dict) and is_one(inner):
                yield key.casefold(), json.dumps(inner)


def _is_graph(content: dict[str, Any]) -> bool:
    return any(isinstance(node, dict) and "class_type" in node for node in content.values())


def _is_workflow(content: dict[str, Any]) -> bool:
    return isinstance(content.get("nodes"), list)


def _repaired(text: str) -> str:
    """Returns a text that was decoded as Latin-1 but is in UTF-8, as most tools write it."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _without_bom(text: str) -> str:
    return text.removeprefix("\ufeff")


def _decoded(data: Any) -> str:
    """Returns the text of UserComment or of a comment; empty if it is damaged or no text."""
    if isinstance(data, str):
        return _without_bom(_repaired(data))
    if not isinstance(data, bytes):
        return ""
    with suppress(UnicodeError):
        return decode_comment(data)
    return ""


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
    if code in _CODES:
        return _without_bom(text.decode(_CODES[code]))
    if code != _UNICODE:
        code, text = b"", data
    if encoding := _BOMS.get(text[:2]):
        return text[2:].decode(encoding)
    # Some tools write UTF-8 in spite of the code. Every text that is read here has ASCII, so UTF-16 has zeros.
    if not code or b"\0" not in text:
        return _without_bom(text.decode())
    # The comment does not state its byte order, and tools use both.
    return text.decode("utf-16-le" if text[1::2].count(0) > text[0::2].count(0) else "utf-16-be")


def xmp(record: str) -> bytes:
    """Returns an XMP packet with sdcli's record, which is JSON in ASCII, as its only property."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:sdcli="{NAMESPACE}"><sdcli:record>{escape(record)}</sdcli:record>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _properties(data: bytes | str) -> dict[str, str]:
    """Returns the texts of the elements and attributes of an XMP packet by name; none if the packet is damaged.

    A program that rewrites a packet may change elements to attributes.
    """
    found: dict[str, list[str]] = {}
    path: list[str] = []

    def start(element: str, attributes: dict[str, str]) -> None:
        # Text in a list of alternatives belongs to its property.
        path.append(path[-1] if path and element.startswith(_RDF) else element)
        for name, value in attributes.items():
            found.setdefault(name, []).append(value)

    def end(_: str) -> None:
        path.pop()

    def text(data: str) -> None:
        found.setdefault(path[-1], []).append(data)

    def refuse(*_: object) -> None:
        # Entities, which a document type defines, can expand a small file to gigabytes.
        raise ValueError("XMP must not have a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an unknown encoding
        return {}
    return {name: "".join(parts) for name, parts in found.items()}
