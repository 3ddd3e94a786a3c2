"""`sdcli samplers`, and what the command line says of combinations that a sampler cannot do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sdcli.registry import SAMPLERS

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_samplers_are_listed_with_tabs(refuse: Run) -> None:
    ended = refuse("samplers")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert [row[0] for row in rows] == list(SAMPLERS)
    assert ["heun", "Heun", "2", "no", "auto, leading, linspace, trailing, karras, exponential, beta", ""] in rows
    assert ["tcd", "TCD", "1", "no", "auto", "--eta"] in rows


def test_samplers_as_json(refuse: Run) -> None:
    rows = {row["name"]: row for row in map(json.loads, refuse("samplers", "--json").stdout.splitlines())}
    assert rows.keys() == SAMPLERS.keys()
    euler_a = rows["euler_a"]
    assert (euler_a["title"], euler_a["cost"], euler_a["order"], euler_a["new_noise"]) == ("Euler a", 1, 0, True)
    assert "EulerAncestralDiscreteScheduler" in euler_a["names"]
    assert euler_a["sigmas"] and not euler_a["eta"]


@pytest.mark.parametrize(
    ("arguments", "what", "able"),
    [
        (("--sampler", "ddim", "--schedule", "karras"), "--schedule karras cannot be used", "dpmpp_2m"),
        (
            ("--sampler", "heun", "--schedule", "align-your-steps"),
            "--schedule align_your_steps cannot be used",
            "euler",
        ),
        (("--sampler", "heun", "--sigmas", "9,3,1"), "--sigmas cannot be used", "euler"),
        (("--sampler", "euler", "--eta", "0.5"), "--eta 0.5 cannot be used", "tcd"),
        (("--sampler", "euler", "--sigmas", "1,3,9"), "--sigmas '1,3,9' is not valid", "14.6"),
        (("--sampler", "euler", "--sigmas", "9,x"), "--sigmas '9,x' is not valid", "14.6"),
        (("--sampler", "lcm", "--steps", "60"), "--steps 60 does not work with LCM", "50"),
        (("--sampler", "dpmpp_2s", "--steps", "1"), "--steps 1 does not work with DPM++ 2S", "2"),
        (("--sampler", "dpmpp_2m", "--schedule", "leading", "--steps", "1000"), "--steps 1000 does not work", "500"),
    ],
)
def test_a_combination_that_a_sampler_cannot_do(refuse: Run, arguments: tuple[str, ...], what: str, able: str) -> None:
    ended = refuse("txt2img", "a cat", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert what in ended.stderr
    assert able in ended.stderr
