"""From a record back to settings, without drawing."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdcli import rerun
from sdcli.errors import InputFileError, ModelError, ModelNotFound, UsageError
from sdcli.events import Watch
from sdcli.jobs import Job
from sdcli.metadata import a1111
from sdcli.outputs import formats
from sdcli.records import asked, new_record
from sdcli.settings import Settings
from tests.jobs import job as make_job

PIXELS = np.zeros((64, 64, 3), dtype=np.uint8)
MARK = {"text": "mine", "method": "robust", "found": True, "wrong_bits": 0, "bits": 32}


def job(**changes: object) -> Job:
    own = {"rng": "cpu", "width": 64, "sampler": "ddim", "scale": 3.0, "eta": 0.5, "index": 0}
    return make_job(**own | changes)


def source(folder: Path, one: Job | None = None, format: Any = "png", **parts: Any) -> rerun.Source:
    one = one or job()
    record = new_record(
        **{"job": one.model_dump(mode="json"), "settings": {}, "watermark": MARK, "safety": None} | parts
    )
    path = folder / f"a{formats.FORMATS[format].suffix}"
    path.write_bytes(formats.encode(PIXELS, record, a1111.write(one), format))
    return rerun.read(path)


def foreign(folder: Path, text: str) -> rerun.Source:
    (folder / "b.png").write_bytes(formats.encode(PIXELS, {}, text))
    return rerun.read(folder / "b.png")


class TestSettings:
    def test_those_of_the_job(self, tmp_path: Path) -> None:
        settings = Settings.of(**rerun.settings_of(source(tmp_path, format="webp")))
        assert (settings.prompt, settings.seed, settings.rng, settings.scale, settings.eta) == (
            "a cat",
            7,
            "cpu",
            3,
            0.5,
        )
        assert (settings.watermark, settings.watermark_method, settings.no_watermark) == ("mine", "robust", False)
        assert (settings.safety_checker, settings.format, settings.model) == ("off", "webp", "builtin")

    def test_those_that_the_job_does_not_tell(self, tmp_path: Path) -> None:
        run = Settings.of(nsfw_threshold=0.9, on_unsafe="blur", no_watermark=True, outdir="x", n_samples=2)
        safety = {"checker": "opennsfw", "flagged": False}
        record = source(tmp_path, settings=asked(run), watermark=None, safety=safety)
        settings = Settings.of(**rerun.settings_of(record))
        assert (settings.nsfw_threshold, settings.on_unsafe, settings.no_watermark) == (0.9, "blur", True)
        assert (settings.safety_checker, settings.outdir) == ("opennsfw", Settings().outdir)

    def test_a_record_sets_nothing_but_the_image(self, tmp_path: Path) -> None:
        hostile = {"outdir": "/", "from_file": "/etc/passwd", "skip_save": True, "device": "cuda"}
        settings = Settings.of(**rerun.settings_of(source(tmp_path, settings=hostile)))
        assert (settings.outdir, settings.from_file, settings.device) == (Settings().outdir, None, "auto")

    def test_paths_are_kept_without_the_name_of_the_home_folder(self, tmp_path: Path) -> None:
        home = os.path.expanduser("~")  # noqa: PTH111
        kept = asked(Settings.of(ckpt=f"{home}/models/x.ckpt", config="v1.yaml"))
        assert kept == {"ckpt": "~/models/x.ckpt", "config": "v1.yaml"}
        settings = rerun.settings_of(source(tmp_path, job(model="x.ckpt"), settings=kept))
        assert (settings["ckpt"], settings["config"]) == (f"{home}/models/x.ckpt", "v1.yaml")
        assert "model" not in settings

    def test_a_checkpoint_that_has_moved_is_looked_for_by_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        one = source(tmp_path, job(model="x.ckpt"), settings={"ckpt": "elsewhere/x.ckpt", "config": "v1.yaml"})
        assert rerun.settings_of(one)["ckpt"] == "elsewhere/x.ckpt"
        (tmp_path / "x.ckpt").touch()
        assert rerun.settings_of(one)["ckpt"] == "x.ckpt"
        assert rerun.settings_of(one, "a/folder") | {"model": "a/folder"} == rerun.settings_of(one, "a/folder")


class TestChanges:
    def test_by_any_name(self) -> None:
        changes = {"ddim_steps": "30", "--H": "128", "guidance-scale": "2", "sampler": "dpm-solver", "format": "jpeg"}
        changed = rerun.changes_by_name(changes)
        assert changed == {"steps": "30", "height": "128", "scale": "2", "sampler": "dpm_solver", "format": "jpeg"}
        assert Settings.of(**changed).steps == 30

    def test_a_mark_can_be_asked_for_where_none_was(self, tmp_path: Path) -> None:
        bare = rerun.settings_of(source(tmp_path, watermark=None))
        assert not Settings.of(**(bare | rerun.changes_by_name({"watermark": "mine"}))).no_watermark

    @pytest.mark.parametrize("name", ["n_samples", "from_file", "outdir", "model", "nothing", ""])
    def test_of_a_run_and_of_nothing_are_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="not a setting of one image") as caught:
            rerun.changes_by_name({name: "1"})
        assert "steps" in caught.value.fix


class TestRefusals:
    def again(self, one: rerun.Source, **options: Any) -> None:
        rerun.rerun(one, Watch(), **options)

    def test_another_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="not the one that drew") as caught:
            self.again(source(tmp_path), outdir=str(tmp_path / "out"))
        assert "0123456789abcdef" in caught.value.why
        assert "--force" in caught.value.fix
        assert not (tmp_path / "out").exists()

    def test_a_model_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"x\.ckpt, which drew") as caught:
            self.again(source(tmp_path, job(model="x.ckpt")))
        assert "--model" in caught.value.fix

    def test_a_grid(self, tmp_path: Path) -> None:
        grid = Settings.of(prompt="a cat", n_samples=4).model_dump(mode="json")
        with pytest.raises(InputFileError, match="is a grid") as caught:
            self.again(source(tmp_path, grid=grid))
        assert (
            caught.value.fix == "Draw its run again: sdcli txt2img --prompt 'a cat' --n_samples 4 --n_iter 2 --seed 42"
        )

    def test_another_tools(self, tmp_path: Path) -> None:
        one = foreign(
            tmp_path, "a cat\nSteps: 37, Sampler: Euler a, Seed: 5, Size: 500x512, Model: tide, Version: v1.9"
        )
        with pytest.raises(InputFileError, match="cannot be drawn again exactly") as caught:
            self.again(one)
        assert caught.value.fix == (
            "The nearest is: sdcli txt2img --prompt 'a cat' --H 512 --W 500 --n_samples 1 --n_iter 1 --ddim_steps 37 "
            "--seed 5 --ckpt tide.safetensors"
        )
        for words in ("AUTOMATIC1111", "scale is not known", "Euler a", "tide", "500", "35 and 38"):
            assert words in caught.value.why

    def test_nothing_known(self, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="does not say how it was drawn"):
            self.again(foreign(tmp_path, ""))

    def test_a_record_of_another_version(self, tmp_path: Path) -> None:
        one = job().model_dump(mode="json") | {"lora": "x"}
        with pytest.raises(InputFileError, match="not one that this version understands"):
            self.again(source(tmp_path, **{"job": one}))


def test_the_command_of_a_image_from_the_middle_of_a_run(tmp_path: Path) -> None:
    place = {"before": [[2, 21]], "rows": 2, "row": 1}
    line, comment = rerun.command(source(tmp_path, job(noise=place, index=3))).split("\n")
    assert "--n_samples 2" in line
    assert "--watermark mine" in line
    assert shlex.split(line)[:2] == ["sdcli", "txt2img"]
    assert comment == "# image 4 of those that this draws"


def test_how_far_apart() -> None:
    other = PIXELS.copy()
    assert rerun.compare(PIXELS, other).identical
    assert rerun.compare(PIXELS, other).psnr == math.inf
    other[0, 0, 0] = 51
    one = rerun.compare(PIXELS, other)
    assert one.largest_difference == 51
    assert one.psnr == pytest.approx(10 * math.log10(255**2 * PIXELS.size / 51**2))
    assert one.same
    assert not one.identical
    assert not rerun.compare(PIXELS, other + 9).same
