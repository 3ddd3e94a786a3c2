"""Reading the metadata of Draw Things."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from sdcli.metadata.drawthings import NOTE
from tests.foreign import DRAW_THINGS, DRAW_THINGS_TEXT, draw_things_xmp, found, png, saved, with_comment

SETTINGS = {
    "prompt": "a lighthouse", "negative_prompt": "fog", "seed": 2441935286, "steps": 28, "sampler": "dpmpp_2m",
    "schedule": "karras", "scale": 7.5, "width": 512, "height": 768, "model": "sd_v1.5_f16.ckpt",
}  # fmt: skip
NOTES = ("sdcli does not have the random numbers of the seed mode Scale Alike", NOTE)
TEXT = json.dumps(DRAW_THINGS)


@pytest.mark.parametrize(
    "data",
    [
        png(**{"XML:com.adobe.xmp": draw_things_xmp(comment=TEXT)}),
        saved(Image.new("RGB", (8, 8)), "JPEG", xmp=draw_things_xmp(comment=TEXT).encode()),
        with_comment(TEXT),
    ],
)
def test_all_containers(data: bytes) -> None:
    result = found(data)
    assert (result.tool, result.settings, result.unknown, result.notes) == ("Draw Things", SETTINGS, [], NOTES)
    assert result.other == {"seed_mode": "Scale Alike", "lora": DRAW_THINGS["lora"], "clip_skip": 2}


def test_only_the_description() -> None:
    result = found(png(**{"XML:com.adobe.xmp": draw_things_xmp()}))
    assert (result.tool, result.settings, result.unknown, result.notes) == ("Draw Things", SETTINGS, [], NOTES)
    text = DRAW_THINGS_TEXT.replace("\n-fog", "")
    assert found(png(**{"XML:com.adobe.xmp": draw_things_xmp(text)})).settings["negative_prompt"] == ""
    two = DRAW_THINGS_TEXT.replace("\n-fog", "\n- a boat\n-fog")
    result = found(png(**{"XML:com.adobe.xmp": draw_things_xmp(two)}))
    assert result.unknown == ["prompt"]
    assert result.notes[0] == "the description does not say where the negative prompt begins"


@pytest.mark.parametrize(
    ("mode", "rng"), [("Torch CPU Compatible", "cpu"), ("NVIDIA GPU Compatible", "cuda"), ("Legacy", None)]
)
def test_seed_modes(mode: str, rng: str | None) -> None:
    assert found(with_comment(json.dumps(DRAW_THINGS | {"seed_mode": mode}))).settings.get("rng") == rng


def test_an_image_from_another_one() -> None:
    assert found(with_comment(json.dumps(DRAW_THINGS | {"strength": 0.6}))).other["strength"] == 0.6
