"""Runs of several images from the command line: prompt files, variables in prompts, one image to one file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compare import psnr
from PIL import Image

from tests.cli.runs import NO_MODEL, check_outdir, lines, opened, samples

if TYPE_CHECKING:
    from tests.cli.conftest import Sdcli


@pytest.mark.slow
def test_rows_with_errors(sdcli: Sdcli, tmp_path: Path) -> None:
    rows = sdcli.write(
        "rows.jsonl", '{"prompt": "a red apple"}', '{"promt": "a star"}', '{"prompt": "a fish", "seed": 7}',
        '{"prompt": "a house", "steps": -1}',
    )  # fmt: skip
    stopped = sdcli("--from-file", rows, "--outdir", "out", code=3)
    assert "rows.jsonl, line 2: an image has no setting promt" in stopped.stderr
    assert "Did you mean prompt?" in stopped.stderr
    assert "loading" not in stopped.stderr
    assert stopped.stdout == ""
    assert not (tmp_path / "out").exists()

    skipped = sdcli("--from-file", rows, "--outdir", "out", "--on-error", "skip", "--skip_grid", code=3)
    assert skipped.paths == ["out/samples/00000.png", "out/samples/00001.png"]
    assert "skipped: rows.jsonl, line 2: an image has no setting promt" in skipped.stderr
    assert "skipped: rows.jsonl, line 4: --ddim_steps -1 is out of range" in skipped.stderr
    assert "2 rows skipped (listed above)" in skipped.stderr
    assert skipped.stderr.count("line 2") == skipped.stderr.count("line 4") == 1, "each is reported once"
    generated = [line["job"] for line in lines(tmp_path / "out") if line["kind"] == "picture"]
    assert [(job["prompt"], job["seed"]) for job in generated] == [("a red apple", 42), ("a fish", 7)]
    # All images exist, and the rows have the same errors.
    again = sdcli("--from-file", rows, "--outdir", "out", "--on-error", "skip", "--skip_grid", "--resume", code=3)
    assert again.stdout == ""


@pytest.mark.slow
def test_an_image_of_a_batch_can_be_generated_alone_by_its_seed(sdcli: Sdcli, tmp_path: Path) -> None:
    plain = ("--seed-mode", "image", "--steps", "4", "--skip_grid", "--no-watermark", "--n_iter", "1")
    sdcli(*plain, "--prompt", "a yellow heart", "--seed", "7", "--n_samples", "3", "--outdir", "batch")
    sdcli(*plain, "--prompt", "a yellow heart", "--seed", "9", "--n_samples", "1", "--outdir", "alone")
    two = tmp_path / "batch/samples/00002.png"
    decibels = psnr(tmp_path / "alone/samples/00000.png", two)
    assert decibels >= 50
    assert psnr(tmp_path / "batch/samples/00001.png", two) < 30, "another seed gives another image"

    # In the same row of a batch of the same size, whatever else is in it, to the last bit.
    rows = sdcli.write(
        "rows.jsonl", '{"prompt": "a fish", "seed": 1}', '{"prompt": "a house", "seed": 2}',
        '{"prompt": "a yellow heart", "seed": 9}', '{"prompt": "a yellow heart", "seed": 9}',
    )  # fmt: skip
    sdcli(*plain, "--from-file", rows, "--n_samples", "3", "--outdir", "rows")
    print(f"\nalone {decibels:.1f} dB; in a batch of the same size, same row: "
          f"{psnr(tmp_path / 'rows/samples/00002.png', two):.1f} dB")  # fmt: skip
    assert opened(tmp_path / "rows/samples/00002.png").tobytes() == opened(two).tobytes()
    assert psnr(tmp_path / "rows/samples/00003.png", tmp_path / "alone/samples/00000.png") == float("inf")


@pytest.mark.slow
def test_prompts_from_standard_input_are_generated_as_they_arrive(sdcli: Sdcli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    run = sdcli.start("--from-file", "-", "--n_samples", "1", "--outdir", "out", stdin=tmp_path / "pipe")
    with (tmp_path / "pipe").open("w") as writer:
        writer.write("a red apple\n")
        writer.flush()
        run.until_saved(1)
        writer.write("# no prompt\n\na {blue|green} fish\n")
    assert run.code == 0, run.stderr
    assert run.paths == ["out/samples/00000.png", "out/samples/00001.png", "out/grid-0000.png"]
    words = [line["job"]["prompt"] for line in lines(tmp_path / "out") if line["kind"] == "picture"]
    assert words[0] == "a red apple"
    assert words[1] in ("a blue fish", "a green fish")
    assert "images" in run.stderr


@pytest.mark.slow
def test_rows_with_settings_and_names(sdcli: Sdcli, tmp_path: Path) -> None:
    rows = sdcli.write(
        "rows.jsonl",
        '{"prompt": "a red apple", "out": "fruit/apple", "seed": 7, "steps": 2, "scale": 3}',
        '{"prompt": "a fish", "negative_prompt": "blue", "images_per_prompt": 2, "scale": 4}',
    )
    ended = sdcli("--from-file", rows, "--outdir", "json")
    assert ended.paths == [
        "json/samples/fruit/apple.png", "json/samples/00000.png", "json/samples/00001.png", "json/grid-0000.png",
    ]  # fmt: skip
    apple, fish, again = (line["job"] for line in lines(tmp_path / "json") if line["kind"] == "picture")
    assert (apple["seed"], apple["steps"], apple["scale"], apple["out"]) == (7, 2, 3.0, "fruit/apple")
    assert (fish["prompt"], fish["negative_prompt"], fish["steps"], fish["seed"]) == ("a fish", "blue", 1, 42)
    assert (again["noise"]["row"], again["index"]) == (1, 2)
    assert (fish["scale"], again["scale"]) == (4.0, 4.0)
    check_outdir(tmp_path / "json")

    table = sdcli.write("rows.csv", "prompt,seed,out", '"a red apple, ripe",7,one', "a fish,,")
    named = sdcli("--from-file", table, "--outdir", "csv", "--skip_grid", "--output-name",
                  "{index:05}-{seed}-{prompt:slug}.png", "--images-per-prompt", "2")  # fmt: skip
    assert named.paths == [
        "csv/samples/one.png", "csv/samples/one-2.png", "csv/samples/00002-42-a-fish.png",
        "csv/samples/00003-42-a-fish.png",
    ]  # fmt: skip
    jobs = [line["job"] for line in lines(tmp_path / "csv") if line["kind"] == "picture"]
    assert [job["seed"] for job in jobs] == [7, 8, 42, 42]
    assert jobs[0]["prompt"] == "a red apple, ripe"
    assert samples(tmp_path / "csv")["one.png"] != samples(tmp_path / "csv")["one-2.png"]
    assert sdcli(
        "--from-file", table, "--outdir", "csv", "--skip_grid", "--output-name",
        "{index:05}-{seed}-{prompt:slug}.png", "--images-per-prompt", "2", "--resume", before=NO_MODEL,
    ).stdout == ""  # fmt: skip


@pytest.mark.slow
def test_matrix_generates_every_combination(sdcli: Sdcli, tmp_path: Path) -> None:
    (tmp_path / "wildcards").mkdir()
    sdcli.write("wildcards/things.txt", "# a comment", "apple", "star")
    ended = sdcli("--prompt", "a {red|blue} __things__", "--matrix", "--outdir", "out", "--skip_grid", "--output-name",
                  "{prompt:slug}.png")  # fmt: skip
    assert [Path(path).name for path in ended.paths] == [
        "a-red-apple.png", "a-red-star.png", "a-blue-apple.png", "a-blue-star.png",
    ]  # fmt: skip
    missing = sdcli("--prompt", "a __thingz__", "--outdir", "out", code=3)
    assert "Did you mean __things__?" in missing.stderr
    # With --compat, as in the original, these characters have no meaning.
    plain = sdcli("--prompt", "a cat, __things__ {x|y}", "--compat", "--outdir", "compat", "--skip_grid",
                  "--n_samples", "1", "--n_iter", "1")  # fmt: skip
    assert len(plain.paths) == 1
    (job,) = (line["job"] for line in lines(tmp_path / "compat") if line["kind"] == "picture")
    assert job["prompt"] == "a cat, __things__ {x|y}"


@pytest.mark.slow
def test_one_image_to_one_file(sdcli: Sdcli, tmp_path: Path) -> None:
    piped = sdcli("--prompt", "a red apple", "-o", "-")
    data = (piped.streams / "1").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.count(b"IHDR") == data.count(b"IEND") == 1
    assert data.index(b"IEND") == len(data) - 8, "nothing after the image"
    Image.open(io.BytesIO(data)).load()
    refused = sdcli("--prompt", "a red apple", "-o", "-", "--json", code=2)
    assert "-o - and --json" in refused.stderr
    assert refused.stdout == ""

    saved = sdcli("--prompt", "a red apple", "-o", "apple.png")
    assert saved.paths == ["apple.png"]
    assert (tmp_path / "apple.png").read_bytes() == data
    again = sdcli("--prompt", "a blue fish", "-o", "apple.png", code=7)
    assert "apple.png already exists" in again.stderr
    assert "loading" not in again.stderr
    assert (tmp_path / "apple.png").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["apple.png"], "a folder or a journal was written"
