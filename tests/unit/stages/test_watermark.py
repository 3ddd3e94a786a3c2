"""Watermarks: methods equal to those of the library, `robust` on every background, and errors."""

from __future__ import annotations

import builtins
import io
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imwatermark import WatermarkDecoder, WatermarkEncoder
from imwatermark.dwtDctSvd import EmbedDwtDctSvd
from PIL import Image

from sdcli.comparison import compare
from sdcli.errors import ModelError, UsageError
from sdcli.registry import WATERMARK_METHODS
from sdcli.stages import watermark
from sdcli.stages.watermark import ROBUST, Mark, Method, check, choose, fits, search, write

TEXT = "StableDiffusionV1"
BITS = np.unpackbits(np.frombuffer(TEXT.encode(), np.uint8))


def scene(height: int, width: int, seed: int = 0) -> watermark.Pixels:
    """Coloured patches over the whole range of values, some with smooth and some with hard edges."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    soft = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    hard = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), 0)
    half = np.arange(width) < width // 2
    return np.where(half[None, :, None], np.asarray(soft), np.asarray(hard)).astype(np.uint8)


def icon(size: int, background: int) -> watermark.Pixels:
    """A shaded disc on a flat background, like the images of the builtin model."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = (x**2 + y**2 < 0.12)[..., None]
    shade = np.stack([240 - 60 * y, 120 + 200 * x, 30 + 90 * y], axis=-1).clip(0, 255)
    return np.where(inside, shade, background).round().astype(np.uint8)


@pytest.mark.parametrize("method", ["dwtDct", "dwtDctSvd"])
@pytest.mark.parametrize(("height", "width"), [(256, 256), (258, 261), (134, 512)])
def test_library_methods_write_the_bytes_of_the_original_script(method: str, height: int, width: int) -> None:
    image = scene(height, width)
    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", TEXT.encode("utf-8"))
    # put_watermark of the original script
    expected = encoder.encode(cv2.cvtColor(np.array(Image.fromarray(image)), cv2.COLOR_RGB2BGR), method)[:, :, ::-1]
    assert np.array_equal(write(image, Mark(TEXT, method)), expected)


@pytest.mark.parametrize("method", ["dwtDct", "dwtDctSvd"])
def test_reading_equals_the_library(method: str) -> None:
    marked = write(scene(256, 320), Mark(TEXT, method))
    text = WatermarkDecoder("bytes", len(BITS)).decode(cv2.cvtColor(marked, cv2.COLOR_RGB2BGR), method)
    wrong = np.unpackbits(np.frombuffer(text, np.uint8)) != BITS
    assert check(marked, Mark(TEXT, method)).wrong_bits == wrong.sum()


def test_votes_are_counted_as_in_the_library() -> None:
    """For noise, where the cells of a bit disagree. With 256 cells for 128 bits, half of the votes are ties."""
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        for length in (8, 128, 136):
            by_library = EmbedDwtDctSvd(wmLen=length).decode(np.ascontiguousarray(noise[..., ::-1]))
            assert np.array_equal(ROBUST.read(noise, length), by_library)


@pytest.mark.parametrize("size", [96, 128, 256])
@pytest.mark.parametrize("background", [0, 244, 246, 255])
def test_robust_reads_back_without_errors_and_is_hardly_visible(size: int, background: int) -> None:
    image = icon(size, background)
    marked = write(image, Mark(TEXT, "robust"))
    assert check(marked, Mark(TEXT, "robust")).wrong_bits == 0
    assert compare(marked, image).psnr > 42
    assert np.abs(marked.astype(int) - image).max() <= 16


@pytest.mark.parametrize("colour", list(itertools.product((0, 64, 128, 255), repeat=3)))
def test_robust_reads_back_from_one_flat_colour(colour: tuple[int, int, int]) -> None:
    """Including colours that the library clips: white, black, and every corner of the colour cube."""
    marked = write(np.full((96, 96, 3), colour, np.uint8), Mark(TEXT, "robust"))
    assert check(marked, Mark(TEXT, "robust")).wrong_bits == 0


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(96, 160), width=st.integers(96, 160))
@settings(max_examples=40, deadline=None)
def test_robust_is_read_by_the_decoder_of_the_library(seed: int, height: int, width: int) -> None:
    marked = write(scene(height, width, seed), Mark(TEXT, "robust"))
    back = check(marked, Mark(TEXT, "robust"))
    by_library = EmbedDwtDctSvd(wmLen=len(BITS)).decode(np.ascontiguousarray(marked[..., ::-1])) != BITS
    assert back.found
    assert back.wrong_bits == by_library.sum()


def test_robust_survives_jpeg() -> None:
    file = io.BytesIO()
    Image.fromarray(write(icon(256, 245), Mark(TEXT, "robust"))).save(file, "JPEG", quality=80)
    assert check(np.asarray(Image.open(file)), Mark(TEXT, "robust")).found


@pytest.mark.parametrize("method", WATERMARK_METHODS)
@pytest.mark.parametrize("image", [icon(256, 245), scene(256, 256), np.full((256, 256, 3), 130, np.uint8)])
def test_no_watermark_is_found_in_images_without_it(method: str, image: watermark.Pixels) -> None:
    assert not check(image, Mark(TEXT, method)).found
    other = write(image, Mark("another text, too", "robust"))
    assert not check(other, Mark(TEXT, method)).found


texts = st.text(min_size=1, max_size=30).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))


@given(st.sampled_from(list(WATERMARK_METHODS)), st.integers(1, 300), st.integers(1, 300), texts)
@settings(max_examples=40, deadline=None)
def test_a_text_that_fits_is_written_and_any_other_is_rejected(method: str, height: int, width: int, text: str) -> None:
    image = np.full((height, width, 3), 120, np.uint8)
    image[::2, ::3] = 90
    before = image.copy()
    if fits(method, height, width, text) is None:
        marked = write(image, Mark(text, method))
        assert marked.shape == image.shape
        assert marked.dtype == np.uint8
        assert check(marked, Mark(text, method)).bits == 8 * len(text.encode())
        if method == "robust":
            assert check(marked, Mark(text, method)).found
    else:
        with pytest.raises(ValueError, match=r"pixels"):
            write(image, Mark(text, method))
        with pytest.raises(ValueError, match=r"pixels"):
            check(image, Mark(text, method))
    assert np.array_equal(image, before)


def test_limits_of_size_and_text() -> None:
    assert fits("dwtDct", 256, 256, TEXT) is None
    assert "65,536" in (fits("dwtDct", 255, 256, TEXT) or "")
    assert fits("robust", 96, 96, TEXT) is None  # 144 cells for 136 bits
    assert "136 bits" in (fits("robust", 88, 96, TEXT) or "")  # 132 cells
    assert fits("robust", 88, 96, "Ä" * 8) is None  # 16 bytes
    assert "144 bits" in (fits("robust", 88, 96, "Ä" * 9) or "")


def test_auto_uses_the_default_or_else_robust_with_a_note() -> None:
    assert choose("auto", "dwtDct", 512, 512, TEXT) == Mark(TEXT, "dwtDct")
    assert choose("auto", "robust", 512, 512, TEXT) == Mark(TEXT, "robust")
    small = choose("auto", "dwtDct", 128, 192, TEXT)
    assert (small.text, small.method) == (TEXT, "robust")
    assert "192x128" in small.note
    assert "robust" in small.note
    assert choose("dwtDctSvd", "dwtDct", 256, 256, "ü") == Mark("ü", "dwtDctSvd")


@pytest.mark.parametrize(
    ("method", "size", "text", "message"),
    [
        ("dwtDct", 128, TEXT, "--watermark-method robust"),
        ("auto", 64, TEXT, "--no-watermark"),
        ("robust", 128, "a" * 33, "264 bits"),
        ("auto", 512, "", "empty"),
        ("auto", 512, "\udcff", "UTF-8"),
        ("rivaGan", 512, TEXT, "dwtDct"),
    ],
)
def test_errors_have_advice(method: str, size: int, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        choose(method, "dwtDct", size, size, text)
    assert message in str(raised.value)


@pytest.mark.parametrize("method", WATERMARK_METHODS)
def test_search_finds_the_watermark_of_every_method(method: str) -> None:
    # Noise, since dwtDct does not read back from most other images.
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    marked = write(noise, Mark(TEXT, method))
    back = search(marked, TEXT, likely=method)
    assert back is not None
    assert back.found
    assert back.method == method
    without_record = search(marked, TEXT)
    assert without_record is not None
    assert without_record.method == {"robust": "dwtDctSvd"}.get(method, method)


def test_search_in_small_images() -> None:
    back = search(write(scene(128, 128), Mark(TEXT, "robust")), TEXT)
    assert back is not None
    assert (back.method, back.found) == ("robust", True)
    assert search(scene(64, 64), TEXT) is None


def test_a_method_in_the_table_is_used_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_rows(image: watermark.Pixels, bits: watermark.Bits) -> watermark.Pixels:
        image = image.copy()
        image[0, : len(bits), 0] = bits
        return image

    rows = Method(smallest=0, write=write_rows, read=lambda image, length: image[0, :length, 0])
    methods = {"large": Method(10**9, ROBUST.write, ROBUST.read), "rows": rows}
    monkeypatch.setattr(watermark, "WATERMARK_METHODS", methods)
    mark = choose("auto", "large", 160, 160, TEXT)
    assert mark.method == "rows"
    assert "written with rows" in mark.note
    assert choose("rows", "large", 160, 160, TEXT) == Mark(TEXT, "rows")
    back = search(write(scene(160, 160), mark), TEXT)
    assert back is not None
    assert (back.method, back.found, back.wrong_bits) == ("rows", True, 0)


@pytest.mark.parametrize(("text", "most"), [(TEXT, 27), ("fives", 8)])  # of 136 bits; of 40 bits, exactly a fifth
def test_found_means_at_most_a_fifth_wrong(text: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.unpackbits(np.frombuffer(text.encode(), np.uint8))
    for wrong, found in ((most, True), (most + 1, False)):
        flipped = bits ^ (np.arange(len(bits)) < wrong)
        flipping = Method(smallest=0, write=ROBUST.write, read=lambda *_, bits=flipped: bits)
        monkeypatch.setattr(watermark, "WATERMARK_METHODS", {"flipping": flipping})
        back = check(scene(128, 128), Mark(text, "flipping"))
        assert (back.wrong_bits, back.found) == (wrong, found)


def test_a_missing_system_library_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError) as raised:
        write(scene(128, 128), Mark(TEXT, "robust"))
    assert "libGL.so.1" in raised.value.why
    assert "libgl1" in raised.value.fix
