"""Reading a text that is hidden in the pixels."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sdcli.metadata.stealth import LONGEST, text, texts
from tests.foreign import FILES, NOVELAI, NOVELAI_TEXTS, PARAMETERS, SWARMUI, found, png, read, saved, stealth

HIDDEN = json.dumps({name: NOVELAI_TEXTS[name] for name in ("Description", "Software", "Source")}
                    | {"Comment": json.dumps(NOVELAI)})  # fmt: skip


def test_novelai() -> None:
    assert found(png(stealth(HIDDEN, size=(64, 96)))) == found(FILES["novelai.png"])


@pytest.mark.parametrize("channels", ["A", "RGB"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (301, 7), (7, 301)])
def test_parameters_of_the_web_ui(channels: str, compressed: bool, size: tuple[int, int]) -> None:
    image = stealth(PARAMETERS, channels, compressed=compressed, size=size)
    assert found(png(image)).settings["prompt"] == "a lighthouse"
    assert found(saved(image, "WEBP", lossless=True, exact=True)).tool == "AUTOMATIC1111's web UI"
    if channels == "RGB":
        assert found(png(image.convert("RGB"))).settings["seed"] == 5


def test_other_tools() -> None:
    assert found(png(stealth(json.dumps(SWARMUI), size=(128, 128)))).tool == "SwarmUI"
    graph = {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "positive": ["6", 0]}}}
    assert found(png(stealth(json.dumps({"prompt": graph, "workflow": {}})))).tool == "ComfyUI"


def test_texts_of_the_file_come_first() -> None:
    assert found(png(stealth(HIDDEN, size=(64, 96)), parameters=PARAMETERS)).settings["prompt"] == "a lighthouse"


def test_damaged_pixels_hide_nothing() -> None:
    data = png(stealth(PARAMETERS))
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image:
        assert texts(image) == {}


@pytest.mark.parametrize("signature", [b"stealth_pngcomp", b"stealth_pnginfo", b"stealth_rgbcomp", b"stealth_rgbinfo"])
@pytest.mark.parametrize("rest", [b"", b"\0\0", b"\xff\xff\xff\xff", b"\0\0\1\0" + b"\xff" * 32, b"\0\0\0\0"])
def test_damaged_texts_are_ignored(signature: bytes, rest: bytes) -> None:
    bits = np.unpackbits(np.frombuffer(signature + rest, dtype=np.uint8))
    for size in ((len(bits), 1), (3, 200), (1, 1)):
        pixels = np.resize(bits, size[0] * size[1])
        for image in (Image.merge("LA", [Image.fromarray(pixels.reshape(size[::-1]))] * 2),
                      Image.fromarray(np.resize(pixels, (size[1], size[0], 4))),
                      Image.fromarray(np.resize(pixels, (size[1], size[0], 3)))):  # fmt: skip
            text(image)
    assert read(png(stealth(b"\x1f\x8b broken"))) is None
    assert read(png(stealth(gzip.compress(b"\xff\xfe\xfd")))) is None
    assert read(png(stealth(gzip.compress(PARAMETERS.encode())[:-9]))) is None


def test_a_compressed_text_that_expands_to_gigabytes_is_not_read() -> None:
    image = stealth(gzip.compress(bytes(40 * LONGEST), 1), size=(1300, 1300))
    tracemalloc.start()
    assert text(image) == ""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * LONGEST


def test_pixels_of_other_images_hide_nothing() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"):
        assert text(Image.new(mode, (40, 40))) == ""
