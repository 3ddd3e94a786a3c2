"""`--resume OUTDIR` with a journal that somebody else wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run, Sdcli

DRY = ("--dry-run", "--resume", "out")


def write(folder: Path, **settings: Any) -> None:
    folder.mkdir(exist_ok=True)
    few = {"prompt": "cat", "n_samples": 1, "n_iter": 1, "steps": 1, "skip_grid": True, "safety_checker": "off"}
    start = {"kind": "run", "settings": few | settings, "folder": str(folder.parent)}
    (folder / "run-0000.jsonl").write_text(json.dumps(start) + "\n")


def test_files_that_only_the_journal_names_are_shown(refuse: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a dog\n")
    write(tmp_path / "out", from_file="rows.txt", model="builtin")
    shown = refuse("txt2img", *DRY)
    assert shown.returncode == 0, shown.stderr
    assert "resuming with --from-file rows.txt --model builtin\n" in shown.stderr
    quiet = refuse("txt2img", *DRY, "--quiet")
    assert quiet.stderr == ""
    own = refuse("txt2img", *DRY, "--from-file", "rows.txt", "--model", "builtin")
    assert "resuming" not in own.stderr
    write(tmp_path / "out")
    assert "resuming" not in refuse("txt2img", *DRY).stderr


@pytest.mark.parametrize("name", ["from_file", "ckpt", "config", "wildcards", "safety_model"])
@pytest.mark.parametrize("device", ["/dev/zero", "fifo"])
def test_devices_and_pipes_that_only_the_journal_names_are_refused(
    refuse: Run, tmp_path: Path, name: str, device: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    write(tmp_path / "out", **{name: device})
    failed = refuse("txt2img", *DRY)
    assert failed.returncode == 3, failed.stderr
    assert f"{device} is neither a file nor a folder" in failed.stderr


def test_a_model_that_only_the_journal_names_is_not_downloaded(refuse: Run, tmp_path: Path) -> None:
    write(tmp_path / "out", model="stranger/model")
    failed = refuse("txt2img", *DRY)
    assert failed.returncode == 4, failed.stderr
    assert "Only a record names it" in failed.stderr
    assert "--model stranger/model" in failed.stderr
    write(tmp_path / "out", safety_checker="clip", safety_model="stranger/checker")
    failed = refuse("txt2img", *DRY)
    assert failed.returncode == 4, failed.stderr
    assert "Only a record names it" in failed.stderr


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling", "device"])
def test_a_journal_that_is_no_file_is_no_run(refuse: Run, tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out/run-0001.jsonl"
    {
        "fifo": lambda: os.mkfifo(path), "folder": path.mkdir, "dangling": lambda: path.symlink_to("nowhere"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()  # fmt: skip
    failed = refuse("txt2img", "--resume", "out")
    assert failed.returncode == 3, failed.stderr
    assert "no run to resume" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["samples/../../victim/a.sh", "{victim}/a.png", "../victim/a.png", "samples/link/a"])
def test_a_name_outside_the_folder_is_not_written(sdcli: Sdcli, tmp_path: Path, name: str) -> None:
    """The key is that of the job, so the name counts if it is valid."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    sdcli("--prompt", "cat", "--n_samples", "1", "--n_iter", "1", "--outdir", "out", "--skip_grid")
    (out / "samples/00000.png").unlink()
    (out / "samples/link").symlink_to(victim)
    start, image = map(json.loads, (out / "run-0000.jsonl").read_text().splitlines())
    names = {name.format(victim=victim): "out/samples/00001.png", "samples/mine.png": "out/samples/mine.png"}
    for file, saved in names.items():
        lines = (start, image | {"file": file})
        (out / "run-0000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        ended = sdcli.plain("--resume", "out").wait()
        assert ended.code == 0, ended.stderr
        assert ended.paths == [saved]
        assert list(victim.iterdir()) == []
        (tmp_path / saved).unlink()
