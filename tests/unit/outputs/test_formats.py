"""Image files with their record, in every format."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sdcli.errors import InputFileError, OutputError
from sdcli.metadata import a1111, provenance, texts
from sdcli.outputs import formats
from sdcli.registry import FORMATS
from sdcli.stages.watermark import Mark, check, write
from tests.jobs import job

ALL = pytest.mark.parametrize("format", FORMATS)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)


def read(data: bytes) -> tuple[np.ndarray, dict[str, str]]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image), texts.read(image)


@ALL
def test_pixels_are_read_back_as_predicted(format: str) -> None:
    pixels, _ = read(formats.encode(PIXELS, {"sdcli": "1"}, "text", format))
    assert np.array_equal(pixels, formats.as_saved(PIXELS, format))
    assert FORMATS[format].lossless == np.array_equal(pixels, PIXELS)


def test_jpeg_keeps_colours_at_full_resolution() -> None:
    with Image.open(io.BytesIO(formats.encode(PIXELS, {}, "", "jpeg"))) as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}, "4:4:4"


@ALL
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(), negative=st.text())
def test_any_text_is_read_back(format: str, prompt: str, negative: str) -> None:
    one = job(prompt=prompt, negative_prompt=negative)
    record = {"sdcli": "1", "job": one.model_dump(mode="json")}
    _, found = read(formats.encode(PIXELS, record, a1111.write(one), format))
    assert json.loads(found[texts.RECORD_KEY]) == record
    assert found[texts.PARAMETERS_KEY if format == "png" else texts.COMMENT_KEY] == a1111.write(one)
    read_back = provenance(found)
    assert read_back is not None
    assert (read_back.tool, read_back.settings["prompt"], read_back.settings["negative_prompt"]) == (
        "sdcli",
        prompt,
        negative,
    )


@ALL
def test_the_same_record_gives_the_same_bytes(format: str) -> None:
    first, second = (formats.encode(PIXELS, {"a": 1}, "p", format) for _ in range(2))
    assert first == second


def test_what_does_not_fit_into_a_format_is_an_error_with_a_fix() -> None:
    with pytest.raises(OutputError, match="JPEG") as caught:
        formats.encode(PIXELS, {}, "x" * 40_000, "jpeg")
    assert "--format png" in caught.value.fix
    with pytest.raises(OutputError, match="WEBP"):
        formats.encode(np.zeros((1, 16_384, 3), dtype=np.uint8), {}, "", "webp")


@pytest.mark.parametrize(("text", "enough"), [("x" * 9_000, True), ("x" * 40_000, False), ("猫" * 9_000, False)])
def test_room_is_checked_before_generating(text: str, enough: bool) -> None:
    formats.require_room(64, 64, text, "", "png")
    formats.require_room(64, 64, text, "", "webp")
    with contextlib.nullcontext() if enough else pytest.raises(OutputError):
        formats.require_room(64, 64, text, "", "jpeg")
    one = job(prompt=text)
    record = {"sdcli": "1", "job": one.model_dump(mode="json"), "words_cut": text}
    with contextlib.nullcontext() if enough else pytest.raises(OutputError):
        formats.encode(PIXELS, record, a1111.write(one), "jpeg")


@ALL
def test_the_watermark_is_read_back_from_every_format(format: str) -> None:
    y, x = np.mgrid[:128, :128] / 128 - 0.5
    disc = np.where((x**2 + y**2 < 0.12)[..., None], [200, 90, 40] + 60 * x[..., None], 245).clip(0, 255)
    mark = Mark("StableDiffusionV1", "robust")
    assert check(formats.as_saved(write(disc.astype(np.uint8), mark), format), mark).found


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(formats.encode(PIXELS, {}, "")[:-40])
    for name in ("text.png", "cut.png", "missing.png", "."):
        with pytest.raises(InputFileError, match="cannot read the image"), formats.opened(tmp_path / name):
            pass
