"""Reading the texts of image files, wherever other tools put them and in whatever encoding."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sdcli.metadata import Provenance, provenance, texts

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


def test_metadata_needs_no_pixels_and_can_be_long(tmp_path: Path) -> None:
    found = provenance(texts.of_file(DATA / "comfyui-compressed-workflow-over-1MB.png"))
    assert found is not None
    assert (found.settings["prompt"], found.unknown) == ("an old boat", [])
    data = (DATA / "text-chunk-holds-utf8.png").read_bytes()
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + data[24:29]
    large = tmp_path / "large.png"
    large.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    found = provenance(texts.of_file(large))
    assert found is not None
    assert found.settings["prompt"] == "an old boat, é 舟"
    for name in ("sdcpp-jpeg-comment.jpg", "comfyui-graph-in-usercomment.jpg", "webui-braces-are-words.png"):
        with Image.open(DATA / name) as image:
            assert texts.of_file(DATA / name) == texts.read(image)


def test_an_object_in_any_tag_or_property() -> None:
    written = '{\n "a": 1}'
    assert saved("WEBP", exif=exif(0x0110, written)) == {"UserComment": written}
    assert saved("JPEG", comment=written.encode()) == {"UserComment": written}
    xmp = XMP.format("<dc:description>{old} boat</dc:description>")
    assert saved("WEBP", xmp=xmp.encode(), exif=exif(0x010E, TEXT.encode())) == {"UserComment": TEXT}
