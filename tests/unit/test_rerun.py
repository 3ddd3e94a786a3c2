"""From a record back to settings, without generating an image."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from sdcli import rerun
from sdcli.comparison import compare
from sdcli.errors import InputFileError, ModelError, ModelNotFound, UsageError
from sdcli.events import ignore
from sdcli.jobs import Job
from sdcli.metadata import a1111
from sdcli.models import checkpoint_file
from sdcli.models.sources import hub
from sdcli.outputs import formats
from sdcli.records import GridRecord, ImageRecord, WatermarkRecord, recorded_settings
from sdcli.registry import FORMATS, SAMPLERS
from sdcli.settings import Settings
from sdcli.stages import safety
from tests.jobs import job as make_job

DATA = Path(__file__).parents[1] / "data" / "metadata"
PIXELS = np.zeros((64, 64, 3), dtype=np.uint8)
MARK = WatermarkRecord(text="mine", method="robust", found=True, wrong_bits=0, bits=32)


def job(**changes: object) -> Job:
    own = {"rng": "cpu", "height": 256, "width": 256, "sampler": "ddim", "scale": 3.0, "eta": 0.5, "index": 0}
    return make_job(**own | changes)


def source(folder: Path, one: Job | None = None, format: Any = "png", **parts: Any) -> rerun.Source:
    one = one or job()
    kind = GridRecord if "grid" in parts else ImageRecord
    record = kind.new(**{"job": one, "watermark": MARK} | parts)
    path = folder / f"a{FORMATS[format].suffix}"
    parameters = a1111.write(one) if one.sampler in SAMPLERS else ""
    path.write_bytes(formats.encode(PIXELS, record.values(), parameters, format))
    return rerun.read(path)


def foreign(folder: Path, text: str) -> rerun.Source:
    (folder / "b.png").write_bytes(formats.encode(PIXELS, {}, text))
    return rerun.read(folder / "b.png")


class TestSettings:
    def test_settings_of_the_job(self, tmp_path: Path) -> None:
        settings = Settings.of(**rerun.settings_of(source(tmp_path, format="webp")))
        assert (settings.prompt, settings.seed, settings.rng) == ("a cat", 7, "cpu")
        assert (settings.scale, settings.eta) == (3, 0.5)
        assert (settings.watermark, settings.watermark_method, settings.no_watermark) == ("mine", "robust", False)
        assert (settings.safety_checker, settings.format, settings.model) == ("off", "webp", "builtin")

    def test_settings_beside_the_job(self, tmp_path: Path) -> None:
        run = Settings.of(nsfw_threshold=0.9, on_unsafe="blur", no_watermark=True, outdir="x", n_samples=2)
        safety = {"checker": "opennsfw", "flagged": False}
        record = source(tmp_path, settings=recorded_settings(run), watermark=None, safety=safety)
        settings = Settings.of(**rerun.settings_of(record))
        assert (settings.nsfw_threshold, settings.on_unsafe, settings.no_watermark) == (0.9, "blur", True)
        assert (settings.safety_checker, settings.outdir) == ("opennsfw", Settings().outdir)

    def test_a_record_sets_only_what_decides_the_image(self, tmp_path: Path) -> None:
        hostile = {"outdir": "/", "from_file": "/etc/passwd", "skip_save": True, "device": "cuda"}
        settings = Settings.of(**rerun.settings_of(source(tmp_path, settings=hostile)))
        assert (settings.outdir, settings.from_file, settings.device) == (Settings().outdir, None, "auto")

    def test_paths_do_not_name_the_home_folder(self, tmp_path: Path) -> None:
        home = os.path.expanduser("~")  # noqa: PTH111
        kept = recorded_settings(Settings.of(ckpt=f"{home}/models/x.ckpt", config="v1.yaml"))
        assert kept == {"ckpt": "~/models/x.ckpt", "config": "v1.yaml"}
        settings = rerun.settings_of(source(tmp_path, job(model="x.ckpt"), settings=kept))
        assert (settings["ckpt"], settings["config"]) == (f"{home}/models/x.ckpt", "v1.yaml")
        assert "model" not in settings

    def test_a_moved_checkpoint_is_found_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        one = source(tmp_path, job(model="x.ckpt"), settings={"ckpt": "elsewhere/x.ckpt", "config": "v1.yaml"})
        assert rerun.settings_of(one)["ckpt"] == "elsewhere/x.ckpt"
        (tmp_path / "x.ckpt").touch()
        assert rerun.settings_of(one)["ckpt"] == "x.ckpt"
        assert rerun.settings_of(one, "a/folder") | {"model": "a/folder"} == rerun.settings_of(one, "a/folder")


@pytest.mark.parametrize("changes", [{"schedule": "karras"}, {"sigmas": "5,1"}])
def test_settings_of_a_job_do_not_contradict_each_other(tmp_path: Path, changes: dict[str, str]) -> None:
    one = source(tmp_path, job(sampler="euler", eta=0.0, **changes))
    settings = Settings.of(**rerun.settings_of(one))
    assert {name: getattr(settings, name) for name in changes} == changes
    assert "".join(changes.values()) in rerun.command(one)


class TestChanges:
    def test_any_spelling(self) -> None:
        changes = {"ddim_steps": "30", "--H": "128", "guidance-scale": "2", "sampler": "dpm-solver", "format": "jpeg"}
        changed = rerun.changes_by_name(changes)
        assert changed == {"steps": "30", "height": "128", "scale": "2", "sampler": "dpm_solver", "format": "jpeg"}
        assert Settings.of(**changed).steps == 30
        assert rerun.changes_by_name({"sampler": "k_dpmpp_2m_ka"}) == {"sampler": "dpmpp_2m", "schedule": "karras"}
        with pytest.raises(UsageError, match="contradicts --schedule beta"):
            rerun.changes_by_name({"sampler": "LMS Karras", "--scheduler": "beta"})

    def test_a_watermark_can_be_added(self, tmp_path: Path) -> None:
        bare = rerun.settings_of(source(tmp_path, watermark=None))
        assert not Settings.of(**(bare | rerun.changes_by_name({"watermark": "mine"}))).no_watermark

    @pytest.mark.parametrize("name", ["n_samples", "from_file", "outdir", "nothing", ""])
    def test_settings_of_a_run_and_unknown_settings_are_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="not a setting of one image") as caught:
            rerun.changes_by_name({name: "1"})
        assert "steps" in caught.value.fix

    @pytest.mark.parametrize("name", ["model", "ckpt"])
    def test_the_model_has_a_flag_of_its_own(self, name: str) -> None:
        with pytest.raises(UsageError, match="not a setting of one image") as caught:
            rerun.changes_by_name({name: "1"})
        assert caught.value.fix == "sdcli rerun has the flag --model."


class TestRefusals:
    def again(self, one: rerun.Source, **options: Any) -> None:
        rerun.rerun(one, ignore, **options)

    def test_another_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="not the one that generated") as caught:
            self.again(source(tmp_path), outdir=str(tmp_path / "out"))
        assert "0123456789abcdef" in caught.value.why
        assert "--force" in caught.value.fix
        assert not (tmp_path / "out").exists()

    def test_a_missing_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"x\.ckpt, which generated") as caught:
            self.again(source(tmp_path, job(model="x.ckpt")))
        assert "--model" in caught.value.fix

    def test_a_grid(self, tmp_path: Path) -> None:
        grid = Settings.of(prompt="a cat", n_samples=4).model_dump(mode="json")
        with pytest.raises(InputFileError, match="is a grid") as caught:
            self.again(source(tmp_path, grid=grid))
        assert caught.value.fix == (
            "Generate its run again: sdcli txt2img --prompt 'a cat' --n_samples 4 --n_iter 2 --seed 42"
        )

    def test_an_image_of_another_tool(self, tmp_path: Path) -> None:
        one = foreign(
            tmp_path, "a cat\nSteps: 37, Sampler: Euler a, Seed: 5, Size: 500x512, Model: tide, Version: v1.9"
        )
        with pytest.raises(InputFileError, match="cannot be generated again exactly") as caught:
            self.again(one)
        assert caught.value.fix == (
            "The nearest command is: sdcli txt2img --prompt 'a cat' --H 512 --W 500 --n_samples 1 --n_iter 1 "
            "--ddim_steps 37 --sampler euler_a --schedule linspace --seed 5 --ckpt tide.safetensors"
        )
        for phrase in ("AUTOMATIC1111", "scale is not known", "tide", "500"):
            assert phrase in caught.value.why

    def test_an_image_without_metadata(self, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="does not say how it was generated"):
            self.again(foreign(tmp_path, ""))

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"schema": 99, "sdcli": "9.0"}, "It was written by sdcli 9.0 with schema 99"),
            ({"sdcli": "9.0", "job": {"lora": "x"}}, "It was written by sdcli 9.0; job.lora: "),
        ],
    )
    def test_a_record_of_a_newer_version(self, tmp_path: Path, values: dict[str, Any], reason: str) -> None:
        record = ImageRecord.new(job=job()).values()
        newer = record | values | {"job": record["job"] | values.get("job", {})}
        path = tmp_path / "newer.png"
        path.write_bytes(formats.encode(PIXELS, newer, a1111.write(job())))
        with pytest.raises(InputFileError, match="this version cannot read the record") as caught:
            self.again(rerun.read(path))
        assert caught.value.why.startswith(reason)
        assert "The nearest command is: sdcli txt2img --prompt 'a cat'" in caught.value.fix
        with pytest.raises(InputFileError, match="this version cannot read the record"):
            rerun.command(rerun.read(path))

    def test_an_old_record_is_not_refused(self, tmp_path: Path) -> None:
        old = {"sdcli": "0.1.0", "job": job().model_dump(mode="json"), "settings": {}, "safety": None, "device": "cpu"}
        path = tmp_path / "old.png"
        path.write_bytes(formats.encode(PIXELS, old, a1111.write(job())))
        assert rerun.read(path).job == job()


def test_the_command_of_an_image_from_the_middle_of_a_run(tmp_path: Path) -> None:
    place = {"before": [[2, 21]], "rows": 2, "row": 1}
    line, comment = rerun.command(source(tmp_path, job(noise=place, index=3))).split("\n")
    assert "--n_samples 2" in line
    assert "--watermark mine" in line
    assert shlex.split(line)[:2] == ["sdcli", "txt2img"]
    assert comment == "# image 4 of those that this command generates"


def test_the_difference_of_two_images() -> None:
    other = PIXELS.copy()
    assert compare(PIXELS, other).identical
    assert compare(PIXELS, other).psnr == math.inf
    other[0, 0, 0] = 51
    one = compare(PIXELS, other)
    assert one.largest_difference == 51
    assert one.psnr == pytest.approx(10 * math.log10(255**2 * PIXELS.size / 51**2))
    assert one.same
    assert not one.identical
    assert not compare(PIXELS, other + 9).same


class TestTheCommandOfAnotherTool:
    def nearest(self, name: str) -> tuple[dict[str, Any], str]:
        found = rerun.read(DATA / name).provenance
        assert found is not None
        settings, different = rerun.nearest(found)
        return settings, "\n".join(different)

    def test_everything_that_it_leaves_out_is_a_note(self) -> None:
        settings, notes = self.nearest("webui-more-than-words.png")
        assert (settings["prompt_syntax"], settings["clip_skip"]) == ("a1111", 2)
        for left_out in (
            "Denoising strength 0.55", "ENSD 31337", "Hires upscale 2", "Hires upscaler Latent",
            "Variation seed 99", "Variation seed strength 0.3", "VAE some.vae.pt", "LoRA sketch",
        ):  # fmt: skip
            assert left_out in notes, left_out
        assert "Template" not in self.nearest("webui-template-after-last-line.png")[1]

    def test_variations_of_invokeai_are_notes(self) -> None:
        _, notes = self.nearest("invokeai-dream-with-variation.png")
        for left_out in ("-v 0.15", "-V 13872:0.15", "-I first.png", "-f 0.75"):
            assert f"{left_out} is ignored" in notes

    @pytest.mark.parametrize(
        "value",
        [
            "Hires upscale: 2", "Variation seed: 3", "VAE: a.pt", "TI hashes: \"glow: abc\"",
            "ControlNet 0: canny", "Refiner: base", "Tiling: True", "Face restoration: CodeFormer",
            "Init image: a.png", "Style: anime", "Civitai resources: [{\"type\": \"lora\"}]",
        ],
    )  # fmt: skip
    def test_each_kind_of_value_is_a_note(self, tmp_path: Path, value: str) -> None:
        found = foreign(tmp_path, f"a cat\nSteps: 20, Sampler: DDIM, Seed: 5, {value}, Version: v1.9").provenance
        assert found is not None
        assert f"{value.split(':')[0]} " in "\n".join(rerun.nearest(found)[1])

    def test_braces_are_text(self) -> None:
        assert self.nearest("webui-braces-are-words.png")[0]["compat"] is True
        assert "compat" not in self.nearest("webui-ddim-schedule-automatic.png")[0]

    @pytest.mark.parametrize(
        ("prompt", "note"),
        [
            ("a [grey] boat", "[grey]"),
            ("a ((big)) boat", "(big)"),
            ("a boat BREAK a lake", "BREAK"),
            ("embedding:sketch.pt boat", "embedding:sketch.pt"),
            (r"a boat \(film\), androids", ""),
        ],
    )
    def test_a_syntax_of_a_tool_that_sdcli_does_not_read_is_a_note(
        self, tmp_path: Path, prompt: str, note: str
    ) -> None:
        found = foreign(tmp_path, f"{prompt}\nSteps: 20, Sampler: DDIM, Seed: 5, Version: ComfyUI").provenance
        assert found is not None
        notes = "\n".join(rerun.nearest(found)[1])
        assert ("read as plain text" in notes) == bool(note)
        assert note in notes

    @pytest.mark.parametrize(
        ("prompt", "flags"),
        [
            ("a boat", ""),
            (r"a boat \(film\), androids", "--prompt-syntax a1111"),
            ("a [grey] boat", "--prompt-syntax a1111"),
            ("a boat BREAK a lake", "--prompt-syntax a1111"),
            ("a boat\nNegative prompt: (fog:1.2)", "--prompt-syntax a1111"),
            ("a boat at a lake, " * 6, "--long-prompt chunk"),
        ],
    )
    def test_the_syntax_of_the_web_ui_is_a_setting(self, tmp_path: Path, prompt: str, flags: str) -> None:
        source = foreign(tmp_path, f"{prompt}\nSteps: 20, Sampler: DDIM, Seed: 5, Clip skip: 2, Version: v1.9.0")
        command = rerun.command(source)
        assert "--clip-skip 2" in command and flags in command
        assert ("--prompt-syntax" in command, "--long-prompt" in command) == ("syntax" in flags, "long" in flags)
        assert source.provenance is not None
        assert "plain text" not in "\n".join(rerun.nearest(source.provenance)[1])

    def test_a_lora_of_the_web_ui_is_a_note(self, tmp_path: Path) -> None:
        found = foreign(tmp_path, "a boat <lora:ink:0.7>\nSteps: 20, Sampler: DDIM, Seed: 5").provenance
        assert found is not None
        assert "the LoRA ink is looked for in --adapters" in rerun.nearest(found)[1]

    @pytest.mark.parametrize(
        ("values", "settings", "notes"),
        [
            ("Sampler: DPM++ 2M Karras", {"sampler": "dpmpp_2m", "schedule": "karras"}, []),
            ("Sampler: DPM++ 2S a, Schedule type: Karras", {"sampler": "dpmpp_2s", "schedule": "karras"},
             ["sdcli has no sampler DPM++ 2S a; dpmpp_2s is used instead"]),
            ("Sampler: LMS, Schedule type: KL Optimal", {"sampler": "lms", "schedule": "align_your_steps"},
             ["sdcli has no schedule KL Optimal; align_your_steps is used instead"]),
            ("Sampler: Nonsense, Schedule type: Nonsense", {"sampler": "ddim", "schedule": "auto"},
             ["sdcli has no sampler Nonsense; ddim is used instead",
              "sdcli has no schedule Nonsense; auto is used instead"]),
            ("Sampler: LCM, Schedule type: Turbo", {"sampler": "lcm"},
             ["the schedule Turbo is ignored: lcm does not take it"]),
            ("Sampler: DDPM, Schedule type: Karras, Eta DDIM: 0.5", {"sampler": "ddpm"},
             ["the schedule karras is ignored: ddpm does not take it",
              "eta 0.5 is ignored: ddpm does not take it"]),
            ("Sampler: ddim, Scheduler: normal, Version: ComfyUI", {"sampler": "euler", "schedule": "linspace"},
             ["DDIM with the schedule linspace is the sampler euler here"]),
            ("Sampler: ddim, Scheduler: simple, Version: ComfyUI", {"sampler": "ddim", "schedule": "trailing"}, []),
            ("Sampler: euler, Scheduler: beta, Version: ComfyUI", {"sampler": "euler", "schedule": "trailing"},
             ["sdcli has no schedule ComfyUI beta; trailing is used instead"]),
        ],
    )  # fmt: skip
    def test_the_nearest_sampler_and_schedule(
        self, tmp_path: Path, values: str, settings: dict[str, str], notes: list[str]
    ) -> None:
        one = foreign(tmp_path, f"a cat\nSteps: 20, {values}, Seed: 5, CFG scale: 7, Size: 512x512, Model: builtin")
        assert one.provenance is not None
        found, different = rerun.nearest(one.provenance)
        names = ("sampler", "schedule", "eta")
        assert ({name: found[name] for name in names if name in found}, different) == (settings, notes)
        Settings.of(**{name: found[name] for name in names if name in found})

    @pytest.mark.parametrize("sampler", ["DDIM", "Euler a"])
    @pytest.mark.parametrize(
        "value", ["Steps: 0", "Steps: -3", "Steps: 1000000000000", "Steps: 20, Size: 0x64", "Steps: 20, Size: 64x99999"]
    )
    def test_a_value_that_is_not_possible(self, tmp_path: Path, value: str, sampler: str) -> None:
        one = foreign(tmp_path, f"a cat\n{value}, Sampler: {sampler}, Seed: -1, CFG scale: 1e999")
        for no_command in (rerun.command, self.again):
            with pytest.raises(InputFileError, match="no command of this version generates") as caught:
                no_command(one)
            assert "is out of range" in caught.value.why

    def again(self, source: rerun.Source) -> None:
        rerun.rerun(source, ignore)

    def test_a_prompt_that_is_not_known(self, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="no command generates") as caught:
            rerun.command(foreign(tmp_path, "unknown\nSteps: 20, Version: ComfyUI"))
        assert "prompt is not known" in caught.value.why

    def test_many_values_are_counted(self, tmp_path: Path) -> None:
        values = ", ".join(f"Key {number}: 1" for number in range(500))
        found = foreign(tmp_path, f"a cat\nSteps: 20, {values}").provenance
        assert found is not None
        assert "480 more values are ignored" in rerun.nearest(found)[1]


@pytest.mark.parametrize(
    ("before", "index"), [([[3, 20], [1, 20]], 5), ([[2, 20]], 1), ([[2, 21]], 5)], ids=["sizes", "first", "draws"]
)
def test_the_command_of_an_image_that_no_run_repeats(tmp_path: Path, before: list[list[int]], index: int) -> None:
    place = {"before": before, "rows": 2, "row": 1}
    one = source(tmp_path, job(noise=place, index=index))
    assert rerun.command(one) == f"sdcli rerun {one.path}"


def test_a_record_with_a_setting_that_does_not_exist() -> None:
    with pytest.raises(InputFileError, match="no command of this version") as caught:
        rerun.command(rerun.read(DATA / "rec_wm_method_evil.png"))
    assert "'evil'" in caught.value.why


class TestStrangers:
    """A record may come from anybody: nothing that only the record names is downloaded or parsed."""

    @pytest.fixture(autouse=True)
    def network(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The hub answers, but each request for a download fails the test."""
        requests: list[str] = []

        def download(repo: str, *, local_files_only: bool = False, **_: Any) -> str:
            if not local_files_only:
                requests.append(repo)
            raise LocalEntryNotFoundError("not in the cache")

        monkeypatch.setattr(hub, "unreachable", lambda: "")
        monkeypatch.setattr(safety, "unreachable", lambda: "")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return requests

    @pytest.fixture
    def questions(self) -> list[str]:
        return []

    @pytest.mark.parametrize("answer", [False, True])
    def test_a_model_is_downloaded_after_a_yes(
        self, tmp_path: Path, network: list[str], questions: list[str], answer: bool
    ) -> None:
        one = source(tmp_path, job(model="stranger/model"), settings={"revision": "v2", "model": "stranger/model"})
        with pytest.raises(ModelNotFound):
            rerun.rerun(one, ignore, may_download=lambda what: questions.append(what) or answer)
        assert questions == [f"the model stranger/model at v2 from {constants.ENDPOINT}"]
        assert network == ["stranger/model"] * answer

    @pytest.mark.parametrize("answer", [False, True])
    def test_a_safety_model_is_downloaded_after_a_yes(
        self, tmp_path: Path, network: list[str], questions: list[str], answer: bool
    ) -> None:
        checked = {"checker": "clip", "flagged": False}
        one = source(tmp_path, settings={"safety_model": "stranger/checker"}, safety=checked)
        with pytest.raises(ModelNotFound):
            rerun.rerun(
                one, ignore, force=True, outdir=str(tmp_path / "out"),
                may_download=lambda what: questions.append(what) or answer,
            )  # fmt: skip
        assert questions == [f"the safety checker stranger/checker from {constants.ENDPOINT}"]
        assert network == ["stranger/checker"] * answer

    @pytest.mark.parametrize("by_variable", [False, True])
    def test_without_network_nobody_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
    ) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_variable)
        with pytest.raises(ModelNotFound):
            rerun.rerun(
                source(tmp_path, job(model="stranger/model")), ignore, offline=not by_variable,
                may_download=lambda what: pytest.fail(what),
            )  # fmt: skip

    def test_a_model_of_the_hub_is_not_downloaded(self, tmp_path: Path, network: list[str]) -> None:
        with pytest.raises(ModelNotFound, match="stranger/model, which generated") as caught:
            rerun.rerun(source(tmp_path, job(model="stranger/model")), ignore)
        assert "Only a record names it" in caught.value.why
        assert "--model" in caught.value.fix
        assert network == []

    def test_a_model_that_the_user_names_is_downloaded(self, tmp_path: Path, network: list[str]) -> None:
        with pytest.raises(ModelNotFound):
            rerun.rerun(source(tmp_path, job(model="stranger/model")), ignore, model="stranger/model")
        assert network == ["stranger/model"]

    def test_a_safety_model_is_not_downloaded(self, tmp_path: Path, network: list[str]) -> None:
        checked = {"checker": "clip", "flagged": False}
        one = source(tmp_path, settings={"safety_model": "stranger/checker"}, safety=checked)
        with pytest.raises(ModelNotFound, match="stranger/checker") as caught:
            rerun.rerun(one, ignore, force=True, outdir=str(tmp_path / "out"))
        assert "Only a record names it" in caught.value.why
        assert network == []

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A folder with the files of a safety model."""
        (tmp_path / "checker").mkdir()
        for name in ("config.json", "model.safetensors"):
            (tmp_path / "checker" / name).write_text("{}")
        return tmp_path / "checker"

    @pytest.mark.parametrize("changes", [{}, {"safety_checker": "clip"}, {"steps": "3"}])
    def test_a_folder_with_a_safety_model_is_not_read(
        self, tmp_path: Path, folder: Path, changes: dict[str, str]
    ) -> None:
        one = source(tmp_path, settings={"safety_model": str(folder)}, safety={"checker": "clip", "flagged": False})
        with pytest.raises(ModelNotFound, match="is a folder that only the record names") as caught:
            rerun.rerun(one, ignore, force=True, outdir=str(tmp_path / "out"), changes=changes)
        assert f"--set safety_model={folder}" in caught.value.fix

    @pytest.mark.parametrize("by_change", [False, True])
    def test_a_folder_with_a_safety_model_that_the_user_names_is_read(
        self, tmp_path: Path, folder: Path, by_change: bool
    ) -> None:
        one = source(tmp_path, settings={"safety_model": str(folder)}, safety={"checker": "clip", "flagged": False})
        own = {"changes": {"safety_model": str(folder)}} if by_change else {"own_safety_model": str(folder)}
        with pytest.raises(ModelError, match=r"the safety checker in .* cannot be loaded"):
            rerun.rerun(one, ignore, force=True, outdir=str(tmp_path / "out"), **own)

    def test_a_checkpoint_with_another_hash_is_not_parsed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def parsed(_: Path) -> None:
            pytest.fail("the checkpoint is parsed")

        monkeypatch.setattr(checkpoint_file, "shapes", parsed)
        (tmp_path / "x.ckpt").write_bytes(b"anything")
        one = source(tmp_path, job(model="x.ckpt"), settings={"ckpt": str(tmp_path / "x.ckpt")})
        with pytest.raises(ModelError, match="not the one that generated"):
            rerun.rerun(one, ignore)

    @pytest.mark.parametrize("name", ["fifo.ckpt", "/dev/zero", "/", "x" * 4000 + ".ckpt", "~nosuchuser/a.ckpt"])
    def test_a_path_that_is_no_regular_file_is_not_opened(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / "fifo.ckpt")
        path = str(tmp_path / name) if name.startswith("fifo") else name
        with pytest.raises(ModelNotFound, match="is not found"):
            rerun.rerun(source(tmp_path, job(model="x.ckpt"), settings={"ckpt": path}), ignore)

    @pytest.mark.parametrize("name", ["/", "/dev", "x" * 4000])
    def test_a_folder_that_is_no_model_is_not_listed(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ModelNotFound, match="is not found"):
            rerun.rerun(source(tmp_path, settings={"model": name}), ignore)


LONG, NULL, HUGE = "x" * 5000, "a\0b", 10**12
BAD: list[tuple[str, dict[str, Any]]] = [
    *(("job.noise.rows", {"noise": {"rows": rows}}) for rows in (-1, 0, 10**9, "3", 1.5, True, None)),
    *(("job.noise", {"noise": {"rows": 2, "row": row}}) for row in (-1, 2, HUGE)),
    *(
        ("job.noise", {"noise": {"before": before}})
        for before in ([[-1, 3]], [[0, 3]], [[3, -1]], [[3, 2**62 + 1]], [[3]], [3], "3", [[True, 1]])
    ),
    ("job.noise", {"noise": {"fixed_rows": 2, "rows": 3, "row": 2}}),
    *((f"job.{name}", {name: 2**20}) for name in ("height", "width")),
    *(("job.steps", {"steps": steps}) for steps in (0, -1, 10**9, 2.5, "30", True, None)),
    *(("job.seed", {"seed": seed}) for seed in (-1, 2**64, "7", False)),
    *(("job.scale", {"scale": scale}) for scale in (float("nan"), float("inf"), "7", True)),
    *((f"job.{name}", {name: text}) for name in ("model", "out") for text in (LONG, NULL, 5)),
    ("job.model_hash", {"model_hash": LONG}),
    ("job.index", {"index": -1}),
    ("job.prompt", {"prompt": 5}),
    ("job.rng", {"rng": "mps"}),
]


class TestDamagedRecords:
    """Each field that no run can write makes the record unreadable; the error names the field."""

    def refused(self, path: Path, values: dict[str, Any]) -> str:
        path.write_bytes(formats.encode(PIXELS, values, ""))
        one = rerun.read(path)
        with pytest.raises(InputFileError) as caught:
            rerun.rerun(one, ignore)
        assert len(str(caught.value)) < 5000
        return caught.value.why

    @pytest.mark.parametrize(("field", "changes"), BAD)
    def test_of_the_job(self, tmp_path: Path, field: str, changes: dict[str, Any]) -> None:
        record = ImageRecord.new(job=job()).values()
        assert f"; {field}" in self.refused(tmp_path / "a.png", record | {"job": record["job"] | changes})

    @pytest.mark.parametrize("name", ["ckpt", "model", "config", "revision", "safety_model"])
    @pytest.mark.parametrize("value", [LONG, NULL, 5])
    def test_of_the_settings(self, tmp_path: Path, name: str, value: object) -> None:
        record = ImageRecord.new(job=job()).values() | {"settings": {name: value}}
        assert f"settings: Value error, {name}: " in self.refused(tmp_path / "a.png", record)

    @pytest.mark.parametrize("schema", [True, 0, -1, 1.5, "2", None, 10**400, [1]])
    def test_of_the_schema(self, tmp_path: Path, schema: object) -> None:
        record = ImageRecord.new(job=job()).values() | {"schema": schema, "sdcli": LONG}
        assert f"with schema {str(schema)[:50]}" in self.refused(tmp_path / "a.png", record)


class TestSettingsThatAreNotValid:
    """A record is the fault of the file, a change that of the user."""

    @pytest.mark.parametrize(
        ("changes", "parts", "named"),
        [
            ({"sampler": "evil"}, {}, "--sampler 'evil'"),
            ({"eta": 0.5, "sampler": "plms"}, {}, "--ddim_eta 0.5"),
            ({"width": 100}, {}, "--W 100"),
            ({"steps": 1001}, {}, "1001"),
            ({}, {"settings": {"nsfw_threshold": "high"}}, "--nsfw-threshold 'high'"),
            ({}, {"watermark": WatermarkRecord(text="a" * 10**6, method="robust")}, "watermark does not fit"),
            ({}, {"watermark": WatermarkRecord(text="a", method="evil")}, "--watermark-method 'evil'"),
        ],
    )
    def test_of_the_record(self, tmp_path: Path, changes: dict[str, Any], parts: dict[str, Any], named: str) -> None:
        one = source(tmp_path, job(**changes), **parts)
        with pytest.raises(InputFileError) as caught:
            rerun.rerun(one, ignore, force=True, outdir=str(tmp_path / "out"))
        assert named in caught.value.why
        assert len(caught.value.why) < 1000

    @pytest.mark.parametrize(
        "changes", [{"steps": "0"}, {"steps": "x"}, {"scale": "nan"}, {"sampler": "evil"}, {"height": "1048576"},
                    {"watermark": "a" * 1000}, {"eta": "2"}, {"width": "100"}, {"format": "gif"}],
    )  # fmt: skip
    def test_of_the_user(self, tmp_path: Path, changes: dict[str, str]) -> None:
        with pytest.raises(UsageError):
            rerun.rerun(source(tmp_path), ignore, changes=changes, force=True, outdir=str(tmp_path / "out"))

    def test_a_change_can_replace_one_that_is_not_valid(self, tmp_path: Path) -> None:
        one = source(tmp_path, job(sampler="evil"))
        with pytest.raises(ModelError, match="not the one that generated"):
            rerun.rerun(one, ignore, changes={"sampler": "ddim"})

    def test_of_a_grid(self, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="no command of this version") as caught:
            rerun.command(source(tmp_path, grid={"n_samples": [1], "outdir": NULL}))
        assert "--n_samples" in caught.value.why


class TestNoiseOfTheCpu:
    @pytest.mark.parametrize(
        "noise",
        [{"before": [[3, 10**12]]}, {"before": [[100_000, 1]]}, {"rows": 100_000}, {"fixed_rows": 100_000}],
    )
    def test_numbers_that_are_too_many_to_repeat(self, tmp_path: Path, noise: dict[str, Any]) -> None:
        one = source(tmp_path, job(noise=noise))
        with pytest.raises(InputFileError, match="cannot be repeated") as caught:
            rerun.rerun(one, ignore, force=True, outdir=str(tmp_path / "out"))
        assert "job.noise" in caught.value.why
        with pytest.raises(InputFileError, match="cannot be repeated"):
            rerun.command(one)
