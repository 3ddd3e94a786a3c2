"""What is suggested for a name that does not exist, and when nothing is."""

from __future__ import annotations

import re

import pytest

from sdcli.settings import options
from sdcli.suggestions import ELSEWHERE, did_you_mean, elsewhere, near

FLAGS = [name for line in options().values() for name in line.names]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--stpes", "--steps"), ("--Steps", "--steps"), ("--widht", "--width"), ("--promt", "--prompt"),
        ("--sed", "--seed"), ("--samplr", "--sampler"), ("--n-sample", "--n_samples"), ("--skip-g", "--skip_grid"),
        ("--negative-promt", "--negative-prompt"), ("--guidence-scale", "--guidance-scale"),
    ],
)  # fmt: skip
def test_a_typing_error_is_near(typed: str, meant: str) -> None:
    assert meant in near(typed, FLAGS)


@pytest.mark.parametrize("typed", ["--hires", "--init-img", "--xformers", "--nonsense", "--q", "-s", "--", ""])
def test_nothing_is_near(typed: str) -> None:
    assert near(typed, FLAGS) == []


def test_long_names_are_not_compared() -> None:
    assert near("steps" * 1000, FLAGS) == []


def test_the_question() -> None:
    assert did_you_mean([]) == ""
    assert did_you_mean(["--steps", "--step"]) == "Did you mean --steps or --step?"


def test_flags_of_other_tools_have_an_answer() -> None:
    assert "not supported yet" in elsewhere("--controlnet")
    assert "--lora FILE:WEIGHT" in elsewhere("--lora-scale")
    assert "Image to image" in elsewhere("--init-img")
    assert elsewhere("--init_img") == elsewhere("--INIT-IMG") == elsewhere("init_img")
    assert "--schedule" in elsewhere("--karras")
    assert elsewhere("-s") != elsewhere("-S")
    assert elsewhere("--s") == elsewhere("s") == ""
    assert elsewhere("--steps") == ""


def test_the_table_has_no_flag_of_sdcli_and_its_sentences_name_only_such() -> None:
    known = {name.replace("-", "_") for line in options().values() for name in (*line.names, *line.aliases)}
    known |= {"__debug", "__quiet", "_"}
    for name, text in ELSEWHERE.items():
        assert f"{'_' * min(len(name), 2)}{name}" not in known, name
        assert "-" not in name
        assert text.endswith("."), name
        for flag in re.findall(r"(?<!\S)-[-\w]*", text):
            assert flag.replace("-", "_") in known, (name, flag)
