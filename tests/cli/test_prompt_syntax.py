"""`--prompt-syntax`, `--long-prompt` and `--clip-skip` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("a cat", "--prompt-syntax", "a111"), "--prompt-syntax 'a111' is not valid"),
        (("a cat", "--clip-skip", "0"), "--clip-skip 0 is out of range"),
        (("a (cat:2000)", "--prompt-syntax", "a1111"), "has a weight of 2000, and the limit is 1000"),
        (("(" * 90 + "cat", "--prompt-syntax", "a1111"), "and the limit is 1000"),
        (("cat " * 30_000, "--long-prompt", "chunk"), "has 120,000 characters, and the limit is 100,000"),
    ],
)
def test_what_cannot_be_encoded(refuse: Run, arguments: tuple[str, ...], what: str) -> None:
    ended = refuse("txt2img", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert what in ended.stderr


def test_notes_and_a_dry_run(refuse: Run) -> None:
    plain = refuse("txt2img", "a (red:1.3) apple", "--dry-run")
    assert "(red:1.3) is read as text; if it is not meant so, pass --prompt-syntax a1111" in plain.stderr
    prompt = "a (red:1.3) apple AND fish :0.5"
    negative = ("--negative-prompt", "(blurry:1,5)")
    weighted = refuse("txt2img", prompt, *negative, "--prompt-syntax", "a1111", "--dry-run")
    assert weighted.returncode == 0
    assert "part 1: 'a', 'red' x 1.3, 'apple'\n" in weighted.stderr
    assert "part 2 x 0.5: 'fish'\n" in weighted.stderr
    assert "negative prompt: 'blurry : 1 , 5' x 1.1\n" in weighted.stderr
    assert "in the negative prompt, the weight in (blurry:1,5) is not a number, and is read as text" in weighted.stderr
    missing = refuse("txt2img", "a fish <lora:ink:0.5>", "--prompt-syntax", "a1111", "--dry-run")
    assert missing.returncode == 4
    assert "there is no adapter ink in adapters" in missing.stderr
    novelai = refuse("txt2img", "a {{red|blue}} fish", "--prompt-syntax", "novelai", "--dry-run", "--json")
    (line,) = map(json.loads, novelai.stdout.splitlines())
    assert line["job"]["prompt"] == "a {{red|blue}} fish"
    assert line["encoded"][0]["chunks"][0][1] == ["red | blue", pytest.approx(1.1025)]


def test_words_of_other_languages_keep_their_weights(refuse: Run) -> None:
    ended = refuse("txt2img", "eine (Katze:1.3), [Hund]", "--prompt-syntax", "a1111", "--dry-run", "--json")
    (line,) = map(json.loads, ended.stdout.splitlines())
    assert "(a cat:1.3)" in line["job"]["read_as"] and "[a dog]" in line["job"]["read_as"]


@pytest.mark.slow
def test_images_and_what_is_recorded(run: Run, tmp_path: Path) -> None:
    """Weights change an image. It is generated again from its record, its command and its parameters."""
    few = ("--steps", "2", "--no-watermark", "--safety-checker", "off")
    weighted = ("--prompt-syntax", "a1111", "--long-prompt", "chunk", "--clip-skip", "2")
    prompt = "a (fish:1.6) [cat:dog:1] AND a cat :0.3"
    run("txt2img", prompt, "-o", "weighted.png", *few, *weighted)
    run("txt2img", prompt, "-o", "plain.png", *few)
    images = {name: np.asarray(Image.open(tmp_path / name)).astype(float) for name in ("weighted.png", "plain.png")}
    assert np.abs(images["weighted.png"] - images["plain.png"]).mean() > 1
    command = run("inspect", "weighted.png", "--command").stdout
    assert all(flag in command for flag in ("--prompt-syntax a1111", "--long-prompt chunk", "--clip-skip 2"))
    with Image.open(tmp_path / "weighted.png") as image:
        assert "Prompt syntax: a1111, Long prompt: chunk, Clip skip: 2" in image.info["parameters"]
    assert "identical" in run("rerun", "weighted.png", "--outdir", "again").stderr
