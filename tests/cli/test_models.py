"""`sdcli models words`, and what the command line says of words that the builtin model does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.cli.conftest import Run

SMALL = ("--steps", "1", "--n_samples", "1", "--n_iter", "1", "--skip_grid", "--safety-checker", "off")


def test_words_are_listed_with_tabs(refuse: Run) -> None:
    ended = refuse("models", "words")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert len(rows) == 881
    assert {len(row) for row in rows} == {3}
    assert ["🍎", "red apple", "apple"] in rows
    assert [name for _, name, _ in rows] == sorted(name for _, name, _ in rows)


@pytest.mark.parametrize(("search", "name"), [("Katze", "cat"), ("🍎", "red apple"), ("ロケット", "rocket")])
def test_words_are_found_in_any_language(refuse: Run, search: str, name: str) -> None:
    ended = refuse("models", "words", search, "--json")
    first = json.loads(ended.stdout.splitlines()[0])
    assert first.keys() == {"emoji", "name", "names", "found"}
    assert first["name"] == name


def test_nothing_found(refuse: Run) -> None:
    ended = refuse("models", "words", "elephamt")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "knows nothing called 'elephamt'; the nearest names: elephant" in ended.stderr


def test_no_word_known_is_an_error_before_anything_is_written(refuse: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a cat\nasdf\n")
    for arguments, code in ((("--prompt", "an aple"), 2), (("--from-file", "rows.txt"), 3)):
        ended = refuse("txt2img", *arguments, "--outdir", "out")
        assert (ended.returncode, ended.stdout) == (code, "")
        assert "the model builtin knows no word of the prompt" in ended.stderr
        assert "sdcli models words" in ended.stderr
        assert "--any-words" in ended.stderr
        assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_reading(run: Run) -> None:
    printed = run("txt2img", *SMALL, "--prompt", "a spaceship and a king", "--dry-run")
    assert "sdcli: spaceship: drawn as rocket\nsdcli: king: not known to the model, ignored\n" in printed.stderr
    assert "a spaceship and a king (read as 'a rocket', seed 42" in printed.stderr
    quiet = run("txt2img", *SMALL, "--prompt", "a spaceship", "--dry-run", "--json", "--quiet")
    assert quiet.stderr == ""
    values = json.loads(quiet.stdout)
    assert values["reading"] == {"taken": {"spaceship": "rocket"}}
    assert values["job"]["read_as"] == "a rocket"


@pytest.mark.slow
def test_the_record_keeps_the_reading_and_a_rerun_repeats_it(run: Run, tmp_path: Path) -> None:
    ended = run("txt2img", *SMALL, "--prompt", "ein Hund mit Astronaut", "--outdir", "out", "--json")
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    assert (record["job"]["prompt"], record["job"]["read_as"]) == ("ein Hund mit Astronaut", "a dog")
    assert record["reading"] == {"taken": {"Hund": "dog"}, "unknown": ["Astronaut"]}
    image = record["file"]

    shown = run("inspect", image).stdout
    for row in ("Read as", "a dog", "Hund: dog", "Not known", "Astronaut"):
        assert row in shown
    command = run("inspect", "--command", image).stdout
    assert "--prompt 'ein Hund mit Astronaut'" in command

    again = run("rerun", image, "--outdir", "again", "--json")
    assert json.loads(again.stdout)["comparison"]["same"]
    assert "drawn as" not in again.stderr, "the record says how it was read"
    other = run("rerun", image, "--set", "prompt=un gato", "--outdir", "again", "--json")
    assert json.loads(other.stdout)["job"]["read_as"] == "a cat"

    plain = run("txt2img", *SMALL, "--prompt", "a dog", "--outdir", "plain", "--json")
    assert json.loads(plain.stdout)["job"].keys() == record["job"].keys() - {"read_as"}
    compared = run("txt2img", *SMALL, "--prompt", "un perro", "--outdir", "plain", "--json")
    files = [json.loads(each.stdout)["file"] for each in (plain, compared)]
    pixels = []
    for file in files:
        with Image.open(tmp_path / file) as opened:
            pixels.append(opened.tobytes())
    assert pixels[0] == pixels[1], "the same words for the text encoder give the same image"


@pytest.mark.slow
def test_the_few_step_model(run: Run, tmp_path: Path) -> None:
    """Its own steps and guidance scale are used and recorded; the same seed gives the same image."""
    one = ("--n_samples", "1", "--n_iter", "1", "--skip_grid", "--safety-checker", "off", "--prompt", "a red apple")
    images = [run("txt2img", "--model", "builtin-fast", *one, "--outdir", out, "--json") for out in ("one", "two")]
    assert [ended.returncode for ended in images] == [0, 0], images[0].stderr
    records = [json.loads(ended.stdout) for ended in images]
    job = records[0]["job"]
    chosen = {name: job[name] for name in ("model", "steps", "scale", "sampler", "eta", "height", "width")}
    assert chosen == {
        "model": "builtin-fast", "steps": 4, "scale": 1.0, "sampler": "ddim", "eta": 0.0, "height": 256, "width": 256,
    }  # fmt: skip
    pixels = []
    for record in records:
        with Image.open(tmp_path / record["file"]) as opened:
            assert opened.size == (256, 256)
            pixels.append(opened.tobytes())
    assert pixels[0] == pixels[1]

    command = run("inspect", "--command", records[0]["file"]).stdout
    assert "--ddim_steps 4 --sampler ddim --scale 1.0 --seed 42 --model builtin-fast" in command
    again = run("rerun", records[0]["file"], "--outdir", "again", "--json")
    assert json.loads(again.stdout)["comparison"]["same"]
    full = run("rerun", records[0]["file"], "--set", "model=builtin", "--outdir", "again", "--json")
    assert (full.returncode, "model" in full.stderr) == (2, True), "the model is not a setting of one image"

    guided = run("txt2img", "--model", "builtin-fast", *one, "--scale", "2", "--outdir", "guided")
    assert "--scale 2 is applied beside the guidance in the weights of the model builtin-fast" in guided.stderr
