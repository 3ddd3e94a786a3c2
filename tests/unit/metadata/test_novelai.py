"""Reading the texts of NovelAI."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.foreign import NOVELAI, NOVELAI_TEXTS, found, png, read, with_comment

SETTINGS = {
    "prompt": "a lighthouse, {storm}", "negative_prompt": "fog", "prompt_syntax": "novelai",
    "seed": 2796862513, "steps": 28,
    "sampler": "euler_a", "schedule": "karras", "scale": 5.0, "width": 832, "height": 1216,
    "model": "NovelAI Diffusion V4.5", "model_hash": "4BDE2A90",
}  # fmt: skip
NOTES = ("the random number generator is not known",)
WRAPPED = json.dumps(NOVELAI_TEXTS | {"Comment": json.dumps(NOVELAI)})


def with_values(**changes: Any) -> bytes:
    return png(**NOVELAI_TEXTS, Comment=json.dumps(NOVELAI | changes))


@pytest.mark.parametrize(
    "data",
    [
        png(**NOVELAI_TEXTS, Comment=json.dumps(NOVELAI)),
        with_comment(WRAPPED, "WEBP"),
        with_comment(json.dumps(NOVELAI_TEXTS | {"Comment": NOVELAI}), "JPEG"),
    ],
)
def test_all_containers(data: bytes) -> None:
    result = found(data)
    assert (result.tool, result.settings, result.unknown) == ("NovelAI", SETTINGS, [])
    assert (result.other, result.notes) == ({}, NOTES)


def test_only_the_comment() -> None:
    result = found(with_comment(json.dumps(NOVELAI), "WEBP"))
    assert (result.tool, result.unknown) == ("NovelAI", ["model"])
    assert found(png(Comment=json.dumps(NOVELAI))).settings == result.settings


def test_the_first_version_has_the_prompt_in_the_description() -> None:
    comment = {"steps": 28, "sampler": "plms", "seed": 5, "strength": 0.69, "noise": 0.667, "scale": 12.0, "uc": "fog"}
    chunks = NOVELAI_TEXTS | {"Description": "a lighthouse", "Source": "Stable Diffusion 81274D13"}
    result = found(png(**chunks, Comment=json.dumps(comment)))
    assert result.settings == {
        "prompt": "a lighthouse", "negative_prompt": "fog", "seed": 5, "steps": 28, "sampler": "plms", "scale": 12.0,
        "model": "Stable Diffusion", "model_hash": "81274D13",
    }  # fmt: skip
    assert result.unknown == ["height", "width"]
    assert result.other == {"strength": 0.69, "noise": 0.667}


def test_characters() -> None:
    positive = {"base_caption": "two ships", "char_captions": [{"char_caption": "a captain", "centers": [{"x": 0.5}]}]}
    negative = {"base_caption": "rain", "char_captions": [{"char_caption": "hat"}, {"char_caption": ""}, 7]}
    result = found(with_values(v4_prompt={"caption": positive}, v4_negative_prompt={"caption": negative}, uc="x"))
    assert (result.settings["prompt"], result.settings["negative_prompt"]) == ("two ships", "rain")
    assert result.other == {"characters": ["a captain"], "negative characters": ["hat"]}
    assert "the image has prompts of its characters beside the prompt" in result.notes


@pytest.mark.parametrize(
    ("sampler", "schedule", "own"),
    [
        ("k_dpmpp_2m", "native", ("dpmpp_2m", "linspace")),
        ("k_dpmpp_2m_sde", "exponential", ("dpmpp_2m_sde", "exponential")),
        ("k_dpmpp_2s_ancestral", "karras", ("k_dpmpp_2s_ancestral", "karras")),
        ("ddim", None, ("ddim", None)),
        ("ddim_v3", None, ("ddim_v3", None)),
    ],
)
def test_samplers(sampler: str, schedule: str | None, own: tuple[str, str | None]) -> None:
    settings = found(with_values(sampler=sampler, noise_schedule=schedule)).settings
    assert (settings["sampler"], settings.get("schedule")) == own


def test_what_a_command_cannot_say() -> None:
    result = found(with_values(request_type="Img2ImgRequest", strength=0.6, cfg_rescale=0.4, sm=True, prompt="a"))
    assert result.other == {"request_type": "Img2ImgRequest", "strength": 0.6, "sm": True}
    assert result.settings["guidance_rescale"] == 0.4
    assert result.notes == (
        NOTES[0], "the sampler is a variant of NovelAI, SMEA", "the image was generated from another image",
    )  # fmt: skip


def test_a_damaged_comment() -> None:
    result = found(png(**NOVELAI_TEXTS, Comment="{"))
    assert result.settings["prompt"] == "a lighthouse, {storm}"
    assert result.notes[0] == "the settings in `Comment` are missing or damaged"


@pytest.mark.parametrize("comment", ["Created with an editor", "{}", '{"uc": "x"}', "[]", "7"])
def test_comments_of_other_programs(comment: str) -> None:
    assert read(png(Comment=comment, Software="An editor")) is None
