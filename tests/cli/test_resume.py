"""`--resume`: runs that were killed, two runs at once, and what is missing in a folder."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compare import psnr

from tests.cli.runs import (
    LOADED,
    NO_MODEL,
    check_outdir,
    hidden,
    kill_at,
    lines,
    log_file_events,
    pause_at,
    prompts,
    samples,
    visible,
)  # fmt: skip

if TYPE_CHECKING:
    from tests.cli.conftest import Sdcli

BATCHES = 8
KILLS = 8


@pytest.mark.slow
def test_a_run_killed_at_any_moment_can_be_resumed(sdcli: Sdcli, tmp_path: Path) -> None:
    """Killed between the changes to files of its start and first batch, and in the milliseconds after such a change."""
    command = ("--from-file", sdcli.write("prompts.txt", *prompts(2 * BATCHES)), "--n_samples", "2", "--n_iter", "1")
    sdcli(*command, "--outdir", "whole", before=log_file_events("whole"))
    events = (tmp_path / "events").read_text().splitlines()
    first = next(number for number, event in enumerate(events) if "samples/00000" in event)
    batch = (len(events) - first) // BATCHES
    # No start gets further than a little over one batch, so each is killed before its work is done.
    moments = [1 + kill * (first + batch) // KILLS for kill in range(KILLS)]
    chance = random.Random(60)
    for kill, moment in enumerate(moments):
        seconds = chance.uniform(0.0005, 0.02) if kill % 2 else 0.0
        before = kill_at(moment, outdir="out", seconds=seconds)
        sdcli(
            *command,
            "--outdir",
            "out",
            "--resume",
            before=before,
            code=-(signal.SIGALRM if seconds else signal.SIGKILL),
        )
    assert 0 < len(visible(tmp_path / "out")) < 2 * BATCHES
    sdcli(*command, "--outdir", "out", "--resume")
    assert len(check_outdir(tmp_path / "out")) == 2 * BATCHES + 1
    assert samples(tmp_path / "out") == samples(tmp_path / "whole")
    # The images of the grid that were read from their files have a watermark already.
    assert psnr(tmp_path / "out/grid-0000.png", tmp_path / "whole/grid-0000.png") >= 35


@pytest.mark.slow
def test_a_file_that_a_killed_run_has_begun_to_write_is_removed(sdcli: Sdcli, tmp_path: Path) -> None:
    """Killed when the file is complete and is about to get its name."""
    command = ("--prompt", "a red apple", "--n_samples", "1", "--n_iter", "4", "--outdir", "out", "--resume")
    sdcli(*command, before=kill_at(2, outdir="out", kinds=("os.link", "os.rename")), code=-signal.SIGKILL)
    assert len(visible(tmp_path / "out")) == len(hidden(tmp_path / "out")) == 1
    sdcli(*command)
    assert len(check_outdir(tmp_path / "out")) == 5


@pytest.mark.slow
def test_two_runs_at_once_in_one_folder(sdcli: Sdcli, tmp_path: Path) -> None:
    same = ("--n_samples", "2", "--n_iter", "2", "--outdir", "out")
    apples = sdcli.start("--prompt", "a red apple", *same, before=pause_at(2)).until((tmp_path / "paused").exists)
    stars = sdcli("--prompt", "a yellow star", *same)
    (tmp_path / "continue").touch()
    assert apples.code == 0, apples.stderr
    assert len(apples.paths) == len(stars.paths) == 5
    assert not set(apples.paths) & set(stars.paths), "two runs wrote one file"
    assert len(check_outdir(tmp_path / "out", journals=("run-0000.jsonl", "run-0001.jsonl"))) == 10
    for name in ("run-0000.jsonl", "run-0001.jsonl"):
        head, *images, grid = lines(tmp_path / "out", name)
        assert head["kind"] == "run"
        assert grid["kind"] == "grid"
        assert {line["job"]["prompt"] for line in images} == {head["settings"]["prompt"]}


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(sdcli: Sdcli, tmp_path: Path) -> None:
    """The same command twice with --resume: the second leaves the batch to the first that the first is generating."""
    command = ("--prompt", "a red apple", "--n_samples", "2", "--n_iter", "5", "--outdir", "out", "--resume")
    one = sdcli.start(*command, before=pause_at(2)).until((tmp_path / "paused").exists)
    other = sdcli(*command)
    assert len(other.paths) == 6
    (tmp_path / "continue").touch()
    assert one.code == 0, one.stderr
    assert len([path for path in one.paths if "samples" in path]) == 4
    last = sdcli(*command)
    assert len(visible(tmp_path / "out/samples")) == 10
    names = sorted(path.name for path in (tmp_path / "out").glob("run-*.jsonl"))
    assert len(check_outdir(tmp_path / "out", journals=names)) == 11
    keys = [line["key"] for name in names for line in lines(tmp_path / "out", name) if "key" in line]
    assert len(keys) == len(set(keys)) == 11, "an image was generated twice"
    saved = one.paths + other.paths + last.paths
    assert len(saved) == len(set(saved)) == 11
    assert (tmp_path / "out/grid-0000.png").is_file()


@pytest.mark.slow
def test_resume_generates_what_is_missing(sdcli: Sdcli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = sdcli.write("prompts.txt", *prompts(3))
    command = ("--from-file", file, "--n_iter", "1", "--seed-mode", "image", "--outdir", "out", "--resume")
    (out / "samples").mkdir(parents=True)
    whole = sdcli(*command)
    assert whole.paths == [*(f"out/samples/{n:05}.png" for n in range(3)), "out/grid-0000.png"], "an empty folder"
    before = samples(out)

    # Nothing is left to do.
    again = sdcli(*command, before=NO_MODEL)
    assert again.stdout == ""
    assert again.stderr.splitlines()[-1] == "sdcli: all 3 images exist; nothing to generate"
    assert "generating" not in again.stderr
    # A gallery is written if there is none.
    for _ in range(2):
        sdcli(*command, "--gallery", before=NO_MODEL)
        assert [path.name for path in out.glob("gallery*")] == ["gallery-0000.html"]
    assert [line["kind"] for line in lines(out)] == ["run", "picture", "picture", "picture", "grid"]

    # From another folder, with the settings of the journal alone; its last line is cut off.
    (tmp_path / "elsewhere").mkdir()
    (out / "samples/00000.png").unlink()
    (out / "samples/00001.png").unlink()
    with (out / "run-0000.jsonl").open("ab") as journal:
        journal.write(b'{"kind": "picture", "file": "samples/000')
    third = sdcli.plain("--resume", out, cwd=tmp_path / "elsewhere")
    assert third.code == 0, third.stderr
    assert third.paths == [f"{out}/samples/00000.png", f"{out}/samples/00001.png"]
    assert samples(out) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(check_outdir(out)) == 4

    # Two more prompts.
    sdcli.write("prompts.txt", *prompts(5))
    assert sdcli(*command, code=LOADED, before=NO_MODEL).stdout == "", "NO_MODEL has no effect"
    more = sdcli(*command)
    assert more.paths == ["out/samples/00003.png", "out/samples/00004.png", "out/grid-0001.png"]
    assert len(check_outdir(out)) == 7
    assert {name: before[name] for name in before} == {name: samples(out)[name] for name in before}

    # A file that somebody changed is left as it is.
    before = samples(out)
    (out / "samples/00001.png").write_bytes(b"mine")
    beside = sdcli(*command)
    assert beside.paths == ["out/samples/00001-2.png"]
    assert samples(out) == before | {"00001.png": b"mine", "00001-2.png": before["00001.png"]}
    assert sdcli(*command).stdout == ""


@pytest.mark.slow
def test_nothing_to_resume(sdcli: Sdcli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        refused = sdcli.plain("--resume", name)
        assert refused.code == 3, refused.stderr
        assert name in refused.stderr
        assert "--outdir" in refused.stderr
    assert not (tmp_path / "missing").exists()
    assert list((tmp_path / "empty").iterdir()) == []
