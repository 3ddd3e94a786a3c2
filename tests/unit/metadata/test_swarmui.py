"""Reading the JSON of SwarmUI."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from tests.foreign import SWARMUI, found, png, saved, with_comment

SETTINGS = {
    "prompt": "a red lighthouse, (storm:1.2) <segment:sky> dark", "negative_prompt": "fog", "seed": 1205218316,
    "rng": "cpu", "steps": 20, "sampler": "ddim", "schedule": "linspace", "scale": 7.0, "width": 768,
    "height": 512, "model": "coast", "model_hash": "0x6f00",
}  # fmt: skip


def with_params(**changes: Any) -> bytes:
    return png(parameters=json.dumps(SWARMUI | {"sui_image_params": SWARMUI["sui_image_params"] | changes}))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_all_containers(format: str) -> None:
    text = json.dumps(SWARMUI, indent=2)
    result = found(png(parameters=text) if format == "PNG" else with_comment(text, format))
    assert (result.tool, result.version, result.settings, result.unknown) == ("SwarmUI", "0.9.5.0", SETTINGS, [])
    assert result.other == {
        "scheduler": "normal", "loras": ["mist"], "loraweights": ["0.6"],
        "original_prompt": SWARMUI["sui_extra_data"]["original_prompt"],
    }  # fmt: skip
    assert result.notes == ("the prompt has instructions of SwarmUI: <segment>",)


def test_versions_before_0_6() -> None:
    """The camera's model in EXIF has the text; the names say which program computed the image."""
    params = SWARMUI["sui_image_params"] | {"comfyuisampler": "euler", "comfyuischeduler": "karras"}
    params = {name: value for name, value in params.items() if name not in ("sampler", "scheduler")}
    exif = Image.Exif()
    exif[0x0110] = json.dumps({"sui_image_params": params})
    result = found(saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif))
    assert (result.tool, result.settings["sampler"], result.settings["schedule"]) == ("SwarmUI", "euler", "karras")
    assert "model_hash" not in result.settings
    params = params | {"autowebuisampler": "PLMS"}
    result = found(png(parameters=json.dumps({"sui_image_params": params})))
    assert result.settings["sampler"] == "plms"
    assert "rng" not in result.settings


def test_missing_and_wrong_values_are_unknown() -> None:
    result = found(with_params(seed="?", steps=[20], width=True, model={"a": 1}, sampler=None, cfgscale="1e999"))
    assert result.unknown == ["width", "steps", "sampler", "scale", "seed", "model"]


@pytest.mark.parametrize("text", ['{"sui_image_params": 7}', json.dumps(SWARMUI)[:-3]])
def test_damaged_json(text: str) -> None:
    result = found(png(parameters=text))
    assert (result.tool, result.settings) == ("SwarmUI", {})
    assert result.notes == ("the JSON in `parameters` is damaged",)


def test_an_image_from_another_one() -> None:
    assert "the image was generated from another image" in found(with_params(initimagecreativity=0.6)).notes
