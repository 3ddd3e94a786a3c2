"""Reading the texts of image files, wherever other tools put them and in whatever encoding."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sdcli.errors import InputFileError
from sdcli.metadata import Provenance, provenance, texts
from sdcli.outputs.formats import opened

DATA = Path(__file__).parents[2] / "data" / "metadata"
TEXT = "ein 猫\nSteps: 2, Seed: 1"
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "positive": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "ein 猫"}},
}
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">{}</rdf:Description></rdf:RDF></x:xmpmeta>'
)


def read(path: Path) -> Provenance:
    with Image.open(path) as image:
        found = provenance(texts.read(image))
    assert found is not None
    return found


def saved(format: str, **options: Any) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format, **options)
    with Image.open(buffer) as image:
        return texts.read(image)


def exif(tag: int, value: Any, *, first: bool = True) -> bytes:
    tags = Image.Exif()
    (tags if first else tags.get_ifd(0x8769))[tag] = value
    return tags.tobytes()


def test_utf8_in_a_latin1_chunk() -> None:
    assert read(DATA / "text-chunk-holds-utf8.png").settings["prompt"] == "an old boat, é 舟"
    info = PngInfo()
    info.add_text("parameters", "é".encode("latin-1"))
    info.add_itxt("other", "Ã©")
    assert saved("PNG", pnginfo=info) == {"parameters": "é", "other": "Ã©"}


@pytest.mark.parametrize("name", ["comfyui-graph-in-usercomment.jpg", "comfyui-usercomment-in-first-ifd.jpg"])
def test_a_graph_in_the_user_comment(name: str) -> None:
    found = read(DATA / name)
    assert (found.tool, found.unknown) == ("ComfyUI", [])
    assert (found.settings["prompt"], found.settings["negative_prompt"]) == ("an old boat", "fog")


def test_parameters_in_the_comment_of_jpeg() -> None:
    found = read(DATA / "sdcpp-jpeg-comment.jpg")
    assert (found.settings["prompt"], found.settings["seed"]) == ("an old boat, 舟", 42)


def test_a_user_comment_in_the_comment_of_jpeg() -> None:
    assert saved("JPEG", comment=TEXT.encode()) == {"UserComment": TEXT}
    assert saved("JPEG", comment=b"Created with an editor") == {}
    assert saved("JPEG", comment=b"\xff\xfe\xfd") == {}


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(GRAPH, ensure_ascii=False),
        f"Prompt:{json.dumps(GRAPH)}",
        json.dumps({"prompt": GRAPH, "workflow": {}}),
        json.dumps({"prompt": json.dumps(GRAPH)}),
    ],
)
def test_a_graph_in_any_tag_or_property(written: str) -> None:
    escaped = written.replace("&", "&amp;").replace('"', "&quot;")
    alternatives = f"<dc:description><rdf:Alt><rdf:li>{escaped}</rdf:li></rdf:Alt></dc:description>"
    attribute = XMP.format("").replace("<rdf:Description", f'<rdf:Description dc:description="{escaped}"')
    for found in (
        saved("WEBP", exif=exif(0x010E, written.encode())),
        saved("JPEG", exif=exif(0x9286, b"UNICODE\0" + written.encode("utf-16-le"), first=False)),
        saved("JPEG", comment=written.encode()),
        saved("WEBP", xmp=XMP.format(alternatives).encode()),
        saved("WEBP", xmp=attribute.encode()),
    ):
        assert json.loads(found["prompt"]) == GRAPH
        assert "UserComment" not in found


@pytest.mark.parametrize(
    "data",
    [
        b"UNICODE\0\xff\xfe" + TEXT.encode("utf-16-le"),
        b"UNICODE\0\xfe\xff" + TEXT.encode("utf-16-be"),
        b"\xff\xfe" + TEXT.encode("utf-16-le"),
        b"\xef\xbb\xbf" + TEXT.encode(),
        b"UNICODE\0" + TEXT.encode(),
        b"ASCII\0\0\0" + TEXT.encode(),
    ],
)
def test_a_byte_order_mark_or_a_wrong_code(data: bytes) -> None:
    assert texts.decode_comment(data) == TEXT


@pytest.mark.parametrize("encoding", ["evil", "idna", "utf-7", "base64", "utf-32"])
def test_xmp_of_an_unknown_encoding_is_ignored(encoding: str) -> None:
    xmp = f'<?xml version="1.0" encoding="{encoding}"?><x/>'.encode()
    assert saved("WEBP", xmp=xmp) == {}


@pytest.mark.parametrize(("kind", "value"), [(3, (1, 2, 3)), (4, 7), (7, b"\xff\xfe\xfd"), (12, 0.5)])
@pytest.mark.parametrize("tag", [700, 0x010F, 0x010E, 0x9286])
@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_tags_of_odd_types_are_ignored(tag: int, kind: int, value: Any) -> None:
    directory = ImageFileDirectory_v2()
    directory.tagtype[tag] = kind
    directory[tag] = value
    assert saved("TIFF", tiffinfo=directory) == {}


def test_the_bad_encoding_of_the_attack() -> None:
    with Image.open(DATA / "xmp_bad_encoding.webp") as image:
        assert texts.read(image) == {}


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Provenance | None]:
    """Reads a file; fails if its pixels are decoded."""

    def load(_: object) -> None:
        pytest.fail("the pixels are decoded")

    def read(path: Path) -> Provenance | None:
        with opened(path, decode=False) as image:
            return provenance(texts.read(image))

    for kind in (ImageFile.ImageFile, PngImageFile, WebPImageFile, AvifImageFile, TiffImageFile):
        monkeypatch.setattr(kind, "load", load)
    return read


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(before: bytes = b"", after: bytes = b"", *, side: int = 30_000, animated: bool = False) -> bytes:
    """A PNG with so many pixels that Pillow refuses to decode them, and chunks before and after them."""
    size = side.to_bytes(4, "big") * 2
    control = chunk(b"acTL", b"\0\0\0\2\0\0\0\0") if animated else b""
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", size + b"\x08\0\0\0\0"),
            control,
            before,
            pixels,
            after,
            chunk(b"IEND", b""),
        )
    )


PARAMETERS = chunk(b"tEXt", b"parameters\0" + TEXT.encode())
BOMB = zlib.compress(b"x" * 2**25)


def test_metadata_needs_no_pixels_and_can_be_long(undecoded: Callable[[Path], Provenance | None]) -> None:
    found = undecoded(DATA / "comfyui-compressed-workflow-over-1MB.png")
    assert found is not None
    assert (found.settings["prompt"], found.unknown) == ("an old boat", [])
    for path in DATA.iterdir():
        undecoded(path)


@pytest.mark.parametrize(
    "data",
    [
        png(PARAMETERS),
        png(after=PARAMETERS),
        png(after=PARAMETERS, animated=True),
        png(PARAMETERS)[:-20],
        png(after=PARAMETERS + chunk(b"tEXt", b"cut" * 99))[:-40],
        png(chunk(b"zTXt", b"bomb\0\0" + BOMB) + PARAMETERS),
        png(chunk(b"iTXt", b"bomb\0\1\0\0\0" + BOMB) + PARAMETERS),
        png(after=chunk(b"zTXt", b"bomb\0\0" + BOMB) + PARAMETERS),
        png(after=chunk(b"zTXt", b"bomb\0\7" + BOMB) + PARAMETERS),
        png(PARAMETERS[:-4] + b"none"),
        png(after=chunk(b"eXIf", exif(0x9286, b"UNICODE\0" + TEXT.encode("utf-16-be"), first=False)[6:])),
    ],
    ids=len,
)
def test_a_png_with_damaged_or_late_chunks(
    undecoded: Callable[[Path], Provenance | None], tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    found = undecoded(tmp_path / "a.png")
    assert found is not None
    assert (found.settings["prompt"], found.settings["seed"]) == ("ein 猫", 1)


def test_a_decoded_png_has_the_same_texts(tmp_path: Path) -> None:
    for path in DATA.glob("*.png"):
        with opened(path) as decoded, opened(path, decode=False) as image:
            assert texts.read(decoded) == texts.read(image), path


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "TIFF"])
def test_an_image_that_is_cut_or_whose_pixels_are_damaged(
    undecoded: Callable[[Path], Provenance | None], tmp_path: Path, format: str
) -> None:
    path = tmp_path / "a"
    info = exif(0x010E, TEXT.encode())
    Image.effect_noise((64, 64), 90).convert("RGB").save(path, format, exif=info)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] if format == "JPEG" else data[: middle - 40] + b"\xff" * 80 + data[middle + 40 :])
    found = undecoded(path)
    assert found is not None
    assert found.settings["seed"] == 1


def test_an_object_in_any_tag_or_property() -> None:
    written = '{\n "a": 1}'
    assert saved("WEBP", exif=exif(0x0110, written)) == {"UserComment": written}
    assert saved("JPEG", comment=written.encode()) == {"UserComment": written}
    xmp = XMP.format("<dc:description>{old} boat</dc:description>")
    assert saved("WEBP", xmp=xmp.encode(), exif=exif(0x010E, TEXT.encode())) == {"UserComment": TEXT}


def test_only_a_thousand_fractions_of_a_tag_are_read(tmp_path: Path) -> None:
    number = 1_000_000
    entries = [struct.pack(">HHLL", tag, 5, number, 38) for tag in (0x0100, 0x0101)]
    tiff = b"MM\0*" + struct.pack(">LH", 8, 2) + b"".join(entries) + bytes(4) + b"\0\0\0\1" * 2 * number
    (tmp_path / "a.tiff").write_bytes(tiff)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=b"Exif\0\0" + tiff)
    start = time.process_time()
    for name in ("a.tiff", "a.png"):
        with suppress(InputFileError), opened(tmp_path / name, decode=False) as image:
            assert texts.read(image) == {}
    assert time.process_time() - start < 2
