"""Reading the JSON of Fooocus, its older labels, and its forks."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.foreign import FOOOCUS, FOOOCUS_LABELS, RUINED_FOOOCUS, found, png, saved, with_comment

SETTINGS = {
    "prompt": "a lighthouse", "negative_prompt": "fog", "seed": 3350124586, "rng": "cpu", "steps": 30,
    "sampler": "dpmpp_2m_sde", "schedule": "karras", "scale": 4.0, "width": 1152, "height": 896, "model": "coast_v8",
    "model_hash": "aeb7e9e689",
}  # fmt: skip


def in_first_directory(text: str, format: str) -> bytes:
    """As Fooocus writes EXIF."""
    exif = Image.Exif()
    exif[0x9286], exif[0x0131], exif[0x927C] = text, "Fooocus v2.5.5", "fooocus"
    return saved(Image.new("RGB", (8, 8)), format, exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        png(parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"),
        in_first_directory(json.dumps(FOOOCUS), "JPEG"),
        in_first_directory(json.dumps(FOOOCUS), "WEBP"),
        with_comment(json.dumps(FOOOCUS), "WEBP"),
    ],
)
def test_all_containers(data: bytes) -> None:
    result = found(data)
    assert (result.tool, result.version, result.settings, result.unknown) == ("Fooocus", "v2.5.5", SETTINGS, [])
    assert result.notes == (
        "the styles added texts to the prompts, which are as the user wrote them",
        "a language model expanded the prompt, which is as the user wrote it",
    )
    assert result.other["full_prompt"] == FOOOCUS["full_prompt"]
    assert result.other["sharpness"] == 2.0
    assert "refiner_model" not in result.other


def test_older_labels() -> None:
    result = found(png(parameters=json.dumps(FOOOCUS_LABELS)))
    assert (result.tool, result.version, result.notes, result.unknown) == ("Fooocus", "v2.1.864", (), [])
    assert result.settings == {
        "prompt": "a lighthouse", "negative_prompt": "", "seed": 12, "rng": "cpu", "steps": 60, "sampler": "ddim",
        "schedule": "linspace", "scale": 7.0, "width": 1024, "height": 768, "model": "coast.safetensors",
    }  # fmt: skip
    assert result.other["LoRA 1"] == "offset.safetensors : 0.1"


def test_fooocus_mre() -> None:
    """It writes the text `Comment`."""
    values = {
        "prompt": "a lighthouse", "negative_prompt": "", "styles": ["cinematic"], "real_prompt": ["a lighthouse, film"],
        "real_negative_prompt": [""], "seed": 7, "width": 1152, "height": 896, "sampler": "ddim", "scheduler": "normal",
        "performance": "Speed", "steps": 30, "switch": 20, "sharpness": 2.0, "cfg": 7.0, "base_clip_skip": -1,
        "base_model": "coast.safetensors", "refiner_model": "None", "img2img": False, "revision": False,
        "software": "Fooocus-MRE v2.0.78.5",
    }  # fmt: skip
    result = found(png(Comment=json.dumps(values)))
    assert (result.tool, result.version, result.unknown) == ("Fooocus-MRE", "v2.0.78.5", [])
    assert result.settings == {
        "prompt": "a lighthouse", "negative_prompt": "", "seed": 7, "rng": "cpu", "steps": 30, "sampler": "ddim",
        "schedule": "linspace", "scale": 7.0, "width": 1152, "height": 896, "model": "coast.safetensors",
    }  # fmt: skip
    assert result.notes == ("the styles added texts to the prompts, which are as the user wrote them",)
    assert result.harmless == {"scheduler", "base_clip_skip"}
    assert result.other["real_prompt"] == ["a lighthouse, film"]


def test_ruined_fooocus() -> None:
    result = found(png(parameters=json.dumps(RUINED_FOOOCUS)))
    assert (result.tool, result.unknown, result.notes) == ("RuinedFooocus", [], ())
    assert (result.settings["prompt"], result.settings["negative_prompt"]) == ("a lighthouse, ", "fog, ")
    assert (result.settings["sampler"], result.settings["schedule"]) == ("dpmpp_2m", "karras")
    assert (result.settings["scale"], result.settings["width"]) == (8.5, 1152)


def test_the_scheme_of_the_web_ui() -> None:
    text = "a lighthouse\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 5, Version: Fooocus v2.5.5"
    result = found(png(parameters=text, fooocus_scheme="a1111"))
    assert (result.tool, result.settings["seed"]) == ("Fooocus", 5)


def test_damaged_json() -> None:
    result = found(png(parameters=json.dumps(FOOOCUS)[:-3], fooocus_scheme="fooocus"))
    assert (result.tool, result.settings) == ("Fooocus", {})
    assert result.notes == ("the JSON in `parameters` is missing or damaged",)


def test_a_prompt_that_is_json() -> None:
    assert found(with_comment(json.dumps(FOOOCUS | {"prompt": '{"a": 1}'}))).settings["prompt"] == '{"a": 1}'


@pytest.mark.parametrize(
    ("resolution", "size"),
    [
        ("(1152, 896)", (1152, 896)),
        ("('1152', '896')", (1152, 896)),
        ("1152\xd7896", (1152, 896)),
        ([1152, 896], (1152, 896)),
        ("(1152,)", (None, None)),
        ("(-1152, 896)", (None, None)),
        ("__import__('os')", (None, None)),
        (7, (None, None)),
        ([[], {}], (None, None)),
    ],
)
def test_resolutions(resolution: object, size: tuple[int | None, int | None]) -> None:
    settings = found(png(parameters=json.dumps(FOOOCUS | {"resolution": resolution}))).settings
    assert (settings.get("width"), settings.get("height")) == size
