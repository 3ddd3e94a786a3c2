"""`sdcli rerun`: exit code, standard output, standard error, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from sdcli import rerun
from sdcli.events import ignore

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
