"""What scripts rely on: data on standard output, messages on standard error, one meaning for each exit code.

Where each exit code is tested:

    0, 2, 3, 5, 70      here
    4, 6                test_txt2img.py (4 and 7 in many forms)
    7                   here and test_interruptions.py, with full disks and folders that go
    129, 130, 143, 141  test_interruptions.py
    1                   test_watermark.py, test_inspect.py, test_rerun.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from tests.cli.conftest import Run, Sdcli

TINY = ("--steps", "1", "--safety-checker", "off")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


SLOW_CLOCK = """
import itertools, time
calls = itertools.count()
time.monotonic = lambda: float(next(calls))
"""
"""One second passes at each look at the clock, so that a short run reports its progress as a long one does."""


@pytest.mark.slow
def test_paths_on_standard_output_and_plain_lines_on_standard_error(sdcli: Sdcli, tmp_path: Path) -> None:
    """The prompt has characters that control a terminal, and words that the model does not know."""
    run = sdcli.plain(
        "--safety-checker", "off", "--steps", "10", "--n_samples", "2", "--n_iter", "2", "--prompt",
        "a red apple\x1b[31m " + "and more words " * 60, "--outdir", "a folder", "--output-name", "{index}",
        before=SLOW_CLOCK,
    )  # fmt: skip
    assert run.code == 0, run.stderr
    assert run.paths == [*(f"a folder/samples/{n}.png" for n in range(4)), "a folder/grid-0000.png"]
    assert all((tmp_path / path).is_file() for path in run.paths)
    assert not CONTROL.search(run.stderr), "bars or colours, or those of the prompt"
    report = run.stderr.splitlines()
    assert report[0] == "sdcli: 31m, more, words: not known to the model, ignored"
    assert report[1].startswith("sdcli: generating 2 images x 2 iterations = 4 images with builtin on cpu")
    assert re.fullmatch(r"sdcli: 4 images in \d+ seconds, in a folder, seed 42", report[-1])
    assert all(line.startswith("sdcli: ") for line in report)
    assert [line for line in report if re.fullmatch(r"sdcli: batch [12] of 2: 2 images, step \d+ of 10", line)]
    assert sum("not known to the model" in line for line in report) == 1, "once, not for each image"
    assert len(report) < 20, "a line for each step"


@pytest.mark.slow
def test_json_lines_on_standard_output_and_nothing_when_quiet(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red apple\u2028\x85a dog\n\x1b[1ma\tfish\n", encoding="utf-8")
    ended = run("txt2img", *TINY, "--from-file", "prompts.txt", "--n_iter", "1", "--json", "--quiet", "--outdir", "out")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert not CONTROL.search(ended.stdout)
    printed = [json.loads(line) for line in ended.stdout.split("\n")[:-1]]
    assert ended.stdout.splitlines() == ended.stdout.split("\n")[:-1], "no other character that ends a line"
    assert [line["file"] for line in printed] == [
        *(f"out/samples/{n:05}.png" for n in range(len(printed) - 1)),
        "out/grid-0000.png",
    ]
    *images, grid = printed
    for n, line in enumerate(images):
        assert line["job"]["index"] == n
        assert line["watermark"]["found"] is True
        assert line["safety"] is None
    assert grid["page"] == 0
    assert grid["job"] == images[0]["job"]
    # The journal has the same of each image, and more.
    records = [json.loads(line) for line in (tmp_path / "out/run-0000.jsonl").read_text().splitlines()]
    by_file = {f"out/{line['file']}": line for line in records if "file" in line}
    for line in images:
        record = by_file[line["file"]]
        assert {name: record[name] for name in line if name != "file"} == {
            name: value for name, value in line.items() if name != "file"
        }
        assert set(record) - set(line) == {"kind", "key", "index", "seconds", "batch", "sha256"}


def test_nothing_on_standard_output_when_refused(refuse: Run, tmp_path: Path) -> None:
    """Each message has the prefix and says what failed, and no file is written."""
    (tmp_path / "rows.csv").write_text("prompt,sed\na cat,7\n")
    for arguments, code, says in (
        (("--steps", "0"), 2, "--steps 0"),
        (("--nonsense",), 2, "--nonsense"),
        (("--resume", "--skip_save"), 2, "--resume and --skip_save contradict"),
        (("--output-name", "{weather}.png"), 2, "--output-name has no {weather}"),
        (("--output-name", "../{index}.png"), 2, "would leave the output folder"),
        (("--from-file", "rows.csv"), 3, "rows.csv, line 1, the header: an image has no setting sed"),
        (("--from-file", "rows.csv", "--quiet"), 3, "rows.csv, line 1"),
        (("--ckpt", "none.ckpt"), 4, "none.ckpt"),
        (("--outdir", "rows.csv"), 7, "cannot write to rows.csv"),
        (("-o", "no/folder.png"), 7, "The folder no does not exist"),
    ):
        refused = refuse("txt2img", *arguments)
        assert refused.returncode == code, refused.stderr
        assert refused.stdout == ""
        assert says in refused.stderr
        assert refused.stderr.startswith("sdcli: ")
        assert "Traceback" not in refused.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
def test_a_card_that_is_not_there(refuse: Run) -> None:
    refused = refuse("txt2img", "--device", "cuda")
    assert refused.returncode == 5
    assert "--device cuda is not available" in refused.stderr
    assert "choose one of: cpu" in refused.stderr
    assert refused.stdout == ""


class BrokenStream:
    """Raises what nothing expects, whatever is done with it."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError("one by none")


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_called_one(refuse: Run, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    """No bug is known that a command line can reach, so one is put in."""
    monkeypatch.setattr(sys, "stdin", BrokenStream())
    failed = refuse("txt2img", "--from-file", "-", *["--debug"] * debug)
    assert failed.returncode == 70
    assert "a bug in sdcli: ZeroDivisionError: one by none" in failed.stderr
    assert ("Traceback" in failed.stderr) is debug
    assert failed.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closing", "code", "printed"),
    [
        ("--outdir out 2>&-", 0, ["out/samples/00000.png", "out/grid-0000.png"]),
        ("--outdir out >&-", 7, []),
        ("-o - >&-", 7, []),
    ],
)
def test_closed_streams(tmp_path: Path, closing: str, code: int, printed: list[str]) -> None:
    """What belongs to a closed stream goes nowhere else; without standard output, nothing is generated."""
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-m", "sdcli", "txt2img", *TINY, "--n_samples", "1",
         "--n_iter", "1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.splitlines() == printed
    assert (tmp_path / "out/samples/00000.png").is_file() is (code == 0)
    assert (ended.stderr == "") is ("2>&-" in closing)


FULL_OUTPUT = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
FULL_ERROR = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"
_FOLDER = Path(__file__).parents[1] / "data/images"
IMAGES = {"OWN": _FOLDER / "inj_own.png", "PLAIN": _FOLDER / "add_assertion_palette.png"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    ["inspect OWN", "inspect --json OWN", "inspect --command OWN", "watermark OWN", "watermark --json OWN",
     "watermark --add PLAIN -o copies/", "config --all", "config --json", "config --path", "txt2img --dry-run",
     "txt2img --dry-run --json", "--help", "inspect --help", "--version"],
)  # fmt: skip
def test_a_full_disk_behind_standard_output(sdcli: Sdcli, tmp_path: Path, arguments: str) -> None:
    words = [str(IMAGES.get(word, word)) for word in arguments.split()]
    ended = sdcli.server.start(*words, cwd=tmp_path, before=FULL_OUTPUT).wait()
    assert ended.code == 7, ended.stderr
    assert "cannot write to standard output\n  No space left on device.\n" in ended.stderr
    assert ended.stderr.count("sdcli: cannot write") == 1
    assert not {"Traceback", "Exception ignored"} & set(ended.stderr.split())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    ["inspect none.png OWN", "watermark none.png OWN", "watermark PLAIN", "rerun none.png", "config --no-such-flag",
     "txt2img --dry-run", "txt2img --steps 0", "none"],
)  # fmt: skip
def test_a_full_disk_behind_standard_error(sdcli: Sdcli, tmp_path: Path, arguments: str) -> None:
    words = [str(IMAGES.get(word, word)) for word in arguments.split()]
    ended = sdcli.server.start(*words, cwd=tmp_path, before=FULL_ERROR).wait()
    assert (ended.code, ended.stderr) == (7, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", ["inspect OWN", "config --path", "txt2img --dry-run", "--help"])
def test_a_full_disk_behind_both(sdcli: Sdcli, tmp_path: Path, arguments: str) -> None:
    words = [str(IMAGES.get(word, word)) for word in arguments.split()]
    both = sdcli.server.start(*words, cwd=tmp_path, before=f"{FULL_OUTPUT}\n{FULL_ERROR}").wait()
    assert (both.code, both.stdout, both.stderr) == (7, "", "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("inspect none.png OWN", 3), ("watermark PLAIN", 1), ("config --no-such-flag", 2), ("txt2img --dry-run", 0)],
)
def test_closed_standard_error_is_the_wish_of_the_user(sdcli: Sdcli, tmp_path: Path, arguments: str, code: int) -> None:
    words = [str(IMAGES.get(word, word)) for word in arguments.split()]
    closed = sdcli.server.start(*words, cwd=tmp_path, before="import sys; sys.stderr = None").wait()
    assert closed.code == code


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("before", [FULL_OUTPUT, FULL_ERROR])
@pytest.mark.parametrize("flags", [("--outdir", "out"), ("--outdir", "out", "--json", "--quiet"), ("-o", "-")])
def test_a_full_disk_behind_a_run(sdcli: Sdcli, before: str, flags: tuple[str, ...]) -> None:
    if before == FULL_ERROR and "--quiet" in flags:
        pytest.skip("nothing is written to standard error")
    ended = sdcli.start("--n_samples", "1", "--n_iter", "1", *flags, before=before).wait()
    assert ended.code == 7, ended.stderr
    assert ("cannot write to standard output" in ended.stderr) is (before == FULL_OUTPUT)


@pytest.mark.parametrize("arguments", [("config",), ("inspect", IMAGES["OWN"]), ("--help",), ("txt2img", "--dry-run")])
def test_closed_standard_output_is_an_error_in_every_command(
    refuse: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    ended = refuse(*arguments)
    assert ended.returncode == 7
    assert ended.stderr.startswith("sdcli: standard output is closed\n")


@pytest.mark.parametrize("command", ["config", "txt2img"])
def test_a_command_without_flags(refuse: Run, tmp_path: Path, command: str) -> None:
    """Everything has a default; a prompt file from the environment that does not exist ends txt2img early."""
    ended = refuse(command, SDCLI_FROM_FILE="none.txt")
    assert ended.returncode == {"config": 0, "txt2img": 3}[command], ended.stderr
    assert "none.txt" in ended.stdout + ended.stderr


def test_a_dry_run_lists_what_a_run_would_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"a red apple\na {{red|blue}} fish\n{'cat ' * 90}\n")
    flags = ("txt2img", "--from-file", "prompts.txt", "--n_iter", "1", "--dry-run", "--outdir", "out")
    printed = run(*flags)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.splitlines() == [f"out/samples/{number:05}.png" for number in range(3)]
    assert "[ignored: " in printed.stderr
    assert "92 of 77 tokens" in printed.stderr
    assert "3 images" in printed.stderr
    assert "memory: about" in printed.stderr
    assert "loading model" not in printed.stderr

    listed = run(*flags, "--json", "--quiet")
    assert (listed.returncode, listed.stderr) == (0, "")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["file"] for row in rows] == printed.stdout.splitlines()
    assert rows[1]["job"]["prompt"] in ("a red fish", "a blue fish")
    assert rows[2]["words_cut"].split() == ["cat"] * 15
    assert {row["watermark"]["method"] for row in rows} == {"robust"}
    assert not (tmp_path / "out").exists()

    refused = run(*flags, "--W", "100")
    assert (refused.returncode, refused.stdout) == (2, "")
    gone = run("txt2img", "--dry-run", "--ckpt", "none.ckpt")
    assert (gone.returncode, gone.stdout) == (4, "")
