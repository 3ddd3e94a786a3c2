"""What a run says about guidance that is applied twice, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from sdcli.run import Run
from sdcli.settings import Settings


def notes(**given: Any) -> list[str]:
    return Run(Settings.of(prompt="a cat", safety_checker="off", **given)).notes


@pytest.mark.parametrize("scale", [0.0, 1.5, 7.5])
def test_guidance_beside_that_of_the_weights(scale: float) -> None:
    (note,) = notes(model="builtin-fast", scale=scale)
    assert note.startswith(f"--scale {scale:g} is applied beside the guidance in the weights of the model builtin-fast")


@pytest.mark.parametrize("given", [{"model": "builtin-fast"}, {"scale": 1.0}])
def test_a_negative_prompt_without_guidance(given: dict[str, Any]) -> None:
    assert notes(negative_prompt="a dog", **given) == ["--negative-prompt has no effect at a guidance scale of 1"]
    assert notes(**given) == []


def test_usual_guidance_needs_no_note() -> None:
    assert notes(negative_prompt="a dog") == notes(scale=3.0) == notes(model="builtin-fast", scale=1.0) == []
