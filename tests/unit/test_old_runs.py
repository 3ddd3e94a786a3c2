"""Runs that sdcli 0.1.0 began are resumed without generating anything again, and its images are still read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdcli import rerun
from sdcli.configuration import load
from sdcli.events import Event, Finished
from sdcli.models.sources.folder import FolderModel
from sdcli.outputs.journal import settings_of
from sdcli.records import GridRecord
from sdcli.txt2img import generate

OLD_RUNS = Path(__file__).parents[1] / "data" / "old_runs"


class Generated(Exception):
    """The model would be loaded."""


@pytest.fixture
def old_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old runs, as the current folder. The builtin model has the recorded hash and size."""
    folder = tmp_path / "images"
    shutil.copytree(OLD_RUNS, folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    lines = (OLD_RUNS / "plain/run-0000.jsonl").read_text().splitlines()
    recorded = json.loads(lines[1])["job"]["model_hash"]
    monkeypatch.setattr(FolderModel, "hash", lambda self: recorded)
    read = FolderModel.read
    then = {"downscale": 8, "size_multiple": 32, "default_height": 128, "default_width": 128}

    def read_as_then(*given: Any, **more: Any) -> FolderModel:
        model = read(*given, **more)
        return replace(model, spec=model.spec.model_copy(update=then))

    monkeypatch.setattr(FolderModel, "read", read_as_then)

    def no_load(*_: Any) -> None:
        raise Generated

    monkeypatch.setattr(FolderModel, "load", no_load)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".jsonl"
    }


def resumed(outdir: str, **flags: Any) -> list[Event]:
    events: list[Event] = []
    settings = load({"resume": outdir, "outdir": outdir, **flags}, recorded=settings_of(Path(outdir))).settings
    for _ in generate(settings, events.append):
        pass
    return events


@pytest.mark.parametrize(("run", "images"), [("plain", 4), ("rows", 5), ("unsafe", 5)])
def test_a_finished_run_is_resumed_without_generating_anything(old_runs: Path, run: str, images: int) -> None:
    """Also withheld images, repeated rows, and the page of the grid."""
    (old_runs / run / ".sdcli-lock").touch()
    before = files(old_runs / run)
    events = resumed(run)
    assert [(event.images, event.existing) for event in events if isinstance(event, Finished)] == [(0, images)]
    assert files(old_runs / run) == before


def test_a_stopped_run_is_resumed_at_its_first_missing_image(old_runs: Path) -> None:
    """Three of four images exist; the last batch holds the missing one only, so generating it needs the model."""
    with pytest.raises(Generated):
        resumed("stopped")


def test_another_setting_makes_the_images_new(old_runs: Path) -> None:
    """The keys of schema 1 are not found by accident."""
    with pytest.raises(Generated):
        resumed("plain", steps=3)
    with pytest.raises(Generated):
        resumed("rows", watermark="another")


@pytest.mark.parametrize(
    "file", ["plain/samples/00003.png", "rows/samples/fruit/apple.webp", "unsafe/samples/00001.jpg"]
)
def test_an_old_image_has_a_job_and_a_command(old_runs: Path, file: str) -> None:
    source = rerun.read(Path(file))
    assert source.job is not None
    assert source.job.model == "builtin"
    assert source.provenance is not None
    assert source.provenance.version == "0.1.0"
    assert rerun.command(source).startswith("sdcli txt2img --prompt")
    assert rerun.settings_of(source)["watermark"] == "StableDiffusionV1"


def test_an_old_grid_is_read(old_runs: Path) -> None:
    source = rerun.read(Path("rows/grid-0000.webp"))
    assert isinstance(source.record, GridRecord)
    assert source.record.grid["from_file"] == "prompts.jsonl"


def test_rerun_of_an_old_image_asks_for_its_model(old_runs: Path) -> None:
    with pytest.raises(Generated):
        rerun.rerun(rerun.read(Path("plain/samples/00001.png")), lambda event: None, outdir="again")
