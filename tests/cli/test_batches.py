"""Long runs from the command line: stopped and gone on with, two at once, on full disks, from all kinds of prompts."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.cli.conftest import ForkServer, RunningProcess, Sdcli


def prompts(count: int) -> list[str]:
    return [f"a {('red', 'green', 'blue')[n % 3]} {('apple', 'star', 'house', 'fish')[n % 4]}" for n in range(count)]


def lines(outdir: Path, name: str = "run-0000.jsonl") -> list[dict[str, Any]]:
    """A record's lines, each of which has to be whole."""
    data = (outdir / name).read_bytes()
    assert data.endswith(b"\n"), "the record ends in the middle of a line"
    return [json.loads(line) for line in data.splitlines()]


def visible(outdir: Path) -> list[Path]:
    """Every image, as the folder has it."""
    return sorted(path for path in outdir.rglob("*.png") if not path.name.startswith("."))


def check_record(outdir: Path, *, names: Sequence[str] = ("run-0000.jsonl",)) -> dict[str, dict[str, Any]]:
    """That files and records agree, that every file is whole, and no other is there; the last line of each key."""
    assert sorted(path.name for path in outdir.glob("run-*.jsonl")) == sorted(names)
    said: dict[str, dict[str, Any]] = {}
    for name in names:
        said |= {line["key"]: line for line in lines(outdir, name) if "key" in line}
    files = [line["file"] for line in said.values() if line.get("file")]
    assert len(files) == len(set(files)), "two images have one name"
    assert sorted(files) == [path.relative_to(outdir).as_posix() for path in visible(outdir)]
    for line in said.values():
        if line.get("file"):
            path = outdir / line["file"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"], path
            with Image.open(path) as image:
                image.load()
    hidden = [path for path in outdir.rglob(".*") if path.name != ".sdcli-lock"]
    assert hidden == [], "files that a run had begun to write"
    return said


def bytes_of(outdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (outdir / "samples").rglob("*.png")}


def psnr(one: Path, other: Path) -> float:
    a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (one, other))
    assert a.shape == b.shape
    error = float(((a - b) ** 2).mean())
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


KILLS = 20


@pytest.mark.slow
def test_killed_at_any_instant_a_run_can_be_gone_on_with(sdcli: Sdcli, tmp_path: Path) -> None:
    """20 kills, which nothing can catch, while it loads and while it draws 60 images in batches of 3."""
    began = time.monotonic()
    command = ("--from-file", sdcli.write("prompts.txt", *prompts(60)), "--n_samples", "3", "--n_iter", "1")
    reference = sdcli.start(*command, "--outdir", "whole").until_saved(1)
    first = time.monotonic() - reference.began
    assert reference.code == 0, reference.stderr
    length = time.monotonic() - reference.began
    assert len(reference.paths) == 61

    # Every other kill is at an instant counted from the start of its process, which may be before the first image, as
    # loading takes longer when the machine is busy. The others are counted from the first image of that process.
    chance = random.Random(60)
    batch = (length - first) / 20
    living = drawing = 0
    for kill in range(KILLS):
        before = len(visible(tmp_path / "out"))
        run = sdcli.start(*command, "--outdir", "out", "--resume")
        if kill % 2:
            while not run.paths and run.alive():
                time.sleep(0.005)
            time.sleep(chance.uniform(0, batch))
        else:
            time.sleep(max(0.0, run.began + chance.uniform(0, first + 2 * batch) - time.monotonic()))
        if run.alive():
            living += 1
            run.send(signal.SIGKILL)
            assert run.code == -signal.SIGKILL
        else:
            assert run.code == 0, run.stderr
        drawing += len(visible(tmp_path / "out")) > before
    rest = sdcli(*command, "--outdir", "out", "--resume")

    seconds = time.monotonic() - began
    print(f"\n{KILLS} kills, {living} of a living process, {drawing} after an image of that start; "
          f"{len(visible(tmp_path / 'out'))} files, {len(rest.paths)} by the last start; "
          f"whole run {length:.1f} s, first image after {first:.1f} s; {seconds:.0f} s in all")  # fmt: skip
    assert living >= KILLS / 2
    assert drawing >= KILLS / 4, "kills are to fall while it draws"
    said = check_record(tmp_path / "out")
    assert len(said) == 61
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    # The grid's images that were read from their files carry their marks.
    assert psnr(tmp_path / "out/grid-0000.png", tmp_path / "whole/grid-0000.png") >= 35


@pytest.mark.slow
def test_a_file_that_a_killed_run_had_begun_to_write_does_not_stay(sdcli: Sdcli, tmp_path: Path) -> None:
    """Killed as soon as a file without its name is seen, which is only for as long as the disk takes to write it."""
    command = ("--prompt", "a red apple", "--n_samples", "1", "--n_iter", "12", "--outdir", "out")
    samples = tmp_path / "out/samples"
    left: list[Path] = []
    for _ in range(3):
        run = sdcli.start(*command, "--resume")
        while run.alive():
            if any(samples.glob(".sdcli-*")):
                run.send(signal.SIGKILL)
                break
        run.wait()
        if left := [*samples.glob(".sdcli-*")]:
            break
    if not left:
        pytest.skip("this disk is too fast to be caught writing")
    sdcli(*command, "--resume")
    assert len(check_record(tmp_path / "out")) == 13


@pytest.mark.slow
def test_two_runs_at_once_in_one_folder(sdcli: Sdcli, tmp_path: Path) -> None:
    same = ("--n_samples", "2", "--n_iter", "4", "--outdir", "out")
    apples, stars = (sdcli.start("--prompt", words, *same) for words in ("a red apple", "a yellow star"))
    assert (apples.code, stars.code) == (0, 0), apples.stderr + stars.stderr
    assert len(apples.paths) == len(stars.paths) == 9
    assert not set(apples.paths) & set(stars.paths), "each has names of its own"
    assert len(check_record(tmp_path / "out", names=("run-0000.jsonl", "run-0001.jsonl"))) == 18
    for name in ("run-0000.jsonl", "run-0001.jsonl"):
        head, *images, grid = lines(tmp_path / "out", name)
        assert head["kind"] == "run"
        assert grid["kind"] == "grid"
        assert {line["job"]["prompt"] for line in images} == {head["settings"]["prompt"]}


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(sdcli: Sdcli, tmp_path: Path) -> None:
    """The same command twice with --resume: each image is drawn by one of them."""
    command = ("--prompt", "a red apple", "--n_samples", "2", "--n_iter", "10", "--outdir", "out", "--resume")
    one, other = sdcli.start(*command), sdcli.start(*command)
    assert (one.code, other.code) == (0, 0), one.stderr + other.stderr
    assert [path for path in one.paths if "samples" in path], other.stderr
    assert [path for path in other.paths if "samples" in path], one.stderr
    last = sdcli(*command)
    assert len(visible(tmp_path / "out/samples")) == 20
    names = sorted(path.name for path in (tmp_path / "out").glob("run-*.jsonl"))
    assert len(check_record(tmp_path / "out", names=names)) == 21
    keys = [line["key"] for name in names for line in lines(tmp_path / "out", name) if "key" in line]
    assert len(keys) == len(set(keys)) == 21, "nothing is drawn twice"
    told = one.paths + other.paths + last.paths
    assert len(told) == len(set(told)) == 21
    assert (tmp_path / "out/grid-0000.png").is_file()


NO_MODEL = """
import sdcli.executors.local
def refuse(self):
    raise AssertionError("the model is asked for")
sdcli.executors.local.Easel.model = property(refuse)
"""
"""Makes a bug of whatever asks for the model."""


@pytest.mark.slow
def test_resume_draws_what_is_missing(sdcli: Sdcli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = sdcli.write("prompts.txt", *prompts(3))
    command = ("--from-file", file, "--n_iter", "1", "--seed-mode", "image", "--outdir", "out", "--resume")
    (out / "samples").mkdir(parents=True)
    whole = sdcli(*command)
    assert whole.paths == [*(f"out/samples/{n:05}.png" for n in range(3)), "out/grid-0000.png"], "an empty folder"
    before = bytes_of(out)

    # Nothing is left to do.
    again = sdcli(*command, before=NO_MODEL)
    assert again.stdout == ""
    assert "3 of 3 images were there already" in again.stderr
    assert [line["kind"] for line in lines(out)] == ["run", "picture", "picture", "picture", "grid"]

    # From another folder, with the recorded settings alone; the last line is torn.
    (tmp_path / "elsewhere").mkdir()
    (out / "samples/00000.png").unlink()
    (out / "samples/00001.png").unlink()
    with (out / "run-0000.jsonl").open("ab") as record:
        record.write(b'{"kind": "picture", "file": "samples/000')
    third = sdcli.plain("--resume", out, cwd=tmp_path / "elsewhere")
    assert third.code == 0, third.stderr
    assert third.paths == [f"{out}/samples/00000.png", f"{out}/samples/00001.png"]
    assert bytes_of(out) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(check_record(out)) == 4

    # Two more prompts.
    sdcli.write("prompts.txt", *prompts(5))
    assert sdcli(*command, code=70, before=NO_MODEL).stdout == "", "what was patched is what loads the model"
    more = sdcli(*command)
    assert more.paths == ["out/samples/00003.png", "out/samples/00004.png", "out/grid-0001.png"]
    assert len(check_record(out)) == 7
    assert {name: before[name] for name in before} == {name: bytes_of(out)[name] for name in before}

    # What somebody painted over is theirs.
    before = bytes_of(out)
    (out / "samples/00001.png").write_bytes(b"mine")
    beside = sdcli(*command)
    assert beside.paths == ["out/samples/00001-2.png"]
    assert bytes_of(out) == before | {"00001.png": b"mine", "00001-2.png": before["00001.png"]}
    assert sdcli(*command).stdout == ""


@pytest.mark.slow
def test_nothing_to_resume(sdcli: Sdcli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        refused = sdcli.plain("--resume", name)
        assert refused.code == 3, refused.stderr
        assert f"there is no run to resume in {name}" in refused.stderr
        assert "--outdir" in refused.stderr
    assert not (tmp_path / "missing").exists()
    assert list((tmp_path / "empty").iterdir()) == []


TWELVE = ("--prompt", "a red apple", "--n_samples", "2", "--n_iter", "6", "--outdir", "out")


@pytest.fixture(scope="module")
def twelve(sdcli_in: Callable[[Path], Sdcli], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `TWELVE` draws if nothing stops it."""
    folder = tmp_path_factory.mktemp("twelve")
    sdcli_in(folder)(*TWELVE)
    assert len(check_record(folder / "out")) == 13
    return bytes_of(folder / "out")


def kept(stopped: RunningProcess, out: Path, twelve: dict[str, bytes]) -> None:
    """That a run which did not end well left whole images, those that it told of among them, and a whole record."""
    files = bytes_of(out)
    told = [Path(path).name for path in stopped.paths]
    assert set(told) <= set(files)
    assert 0 < len(files) < 12
    assert files == {name: twelve[name] for name in files}
    images = [line["file"] for line in lines(out) if line["kind"] == "picture"]
    # The line comes first: of the last image there may be no more than that.
    assert [f"samples/{name}" for name in sorted(files)] in (images, images[:-1])
    assert [path.name for path in out.rglob(".*")] == [".sdcli-lock"]
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "the terminal has gone"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_keeps_what_is_saved(
    sdcli: Sdcli, tmp_path: Path, twelve: dict[str, bytes], number: int, code: int, says: str
) -> None:
    run = sdcli.start(*TWELVE, "--quiet").until_saved(2)
    run.send(number)
    assert run.code == code, run.stderr
    assert says in run.stderr
    assert "--resume" in run.stderr
    kept(run, tmp_path / "out", twelve)
    rest = sdcli(*TWELVE, "--resume", "--quiet")
    assert rest.stderr == ""
    assert not set(rest.paths) & set(run.paths)
    assert bytes_of(tmp_path / "out") == twelve
    assert len(check_record(tmp_path / "out")) == 13


@pytest.mark.slow
def test_a_reader_of_paths_that_goes_ends_the_run(sdcli: Sdcli, tmp_path: Path, twelve: dict[str, bytes]) -> None:
    """As with `| head -1`."""
    os.mkfifo(tmp_path / "pipe")
    run = sdcli.start(*TWELVE, stdout=tmp_path / "pipe")
    with (tmp_path / "pipe").open() as reader:
        assert reader.readline() == "out/samples/00000.png\n"
    assert run.code == 141, run.stderr
    assert "BrokenPipe" not in run.stderr
    kept(run, tmp_path / "out", twelve)
    sdcli(*TWELVE, "--resume")
    assert bytes_of(tmp_path / "out") == twelve


@pytest.mark.slow
def test_a_standard_output_that_is_full(sdcli: Sdcli, tmp_path: Path, twelve: dict[str, bytes]) -> None:
    run = sdcli(*TWELVE, code=7, stdout="/dev/full")
    assert "cannot write to standard output" in run.stderr
    assert "kept" in run.stderr
    kept(run, tmp_path / "out", twelve)
    one = sdcli("--prompt", "a red apple", "-o", "-", code=7, stdout="/dev/full")
    assert "cannot write to standard output" in one.stderr


@pytest.mark.slow
def test_a_folder_that_goes_while_it_is_written_to(sdcli: Sdcli, tmp_path: Path, twelve: dict[str, bytes]) -> None:
    """`samples` becomes a file."""
    out = tmp_path / "out"
    run = sdcli.start(*TWELVE).until_saved(2)
    (out / "samples").rename(tmp_path / "moved")
    (out / "samples").touch()
    assert run.code == 7, run.stderr
    assert "cannot write to out/samples" in run.stderr
    (out / "samples").unlink()
    (tmp_path / "moved").rename(out / "samples")
    kept(run, out, twelve)
    sdcli(*TWELVE, "--resume")
    assert bytes_of(out) == twelve
    assert len(check_record(out)) == 13


@pytest.mark.slow
def test_a_folder_that_becomes_read_only(
    sdcli: Sdcli, new_fork_server: Callable[..., ForkServer], tmp_path: Path, twelve: dict[str, bytes]
) -> None:
    # The superuser may write anywhere, but not from within a user namespace to files of one who is none of its users.
    shell = ["unshare", "--user"] if os.geteuid() == 0 else []
    if shell and subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("run by the superuser, who may write anywhere, and there are no user namespaces here")
    out = tmp_path / "out"
    server = new_fork_server(tmp_path / "streams", shell)
    sdcli = type(sdcli)(server, tmp_path)
    try:
        run = sdcli.start(*TWELVE).until_saved(2)
        (out / "samples").chmod(stat.S_IRUSR | stat.S_IXUSR)
        assert run.code == 7, run.stderr
        assert "Permission denied" in run.stderr
        assert "--outdir" in run.stderr
        kept(run, out, twelve)
        again = sdcli(*TWELVE, "--resume", code=7)
        assert "loading" not in again.stderr, "now it is known before anything is drawn"
        (out / "samples").chmod(0o755)
        sdcli(*TWELVE, "--resume")
        assert bytes_of(out) == twelve
    finally:
        server.close()


@pytest.mark.slow
def test_a_disk_that_is_full(
    sdcli: Sdcli, new_fork_server: Callable[..., ForkServer], tmp_path: Path, twelve: dict[str, bytes]
) -> None:
    """A file system of 100 kB, in a mount namespace of its own where the system lets us have one."""
    shell = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    server = new_fork_server(tmp_path / "streams", shell)
    sdcli = type(sdcli)(server, tmp_path)
    try:
        (tmp_path / "out").mkdir()
        server.shell(f"mount -t tmpfs -o size=100k none {tmp_path}/out")
        run = sdcli(*TWELVE, code=7)
        assert "No space left on device" in run.stderr
        assert "Free some space" in run.stderr
        server.shell(f"cp -a {tmp_path}/out {tmp_path}/full")
        kept(run, tmp_path / "full", twelve)
        check_record(tmp_path / "full")

        server.shell(f"mount -o remount,size=10m {tmp_path}/out")
        sdcli(*TWELVE, "--resume")
        server.shell(f"cp -a {tmp_path}/out {tmp_path}/done")
        assert bytes_of(tmp_path / "done") == twelve
        assert len(check_record(tmp_path / "done")) == 13
    finally:
        server.close()


@pytest.mark.slow
def test_a_record_that_cannot_grow(sdcli: Sdcli, tmp_path: Path, twelve: dict[str, bytes]) -> None:
    """A limit on the size of files stops it in the middle of a line, as a full disk may."""
    out = tmp_path / "out"
    stopped = sdcli.start(*TWELVE).until_saved(2)
    stopped.send(signal.SIGTERM)
    assert stopped.code == 143, stopped.stderr
    with (out / "run-0000.jsonl").open("ab") as record:
        # Longer than any image, so that it is the record that meets the limit.
        record.write(json.dumps({"kind": "padding", "of": "x" * 500_000}).encode() + b"\n")
        limit = record.tell() + 300
    before = bytes_of(out)
    run = sdcli(*TWELVE, "--resume", code=7, file_size=limit)
    assert os.strerror(errno.EFBIG) in run.stderr
    assert run.stdout == ""
    assert bytes_of(out) == before, "no image without its line"
    kept(run, out, twelve)
    sdcli(*TWELVE, "--resume")
    assert bytes_of(out) == twelve


@pytest.mark.slow
def test_rows_that_are_wrong(sdcli: Sdcli, tmp_path: Path) -> None:
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
    assert "left out: rows.jsonl, line 2: an image has no setting promt" in skipped.stderr
    assert "left out: rows.jsonl, line 4: --ddim_steps -1 is not possible" in skipped.stderr
    assert "left out: 2 rows" in skipped.stderr
    assert skipped.stderr.count("line 2") == skipped.stderr.count("line 4") == 1, "each is told of once"
    drawn = [line["job"] for line in lines(tmp_path / "out") if line["kind"] == "picture"]
    assert [(job["prompt"], job["seed"]) for job in drawn] == [("a red apple", 42), ("a fish", 7)]
    # Nothing is left to draw, and the rows are as wrong as before.
    again = sdcli("--from-file", rows, "--outdir", "out", "--on-error", "skip", "--skip_grid", "--resume", code=3)
    assert again.stdout == ""


@pytest.mark.slow
def test_a_image_of_a_batch_can_be_drawn_alone_by_its_seed(sdcli: Sdcli, tmp_path: Path) -> None:
    plain = ("--seed-mode", "image", "--steps", "10", "--skip_grid", "--no-watermark", "--n_iter", "1")
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
    assert Image.open(tmp_path / "rows/samples/00002.png").tobytes() == Image.open(two).tobytes()
    assert psnr(tmp_path / "rows/samples/00003.png", tmp_path / "alone/samples/00000.png") == float("inf")


@pytest.mark.slow
def test_prompts_from_standard_input_are_drawn_as_they_come(sdcli: Sdcli, tmp_path: Path) -> None:
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
    assert "images to draw" in run.stderr


@pytest.mark.slow
def test_rows_say_how_they_are_drawn_and_named(sdcli: Sdcli, tmp_path: Path) -> None:
    rows = sdcli.write(
        "rows.jsonl",
        '{"prompt": "a red apple", "out": "fruit/apple", "seed": 7, "steps": 2, "scale": 3}',
        '{"prompt": "a fish", "negative_prompt": "blue", "images_per_prompt": 2, "height": 64, "width": 192}',
    )
    drawn = sdcli("--from-file", rows, "--outdir", "json")
    assert drawn.paths == [
        "json/samples/fruit/apple.png", "json/samples/00000.png", "json/samples/00001.png", "json/grid-0000.png",
    ]  # fmt: skip
    apple, fish, again = (line["job"] for line in lines(tmp_path / "json") if line["kind"] == "picture")
    assert (apple["seed"], apple["steps"], apple["scale"], apple["out"]) == (7, 2, 3.0, "fruit/apple")
    assert (fish["prompt"], fish["negative_prompt"], fish["steps"], fish["seed"]) == ("a fish", "blue", 1, 42)
    assert (again["noise"]["row"], again["index"]) == (1, 2)
    assert Image.open(tmp_path / "json/samples/00001.png").size == (192, 64)
    check_record(tmp_path / "json")

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
    assert bytes_of(tmp_path / "csv")["one.png"] != bytes_of(tmp_path / "csv")["one-2.png"]
    assert sdcli(
        "--from-file", table, "--outdir", "csv", "--skip_grid", "--output-name",
        "{index:05}-{seed}-{prompt:slug}.png", "--images-per-prompt", "2", "--resume", before=NO_MODEL,
    ).stdout == ""  # fmt: skip


@pytest.mark.slow
def test_every_combination(sdcli: Sdcli, tmp_path: Path) -> None:
    (tmp_path / "wildcards").mkdir()
    sdcli.write("wildcards/things.txt", "# what there is", "apple", "star")
    drawn = sdcli("--prompt", "a {red|blue} __things__", "--matrix", "--outdir", "out", "--skip_grid", "--output-name",
                  "{prompt:slug}.png")  # fmt: skip
    assert [Path(path).name for path in drawn.paths] == [
        "a-red-apple.png", "a-red-star.png", "a-blue-apple.png", "a-blue-star.png",
    ]  # fmt: skip
    missing = sdcli("--prompt", "a __thingz__", "--outdir", "out", code=3)
    assert "Did you mean __things__?" in missing.stderr
    # A wildcard is one line of its list; the original's signs are its own.
    plain = sdcli("--prompt", "a __things__ {x|y}", "--compat", "--outdir", "compat", "--skip_grid", "--n_samples", "1",
                  "--n_iter", "1")  # fmt: skip
    assert len(plain.paths) == 1
    (job,) = (line["job"] for line in lines(tmp_path / "compat") if line["kind"] == "picture")
    assert job["prompt"] == "a __things__ {x|y}"


@pytest.mark.slow
def test_one_image_to_a_file_of_its_own(sdcli: Sdcli, tmp_path: Path) -> None:
    piped = sdcli("--prompt", "a red apple", "-o", "-")
    data = (piped.streams / "1").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.count(b"IHDR") == data.count(b"IEND") == 1
    assert data.index(b"IEND") == len(data) - 8, "nothing after the image"
    Image.open(io.BytesIO(data)).load()
    refused = sdcli("--prompt", "a red apple", "-o", "-", "--json", code=2)
    assert "--output - and --json" in refused.stderr
    assert refused.stdout == ""

    saved = sdcli("--prompt", "a red apple", "-o", "apple.png")
    assert saved.paths == ["apple.png"]
    assert (tmp_path / "apple.png").read_bytes() == data
    again = sdcli("--prompt", "a blue fish", "-o", "apple.png", code=7)
    assert "apple.png is there already" in again.stderr
    assert "loading" not in again.stderr
    assert (tmp_path / "apple.png").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["apple.png"], "no folder, no record"
