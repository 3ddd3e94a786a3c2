"""The whole way from settings to images, with a toy model; and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import sdcli
from sdcli.errors import InputFileError, OutputError, SkippedError, UsageError
from sdcli.events import BatchDone, BatchStarted, Event, Finished, Note, Phase, Saved, Started, StepDone
from sdcli.images import GeneratedImage
from sdcli.run import Run
from sdcli.settings import Settings
from sdcli.txt2img import execute, generate
from tests.unit.pipeline.toy_model import ToySource, ToyUnet, toy_model

TOY: dict[str, Any] = {"device": "cpu", "no_watermark": True, "safety_checker": "off", "steps": 2, "precision": "full"}
HEAVY = ("torch", "diffusers", "transformers", "cv2", "PIL")
LIGHT = (
    "sdcli", "sdcli.txt2img", "sdcli.run", "sdcli.executors", "sdcli.executors.local", "sdcli.pipeline",
    "sdcli.pipeline.samplers.ddim", "sdcli.pipeline.samplers.plms", "sdcli.pipeline.samplers.dpm_solver",
    "sdcli.outputs.writer", "sdcli.stages.safety", "sdcli.stages.watermark",
)  # fmt: skip


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ToySource:
    """The toy model in place of the builtin one."""
    toy = ToySource()
    monkeypatch.setattr("sdcli.models.find_for", lambda settings: toy)
    return toy


def test_nothing_heavy_is_imported_before_an_image_is_generated() -> None:
    code = f"""
import importlib, sys
from sdcli.registry import SAMPLERS, STAGES
for module in {LIGHT}:
    importlib.import_module(module)
    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    assert not loaded, f"{{module}} imports {{loaded}}"
for sampler in SAMPLERS.values():
    sampler.title
assert not [heavy for heavy in {HEAVY} if heavy in sys.modules]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_exports_the_library_call() -> None:
    assert callable(sdcli.txt2img)
    assert sdcli.GeneratedImage is GeneratedImage


def test_the_events_of_a_run_in_order(source: ToySource, tmp_path: Path) -> None:
    events: list[Event] = []
    images = sdcli.txt2img("cat", outdir=tmp_path, progress=events.append, n_samples=2, n_iter=1, **TOY)
    assert [event for event in events if not isinstance(event, Saved)] == [
        Started(2, "m", "cpu, precision full", batches=1),
        Note("the safety checker is off"),
        Phase("importing libraries"),
        Phase("loading model"),
        BatchStarted(2, 2),
        StepDone(0),
        StepDone(1),
        BatchDone(2),
        Finished(2, f"in {tmp_path}", seeds=(42,)),
    ]
    saved = [event for event in events if isinstance(event, Saved)]
    assert events[-4:-1] == saved
    assert [event.path for event in saved] == [*(image.path for image in images), tmp_path / "grid-0000.png"]
    assert saved[0].record == images[0].record.values()


def test_each_image_is_saved_before_it_is_yielded(source: ToySource, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = Settings.of(outdir=str(tmp_path), n_samples=1, n_iter=3, skip_grid=True, **TOY)
    for number, image in enumerate(generate(settings, events.append), start=1):
        assert image.path is not None and image.path.is_file()
        assert sum(isinstance(event, Saved) for event in events) == number
        assert sum(isinstance(event, BatchDone) for event in events) == number, "the next batch is not generated yet"


@pytest.mark.parametrize("wrong", [{"steps": 1001}, {"height": 20}, {"sampler": "dpm_solver", "steps": 1}])
def test_what_cannot_be_generated_is_an_error_before_the_model_loads(
    source: ToySource, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        generate(Settings.of(outdir=str(tmp_path / "out"), **(TOY | wrong)))
    assert source.loads == 0
    assert not (tmp_path / "out").exists()


def test_a_run_with_failed_images_ends_with_an_error_after_the_others(tmp_path: Path) -> None:
    settings = Settings.of(outdir=str(tmp_path), n_samples=2, n_iter=1, on_error="skip", **TOY)
    source: Any = ToySource(toy_model(ToyUnet(float("nan"))))
    events: list[Event] = []
    with pytest.raises(SkippedError):
        list(execute(Run(settings, source=source), events.append))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert [note.split(":")[0] for note in notes if "skipped" in note] == ["image 1 skipped", "image 2 skipped"]


def test_other_jobs_can_be_generated_without_a_journal(tmp_path: Path) -> None:
    settings = Settings.of(outdir=str(tmp_path), n_samples=2, n_iter=1, skip_grid=True, **TOY)
    source: Any = ToySource()
    run = Run(settings, source=source)
    (first, second), = run.batches()  # fmt: skip
    (image,) = execute(run, lambda event: None, batches=[[second]], journal=False)
    assert image.job == second != first
    assert not list(tmp_path.glob("run-*.jsonl"))


class TestRun:
    """A `Run` finds errors before the model loads and before its checksum is computed."""

    @pytest.fixture
    def source(self) -> Any:
        toy = ToySource()

        def fail() -> str:
            raise AssertionError("the checksum is computed too early")

        toy.hash = fail  # type: ignore[method-assign]
        return toy

    def run(self, source: Any, events: list[Event] | None = None, **settings: Any) -> Run:
        return Run(Settings.of(**(TOY | settings)), [].append if events is None else events.append, source)

    def test_output_must_be_a_new_file_in_an_existing_folder(self, source: Any, tmp_path: Path) -> None:
        one_image = {"n_samples": 1, "n_iter": 1}
        (tmp_path / "old.png").touch()
        with pytest.raises(OutputError, match="already exists"):
            self.run(source, output=str(tmp_path / "old.png"), **one_image)
        with pytest.raises(OutputError, match="cannot write") as caught:
            self.run(source, output=str(tmp_path / "missing/new.png"), **one_image)
        assert "does not exist" in caught.value.why
        self.run(source, output=str(tmp_path / "new.png"), **one_image)

    def test_a_prompt_must_fit_into_the_file_format(self, source: Any) -> None:
        with pytest.raises(OutputError, match="JPEG"):
            self.run(source, prompt="x" * 40_000, format="jpeg")

    def test_the_number_of_images_is_known_unless_prompts_are_a_stream(self, source: Any, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a\nb\nc\n")
        assert self.run(source, n_samples=2, n_iter=3).total == 6
        assert self.run(source, from_file=str(prompts), n_iter=2).total == 6
        assert self.run(source, from_file="-").total is None

    @pytest.mark.parametrize(
        ("rows", "settings", "words"),
        [
            ([{}], {}, ""),
            ([{}] * 3, {}, "3 prompts x 2 iterations"),
            ([{}] * 3, {"images_per_prompt": 4}, "3 prompts x 4 images x 2 iterations"),
            ([{"images_per_prompt": 4}, {}], {}, ""),
            ([{"steps": 2}, {"steps": 2}, {"steps": 4}, {"seed": 1, "steps": 4}, {}], {}, "5 prompts x 2 iterations"),
            ([{"images_per_prompt": 5}, {"steps": 4}, {"images_per_prompt": 2, "steps": 4}], {}, ""),
        ],
    )
    def test_batches_are_counted_before_the_run(
        self, tmp_path: Path, rows: list[dict[str, int]], settings: dict[str, int], words: str
    ) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"prompt": "a cat", **row}) + "\n" for row in rows))
        for n_samples in (1, 2, 3):
            run = self.run(ToySource(), from_file=str(path), n_samples=n_samples, n_iter=2, **settings)
            batches = list(run.batches())
            assert run.counts is not None
            assert (run.counts.images, run.counts.batches) == (sum(map(len, batches)), len(batches))
            assert run.counts.in_words() == words

    def test_how_the_images_of_one_prompt_are_counted(self, source: Any) -> None:
        for settings, words in (({"n_samples": 3, "n_iter": 2}, "3 images x 2 iterations"), ({"n_iter": 1}, "")):
            counts = self.run(source, **settings).counts
            assert counts is not None and counts.in_words() == words

    def test_the_model_is_hashed_with_a_word_if_it_takes_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        events: list[Event] = []
        toy: Any = ToySource()
        run = self.run(toy, events)
        assert run.model_hash == "0" * 64
        assert events == []

        def slow() -> str:
            deadline = time.monotonic() + 10
            while not events and time.monotonic() < deadline:
                time.sleep(0.01)
            return "1" * 64

        monkeypatch.setattr("sdcli.run.HASHING_AFTER", 0.01)
        toy.hash = slow
        assert self.run(toy, events).model_hash == "1" * 64
        toy.here = lambda: False
        toy.hash = lambda: "2" * 64
        assert self.run(toy, events).model_hash == "2" * 64
        assert events == [Phase("hashing model"), Phase("downloading model")]

    def test_invalid_rows_end_the_run_or_are_skipped(self, source: Any, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text('{"prompt": "a"}\n{"prompt": "b", "steps": 1001}\n{"prompt": "c"}\n')
        with pytest.raises(InputFileError):
            self.run(source, from_file=str(prompts))
        events: list[Event] = []
        run = self.run(source, events, from_file=str(prompts), on_error="skip")
        assert run.total == 2
        run.source = ToySource()  # type: ignore[assignment]
        assert [job.prompt for batch in run.batches() for job in batch] == ["a", "c"]
        assert run.skipped == 1
        (note,) = [event.text for event in events if isinstance(event, Note)]
        assert note.startswith("skipped: ") and "2" in note

    def test_the_notes_are_those_of_the_stages(self, source: Any) -> None:
        assert self.run(source).notes == []
        (note,) = self.run(source, no_watermark=False, height=160, width=160).notes
        assert "robust" in note, "160 x 160 pixels are too few for the model's method"
        with pytest.raises(UsageError, match="the watermark does not fit"):
            self.run(source, no_watermark=False)
