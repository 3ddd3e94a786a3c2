"""`sdcli rerun`: exit code, standard output, standard error, files."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from sdcli import rerun
from sdcli.cli.console import RunConsole
from sdcli.events import ignore
from sdcli.outputs import formats
from sdcli.records import ImageRecord
from tests.jobs import job

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import SmallCheckpoint

IMAGE = ("--steps", "2", "--H", "128", "--W", "128", "--precision", "full", "--rng", "cpu", "--eta", "1")


@pytest.mark.slow
def test_from_the_middle_of_a_run(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    ended = run(
        "txt2img", "--ckpt", small_checkpoint.ckpt, "--config", small_checkpoint.config, *IMAGE, "--prompt", "a cat",
        "--n_samples", "2", "--n_iter", "2", "--format", "webp", "--outdir", "out", "--skip_grid",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    name = ended.stdout.splitlines()[3]
    assert name == "out/samples/00003.webp"
    before = {path: path.read_bytes() for path in (tmp_path / "out/samples").iterdir()}

    again = run("rerun", name, "--outdir", "out", "--json")
    assert again.returncode == 0, again.stderr
    output = json.loads(again.stdout)
    assert output["file"] == "out/samples/00004.webp"
    assert output["comparison"]["same"]
    assert output["comparison"]["with"] == name
    assert output["job"]["noise"] == {"before": [[2, 3]], "rows": 2, "row": 1, "fixed_rows": 0}
    assert "dB PSNR" in again.stderr or "identical" in again.stderr
    assert all(path.read_bytes() == data for path, data in before.items())

    # The rest in this process. Other noise gives another image; with a change there is no comparison.
    first, third = (rerun.read(tmp_path / "out/samples" / f"{n:05}.webp") for n in (0, 3))
    assert not rerun.compare(first.pixels, third.pixels).same
    image, comparison = rerun.rerun(third, ignore, changes={"steps": "4"}, outdir=str(tmp_path / "out"))
    assert image.path == tmp_path / "out/samples/00005.webp"
    assert (image.job.steps, image.job.noise) == (4, third.job and third.job.noise)
    assert comparison is None


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.png"], 3, "none.png"),
        (["bare.png"], 3, "bare.png"),
        (["bare.png", "--set", "steps"], 2, "--set steps is not of the form NAME=VALUE"),
    ],
)
def test_errors(refuse: Run, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    failed = refuse("rerun", *arguments)
    assert (failed.returncode, failed.stdout) == (code, "")
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bare.png"]


@pytest.mark.parametrize(
    ("typed", "downloads"),
    [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("yellow\n", False), ("\x04", False)],
)
def test_the_question_before_a_download(monkeypatch: pytest.MonkeyPatch, typed: str, downloads: bool) -> None:
    """On a terminal; by default no, and so at the end of the input."""
    outer, inner = pty.openpty()
    with os.fdopen(inner, "r+b", buffering=0) as terminal, os.fdopen(outer, "r+b", buffering=0) as keyboard:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(terminal))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(terminal, write_through=True))
        keyboard.write(typed.encode())
        with RunConsole(quiet=False, as_json=False) as console:
            assert console.may_download("the model a/\x1b[2Jb from https://hub") is downloads
        shown = ""
        while "[y/N]" not in shown:
            shown += keyboard.read(4096).decode()
        assert r"the model a/\x1b[2Jb from https://hub" in shown
        for quiet, as_json in ((True, False), (False, True)):
            assert not RunConsole(quiet=quiet, as_json=as_json).may_download("a model"), "nobody is asked"
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        assert not RunConsole(quiet=False, as_json=False).may_download("a model"), "no terminal"


@pytest.mark.parametrize("options", [[], ["--quiet"], ["--json"], ["--offline"]])
def test_a_model_that_only_the_file_names_is_refused_without_a_terminal(
    refuse: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    record = ImageRecord.new(job=job(model="stranger/model"))
    (tmp_path / "a.png").write_bytes(formats.encode(np.zeros((64, 64, 3), np.uint8), record.values(), ""))
    failed = refuse("rerun", "a.png", *options)
    assert (failed.returncode, failed.stdout) == (4, "")
    assert "--model stranger/model" in failed.stderr
