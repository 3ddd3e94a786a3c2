"""PNG files that say how they were made."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from sdcli.jobs import Job
from sdcli.outputs.png import encode, parameters


def job(**changes: object) -> Job:
    values = {
        "prompt": "a cat", "negative_prompt": "", "seed": 7, "rng": "cuda", "noise": {}, "height": 64, "width": 128,
        "steps": 20, "sampler": "plms", "scale": 7.5, "eta": 0.0, "precision": "full", "model": "builtin",
        "model_hash": "0123456789abcdef", "index": 3,
    }  # fmt: skip
    return Job.model_validate(values | changes)


def test_pixels_and_texts_come_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    record = {"sdcli": "1", "job": job(prompt="ein Café, 猫 🐱").model_dump(mode="json")}
    read = Image.open(io.BytesIO(encode(pixels, record, "words\nSteps: 1")))
    assert np.array_equal(np.asarray(read), pixels)
    assert json.loads(read.text["sdcli"]) == record
    assert read.text["parameters"] == "words\nSteps: 1"
    assert Job.model_validate(json.loads(read.text["sdcli"])["job"]).prompt == "ein Café, 猫 🐱"


def test_the_same_record_gives_the_same_bytes() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    assert encode(pixels, {"a": 1}, "p") == encode(pixels, {"a": 1}, "p")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "a cat\nSteps: 20, Sampler: PLMS, CFG scale: 7.5, Seed: 7, Size: 128x64, Model hash: 0123456789, "
            "Model: builtin, RNG: NV, Version: sdcli 9",
        ),
        (
            {"negative_prompt": "dog", "sampler": "ddim", "eta": 0.5, "rng": "cpu", "model": "a, b"},
            "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 128x64, "
            'Model hash: 0123456789, Model: "a, b", Eta: 0.5, RNG: CPU, Version: sdcli 9',
        ),
    ],
)
def test_the_widespread_text_form(changes: dict[str, object], text: str) -> None:
    assert parameters(job(**changes), "9") == text
