"""`sdcli txt2img` with models that a pipeline of diffusers generates."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from compare import psnr
from PIL import Image
from pipelines import NEGATIVE, PROMPT, SEED, SIZE, STEPS, SmallPipeline

from tests.cli.runs import check_outdir, kill_at, samples, visible
from tests.unit.models.test_pipeline_source import FLUX, FLUX_FILES, write

if TYPE_CHECKING:
    from tests.cli.conftest import Run, Sdcli

IMAGE = ("--prompt", PROMPT, "--steps", STEPS, "--H", SIZE, "--W", SIZE, "--no-watermark", "--rng", "cpu",
         "--seed", SEED, "--n_iter", "1")  # fmt: skip


@pytest.fixture(scope="module")
def stable_diffusion_3(tmp_path_factory: pytest.TempPathFactory) -> SmallPipeline:
    return SmallPipeline("Stable Diffusion 3 without T5", tmp_path_factory.mktemp("pipelines") / "sd3")


@pytest.mark.slow
def test_an_image_and_the_same_again(sdcli: Sdcli, run: Run, stable_diffusion_3: SmallPipeline, tmp_path: Path) -> None:
    model = ("--model", stable_diffusion_3.folder, "--negative-prompt", NEGATIVE)
    ended = sdcli(*IMAGE, *model, "--n_samples", "2", "--skip_grid", "--outdir", "out")
    assert "by default of StableDiffusion3Pipeline: scale 7" in ended.stderr
    one, two = visible(tmp_path / "out")
    with Image.open(one) as image:
        assert psnr(np.asarray(image), stable_diffusion_3.by_diffusers()) >= 60
    assert one.read_bytes() != two.read_bytes()
    again = run("rerun", two, "--outdir", "again")
    assert again.returncode == 0, again.stderr
    # It was one of two in a batch.
    assert "identical" in again.stderr or "except for rounding" in again.stderr
    assert run("inspect", two).stdout.count("Auto") == 1


@pytest.mark.slow
def test_flux(sdcli: Sdcli, tmp_path: Path) -> None:
    small = SmallPipeline("Flux", tmp_path / "flux")
    long = "a house of glass in a forest " * 20
    rows = [{"prompt": PROMPT, "seed": SEED}, {"prompt": long, "seed": SEED}]
    sdcli.write("rows.jsonl", *map(json.dumps, rows))
    ended = sdcli(*IMAGE[2:], "--model", "flux", "--from-file", "rows.jsonl", "--outdir", "out", "--n_samples", "2")
    assert "the prompt is longer than the model reads; ignored: " in ended.stderr, "T5 reads 512 of its tokens"
    with Image.open(visible(tmp_path / "out")[-2]) as image:
        assert psnr(np.asarray(image), small.by_diffusers()) >= 60


@pytest.mark.slow
def test_a_vocabulary_is_missing(sdcli: Sdcli, stable_diffusion_3: SmallPipeline, tmp_path: Path) -> None:
    """For a folder that has none, transformers makes an empty one, and the image would be of unknown words."""
    shutil.copytree(stable_diffusion_3.folder, tmp_path / "model")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (tmp_path / "model" / "tokenizer_2" / name).unlink(missing_ok=True)
    ended = sdcli(*IMAGE, "--model", "model", code=4)
    assert "tokenizer_2 is missing or does not fit its tokenizer" in ended.stderr


@pytest.mark.slow
def test_a_run_that_was_killed_is_resumed(sdcli: Sdcli, stable_diffusion_3: SmallPipeline, tmp_path: Path) -> None:
    command = ("--model", stable_diffusion_3.folder, *IMAGE[:-1], "4", "--n_samples", "2", "--skip_grid")
    sdcli(*command, "--outdir", "whole")
    sdcli(*command, "--outdir", "out", before=kill_at(5, outdir="out", kinds=("os.link",)), code=-signal.SIGKILL)
    assert 0 < len(visible(tmp_path / "out")) < 8
    sdcli(*command, "--outdir", "out", "--resume")
    check_outdir(tmp_path / "out")
    assert samples(tmp_path / "out") == samples(tmp_path / "whole")


def test_what_has_no_effect_is_refused(refuse: Run, tmp_path: Path) -> None:
    write(tmp_path / "model", FLUX, FLUX_FILES)
    ended = refuse("txt2img", "--model", "model", "--prompt", "a cat", "--sampler", "euler", "--H", "512")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--sampler euler does not work with the model model" in ended.stderr
    assert not (tmp_path / "outputs").exists()
    ended = refuse("txt2img", "--model", "model", "--prompt", "a cat", "--H", "520")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "It must be a multiple of 16." in ended.stderr


def test_code_of_the_model_is_refused(refuse: Run, tmp_path: Path) -> None:
    write(tmp_path / "model", FLUX | {"_class_name": ["pipeline", "Mine"]}, FLUX_FILES)
    (tmp_path / "model" / "pipeline.py").write_text("raise SystemExit('the code of the model runs')")
    ended = refuse("txt2img", "--model", "model", "--prompt", "a cat")
    assert (ended.returncode, ended.stdout) == (4, "")
    assert "needs code of its own: the pipeline pipeline.Mine" in ended.stderr
