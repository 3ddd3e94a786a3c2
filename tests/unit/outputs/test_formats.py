"""Image files with their record, in every format."""

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from sdcli.errors import InputFileError, OutputError
from sdcli.metadata import a1111, provenance, texts
from sdcli.outputs import formats
from sdcli.registry import FORMATS
from sdcli.stages.watermark import Mark, check, write
from tests.jobs import job

ALL = pytest.mark.parametrize("format", FORMATS)
IMAGES = Path(__file__).parents[2] / "data/images"
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
# Not U+FEFF, which other tools write at the start of a text as the mark of its byte order.
@given(prompt=st.text(st.characters(codec="utf-8", exclude_characters="\ufeff")), negative=st.text())
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


RAMP = Image.linear_gradient("L")


def in_mode(mode: str) -> Image.Image:
    """A grey ramp."""
    values = np.asarray(RAMP)
    match mode:
        case "1":
            return RAMP.point(lambda value: 255 * (value > 127)).convert("1")
        case "I" | "I;16" | "I;16B":
            return Image.fromarray(values.astype(np.int32) * 257).convert(mode)
        case "F from 0 to 1":
            return Image.fromarray((values / 255).astype(np.float32))
        case "La" | "RGBa":
            return RAMP.convert(mode.upper()).convert(mode)
        case "PA":
            return RAMP.convert("P").convert("PA")
        case "LAB":
            spaces = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
            return ImageCms.profileToProfile(RAMP.convert("RGB"), *spaces, outputMode="LAB")
        case "P with transparency":
            image = RAMP.convert("P")
            image.info["transparency"] = bytes(range(256))
            return image
        case "RGB with transparency":
            image = RAMP.convert("RGB")
            image.info["transparency"] = (7, 7, 7)
            return image
    return RAMP.convert(mode)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "P with transparency", "PA", "RGB", "RGB with transparency", "RGBA", "RGBa", "RGBX",
     "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F", "F from 0 to 1"],
)  # fmt: skip
def test_every_mode_keeps_its_look_as_rgb(mode: str) -> None:
    pixels = formats.rgb(in_mode(mode)).astype(int)
    expected = np.asarray(RAMP.convert("RGB")).astype(int)
    if mode == "1":
        expected = 255 * (expected > 127)
    assert pixels.shape == (256, 256, 3)
    assert np.abs(pixels - expected).max() <= 2


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_the_transparency_of_every_mode(mode: str) -> None:
    image = RAMP.convert("LA")
    image.putalpha(100)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert("LA" if mode == "La" else "RGBA")
    if mode == "PA":
        image.putalpha(100)
    alpha = formats.alpha(image.convert(mode))
    assert alpha is not None
    assert set(np.unique(np.asarray(alpha))) == {100}


def test_a_transparent_value_or_color(tmp_path: Path) -> None:
    for mode, value in (("L", 7), ("I;16", 7 * 257), ("RGB", (7, 7, 7)), ("P", 7)):
        in_mode(mode).save(tmp_path / "a.png", transparency=value)
        with formats.opened(tmp_path / "a.png") as image:
            alpha = formats.alpha(image)
            assert alpha is not None
            assert np.array_equal(np.asarray(alpha) == 0, np.asarray(RAMP) == 7), mode
            assert np.array_equal(formats.rgb(image)[..., 0], np.asarray(RAMP)), mode
    assert formats.alpha(RAMP) is None
    with formats.opened(IMAGES / "add_assertion_palette.png") as image:  # without a palette
        assert formats.alpha(image) is None


def test_a_16_bit_photo_is_not_white() -> None:
    with formats.opened(IMAGES / "grey-16-bit.png") as image:
        values = np.asarray(image)
        assert values.max() > 255
        assert np.abs(formats.rgb(image)[..., 0] - values / 257).max() <= 0.5


def test_values_that_are_no_numbers_are_black() -> None:
    values = np.array([[np.nan, -np.inf, -1, 0, 100, 200]], dtype=np.float32)
    assert formats.rgb(Image.fromarray(values))[0, :, 0].tolist() == [0, 0, 0, 0, 100, 200]


def test_the_color_profile_stays_only_if_it_is_of_rgb() -> None:
    image = Image.new("RGB", (1, 1))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info["icc_profile"] = srgb
    assert formats.rgb_profile(image) == srgb
    for other in (b"", srgb[:16] + b"CMYK" + srgb[20:], srgb[:16] + b"GRAY" + srgb[20:]):
        image.info["icc_profile"] = other
        assert formats.rgb_profile(image) is None
        for mode in ("L", "CMYK"):
            damaged = Image.new(mode, (1, 1))
            damaged.info["icc_profile"] = other
            assert formats.rgb(damaged).tolist() == [[[0] * 3 if mode == "L" else [255] * 3]]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.gif", "a.bmp", "a.avif", "a.jpg", "a.webp"])
def test_the_formats_that_are_read(tmp_path: Path, name: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name)
    with formats.opened(tmp_path / name) as image:
        assert image.format in formats.READABLE
        assert formats.rgb(image).shape == PIXELS.shape


def test_no_other_format_is_read_and_no_program_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would call Ghostscript for EPS, and other formats have other decoders, whatever the name of the file."""
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(shutil, "which", lambda *_: "/usr/bin/gs")
    Image.fromarray(PIXELS).save(tmp_path / "a.ppm")
    Image.fromarray(PIXELS).save(tmp_path / "a.tga")
    for path in (IMAGES / "eps_named.png", tmp_path / "a.ppm", tmp_path / "a.tga"):
        with pytest.raises(InputFileError, match="not PNG, JPEG, WEBP, GIF, BMP, TIFF or AVIF"), formats.opened(path):
            pass
    assert started == []


def test_an_error_of_any_type_from_a_decoder_is_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for kind in (RuntimeError, zlib.error, struct.error, IndexError, KeyError, AssertionError, EOFError, OverflowError):

        def fail(*_: object, kind: type[Exception] = kind) -> None:
            raise kind

        with monkeypatch.context() as patch:
            patch.setattr(PngImagePlugin.PngImageFile, "load", fail)
            with pytest.raises(InputFileError, match="cannot read"), formats.opened(tmp_path / "a.png"):
                pass


@pytest.mark.parametrize("name", ["avif_decode_error.avif"])
def test_damaged_files(name: str) -> None:
    with pytest.raises(InputFileError, match="cannot read the image"), formats.opened(IMAGES / name):
        pass


def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero")):
        with pytest.raises(InputFileError, match="not a regular file"), formats.opened(path):
            pass
