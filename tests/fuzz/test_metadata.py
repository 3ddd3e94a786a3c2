"""Metadata: of every reader in the table, and in every container."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from sdcli import metadata, rerun
from sdcli.errors import InputFileError, SdcliError, UsageError
from sdcli.jobs import Job, NoisePlace
from sdcli.metadata import Provenance, texts
from sdcli.metadata.provenance import kinds
from sdcli.outputs.command import command_of
from sdcli.outputs.formats import encode, opened
from sdcli.records import ImageRecord
from sdcli.registry import FORMATS, METADATA_READERS
from sdcli.settings import Option, names, options
from sdcli.terminal import json_line, printable
from tests.fuzz.inputs import ANY_JSON, ANY_TEXT, DATA, SEEDS, assert_printable, changed, damaged, json_text
from tests.fuzz.limits import limited
from tests.fuzz.program import run

FILES = sorted(
    file
    for file in (*DATA.glob("metadata/*"), *DATA.glob("images/*"), *DATA.glob("old_runs/*/samples/*"), *SEEDS.iterdir())
    if file.suffix in (".png", ".jpg", ".webp", ".avif", ".gif", ".tiff") and file.stat().st_size < 10_000
)


@cache
def known_texts() -> dict[str, list[str]]:
    """The texts in the files of the test data, by name."""
    found: dict[str, list[str]] = {}
    for file in FILES:
        with suppress(InputFileError), opened(file) as image:
            for name, text in texts.read(image).items():
                found.setdefault(name, []).append(text[:20_000])
    return found


def is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


PIECES = [
    "Steps: ", "Negative prompt: ", "Sampler: ", ", Size: 1x1", "Seed: ", "Model: ", "\n", "\r", '"', ", ", ": ", "{",
    "}", "[", "]", "(", ":1.1)", "<lora:a:1>", "\\", "|", "BREAK", "0", "-1", "1e999", "9" * 5000, "\ufeff", "\x1b[31m",
    "\x9b", "\u202e", "parameters\0", "prompt:", "workflow:", "UNICODE\0", "{" * 20_000, '{"a":' * 20_000, "a, " * 999,
]  # fmt: skip


@st.composite
def text(draw: Callable[..., Any], name: str) -> str:
    """A text of this name: one of the test data with changes."""
    known = known_texts()[name]
    whole = [text for text in known if is_json(text)]
    if whole and draw(st.booleans()):
        parsed: list[Any] = []
        for each in whole:
            with suppress(ValueError):
                parsed.append(json.loads(each))
        return json_text(draw(changed(parsed or [{}])))
    return str(draw(damaged(known, PIECES)))


@st.composite
def file_texts(draw: Callable[..., Any]) -> dict[str, str]:
    """The texts of a file."""
    names = draw(st.lists(st.sampled_from(sorted(known_texts())), max_size=3, unique=True))
    return {draw(st.sampled_from([name, name, *known_texts()])): draw(text(name)) for name in names}


def check(found: Provenance | None) -> None:
    """Check the types of what was read, and that it can be printed and become a command."""
    if found is None:
        return
    assert isinstance(found.tool, str)
    assert isinstance(found.version, str)
    assert all(isinstance(note, str) for note in found.notes)
    for name, value in found.settings.items():
        assert isinstance(value, kinds()[name])
        assert isinstance(value, bool) == (kinds()[name] is bool)
    for name, value in found.other.items():
        assert isinstance(name, str)
        assert_printable(printable(name + str(value)))
    shown = {"settings": found.settings, "other": found.other, "notes": found.notes, "unknown": found.unknown}
    line = json_line(shown)
    assert_printable(line)
    json.loads(line)
    try:
        settings, different = rerun.nearest(found)
    except UsageError:  # no command has such values
        return
    assert all(isinstance(note, str) for note in different)
    assert_printable(printable("\n".join(different)))
    assert_printable(command_of(settings))


@pytest.mark.parametrize("name", METADATA_READERS)
@given(found=file_texts())
@example({"parameters": "a\nSteps: 0, Sampler: DDIM"})
@example({"sdcli": '{"schema": 2, "job": {"steps": 1e999}}'})
@example({"sdcli": '{"schema": 2, "watermark": {"method": []}}'})
@example({"sdcli": '{"job":' * 50_000})
@example({"prompt": json.dumps({"[/red]\x1b[31m": {"class_type": "\x9b", "inputs": {"\u202e": 1}}})})
@example(
    {"prompt": "{" + ",".join(f'"{n}":{{"class_type":"K","inputs":{{"a":["{n + 1}",0]}}}}' for n in range(9999)) + "}"}
)
@example({"prompt": "9" * 5000, "workflow": "{"})
@example({"parameters": "(a, " * 200_000 + "\nSteps: 1"})
@example({"parameters": "a\nSteps: 1, " + "k: v, " * 100_000})
@example({"invokeai_metadata": '{"cfg_scale": 1e999, "positive_prompt": "\\ud800"}'})
@example({"sd-metadata": '{"image": {"prompt": [{"prompt": 1, "weight": []}]}}'})
@example({"Dream": '"a" -s' + "9" * 5000})
def test_a_reader_gives_values_of_the_right_types(name: str, found: Mapping[str, str]) -> None:
    check(METADATA_READERS[name](found))


@given(found=file_texts())
def test_any_texts_are_read(found: Mapping[str, str]) -> None:
    metadata.record_in(found)
    check(metadata.provenance(found))


@given(key=st.sampled_from(["prompt", "workflow", "parameters", "sdcli"]), value=ANY_JSON)
def test_any_json_is_read(key: str, value: Any) -> None:
    check(metadata.provenance({key: json_text(value)}))


ENCODED = st.sampled_from(["latin-1", "utf-8", "utf-16-le", "utf-16-be", "utf-32"])
CODES = st.sampled_from([b"", b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0" * 8, b"\xff\xfe", b"parameters\0"])


@st.composite
def any_text_bytes(draw: Callable[..., Any]) -> bytes:
    """A text of the test data or another one in some encoding, with the prefixes that containers have."""
    name = draw(st.sampled_from(sorted(known_texts())))
    characters = draw(text(name) | ANY_TEXT)
    return draw(CODES) + characters.encode(draw(ENCODED), "replace")


@st.composite
def tiff(draw: Callable[..., Any]) -> bytes:
    """TIFF, as in EXIF: two directories with entries of any tag, type, number and place."""
    order = draw(st.sampled_from("<>"))
    tags = st.sampled_from(
        [0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x02BC, 0x8769, 0x8825, 0x9286, 0x9C9C, 0x8649, 0xA005, 0x0100, 0x0101,
         0x0103, 0x0111, 0x0117]
    )  # fmt: skip
    entry = st.tuples(
        tags | st.integers(0, 0xFFFF),
        st.integers(0, 14),
        st.none() | st.integers(0, 2**32 - 1),
        any_text_bytes() | st.binary(max_size=8),
    )
    first, second = (draw(st.lists(entry, max_size=4)) for _ in range(2))
    data = b""
    start = 8 + sum(6 + 12 * len(entries) for entries in (first, second))
    directories = []
    for entries in (first, second):
        fields = b""
        for tag, kind, count, value in entries:
            size = {3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4, 5: 8, 10: 8, 12: 8}.get(kind, 1)
            place = struct.pack(f"{order}I", start + len(data)) if len(value) > 4 else value.ljust(4, b"\0")
            if tag in (0x8769, 0x8825) and draw(st.booleans()):
                kind, count, place = 4, 1, struct.pack(f"{order}I", 8 + 6 + 12 * len(first))
            fields += struct.pack(f"{order}HHI", tag, kind, len(value) // size if count is None else count) + place
            data += value if len(value) > 4 else b""
        following = draw(st.sampled_from([0, 0, 8, 8 + 6 + 12 * len(first)]))
        directories.append(struct.pack(f"{order}H", len(entries)) + fields + struct.pack(f"{order}I", following))
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + b"".join(directories) + data


@st.composite
def xmp(draw: Callable[..., Any]) -> bytes:
    """XMP with elements, attributes, encodings and document types."""
    packet = texts.xmp(draw(text("sdcli"))).decode()
    pieces = [
        "<?xml version='1.0' encoding='x-none'?>", "<?xml version='1.0' encoding='utf-16'?>", "<!DOCTYPE a>", "<a>",
        "</a>", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "&#0;", "&amp;", "<![CDATA[", "]]>", "sdcli:record='{}'", "\0",
        "<exif:UserComment><rdf:Alt><rdf:li>a Steps: 1</rdf:li></rdf:Alt></exif:UserComment>", "<!--", "<a>" * 20_000,
    ]  # fmt: skip
    return str(draw(damaged([packet], pieces))).encode(draw(ENCODED), "replace")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def png(draw: Callable[..., Any]) -> bytes:
    """PNG with text chunks of every kind, before and after the pixels."""
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        keys = st.sampled_from(sorted(known_texts())).map(str.encode)
        key, value = draw(keys | st.binary(max_size=80)), draw(any_text_bytes())
        packed = zlib.compress(value) if draw(st.integers(0, 5)) else value
        kind = draw(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iTXt", b"eXIf", b"iCCP"]))
        if kind == b"tEXt":
            content = key + b"\0" + value
        elif kind in (b"zTXt", b"iCCP"):
            content = key + b"\0" + draw(st.sampled_from([b"\0", b"\0", b"\1", b""])) + packed
        elif kind == b"eXIf":
            content = draw(tiff())
        elif draw(st.booleans()):
            content = b"XML:com.adobe.xmp\0\0\0\0\0" + draw(xmp())
        else:
            is_packed = draw(st.sampled_from([b"\0\0", b"\1\0", b"\2\0", b"\1\1", b""]))
            content = key + b"\0" + is_packed + b"en\0\0" + (packed if is_packed[:1] == b"\1" else value)
        chunks.append(_chunk(kind, content))
    before = draw(st.integers(0, len(chunks)))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    end = _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *chunks[:before], pixels, *chunks[before:], end])


@st.composite
def saved(draw: Callable[..., Any], format: str) -> bytes:
    """A file that Pillow writes, with any EXIF, XMP, comment and color profile."""
    image = Image.new("P" if format == "GIF" else "RGB", (1, 1))
    parts: dict[str, Any] = {"exif": draw(tiff()), "xmp": draw(xmp()), "comment": draw(any_text_bytes())}
    if draw(st.booleans()):
        parts["exif"] = b"Exif\0\0" + parts["exif"]
    if draw(st.booleans()):
        parts["icc_profile"] = draw(any_text_bytes())
    data = io.BytesIO()
    kept = {name: part for name, part in parts.items() if draw(st.booleans())}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save(data, format, **kept)
    except (OSError, ValueError, SyntaxError, struct.error, TypeError, KeyError, MemoryError):
        hypothesis.reject()  # a part that does not fit into this format
    return data.getvalue()


@cache
def seeds(suffix: str) -> list[bytes]:
    return [file.read_bytes() for file in FILES if file.suffix == suffix]


CONTAINERS: dict[str, st.SearchStrategy[bytes]] = {
    "png": png(),
    "jpg": saved("JPEG"),
    "webp": saved("WEBP"),
    "gif": saved("GIF"),
    "avif": saved("AVIF"),
    "tiff": tiff(),
    "damaged png": st.deferred(lambda: damaged(seeds(".png"))),
    "damaged jpg": st.deferred(lambda: damaged(seeds(".jpg"))),
    "damaged webp": st.deferred(lambda: damaged(seeds(".webp"))),
    "damaged avif": st.deferred(lambda: damaged(seeds(".avif"))),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metadata") / "image"


@pytest.mark.parametrize("container", CONTAINERS)
@given(data=st.data())
def test_any_file_is_inspected(file: Path, container: str, data: st.DataObject) -> None:
    file.write_bytes(data.draw(CONTAINERS[container]))
    inspected(file)


@pytest.mark.parametrize("seed", FILES, ids=lambda path: path.name)
def test_a_past_crash_is_inspected(seed: Path) -> None:
    with limited():
        inspected(seed)


def inspected(file: Path) -> None:
    """Inspect a file in every way."""
    code, line = run("inspect", "--json", str(file))
    if code in (0, 1):
        json.loads(line)
    run("inspect", str(file))
    run("inspect", "--command", str(file))
    with suppress(SdcliError):
        source = rerun.read(file)
        check(source.provenance)
        if source.job is not None:
            rerun.settings_of(source)


def jobs() -> st.SearchStrategy[Job]:
    """Jobs with any values that the fields can have."""
    name = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
    fields = {each: _in_range(options()[each], Job.model_fields[each].annotation) for each in names("image")}
    place = st.builds(
        NoisePlace,
        before=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2**40)), max_size=3).map(tuple),
        rows=st.integers(1, 9),
    )
    hashes = st.text("0123456789abcdef", max_size=64)
    return st.builds(
        Job,
        **fields | {"scale": _in_range(options()["scale"], float), "noise": place, "model": name, "model_hash": hashes},
        index=st.integers(0),
        out=st.none() | name,
    )


def _in_range(option: Option, annotation: Any) -> st.SearchStrategy[Any]:
    if annotation is int:
        return st.integers(option.least, option.most)
    if annotation is float:
        return st.floats(option.least, option.most, allow_nan=False, allow_infinity=False)
    return st.from_type(annotation)


@pytest.mark.parametrize("format", FORMATS)
@given(job=jobs(), words=st.none() | st.text(), settings=st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_record_is_read_back_equal(
    file: Path, format: str, job: Job, words: str | None, settings: dict[str, Any]
) -> None:
    record = ImageRecord.new(job=job, words_cut=words, settings=settings)
    file.write_bytes(encode(np.zeros((1, 1, 3), np.uint8), record.values(), job.prompt, format))
    assert rerun.read(file).record == record
    inspected(file)
