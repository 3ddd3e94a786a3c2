"""Stages: their order, what they work on, withheld images and failed images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sdcli.errors import DeviceError, ModelError
from sdcli.events import Event, Note
from sdcli.images import Batch, FailedImage, GeneratedImage, Result, UnneededImage, WithheldImage
from sdcli.records import ImageRecord
from sdcli.registry import STAGES
from sdcli.settings import Settings
from sdcli.stages import Outcome, StageContext, Stages
from tests.unit.pipeline.toy_model import SPEC, ToySource, toy_jobs

Pixels = Any
Work = Callable[[Pixels], Outcome]


class FakeStage:
    """A stage that applies a function to each image, and lists its calls in `calls`."""

    def __init__(self, name: str, works_on: str, work: Work, calls: list[str]) -> None:
        self.name = name
        self.works_on: Any = works_on
        self._work = work
        self._calls = calls

    def check(self, height: int, width: int) -> str:
        self._calls.append(f"{self.name} check {height}x{width}")
        return f"{self.name} note" if self.name == "first" else ""

    def prepare(self, device: str) -> str:
        self._calls.append(f"{self.name} prepare {device}")
        return ""

    def load(self) -> None:
        self._calls.append(f"{self.name} load")

    def apply(self, images: Sequence[Pixels]) -> list[Outcome]:
        self._calls.append(f"{self.name} apply {len(images)}")
        return [self._work(image) for image in images]


class Setup:
    """Stages made of the given functions, with their calls and events."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, on_error: Any = "stop", **stages: tuple[str, Work]) -> None:
        self.calls: list[str] = []
        self.events: list[Event] = []
        made = {
            name: lambda context, name=name, works_on=works_on, work=work: FakeStage(name, works_on, work, self.calls)
            for name, (works_on, work) in stages.items()
        }
        monkeypatch.setattr("sdcli.stages.STAGES", made | {"unused": lambda context: None})
        source: Any = ToySource()
        context = StageContext(Settings.of(on_error=on_error), SPEC, source, lambda pixels: pixels)
        self.stages = Stages(context, self.events.append)

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


def images(count: int = 3) -> list[Result]:
    """Generated images; the pixels of image i are all i / 10."""
    return [
        GeneratedImage(job, np.full((2, 2, 3), index / 10, np.float32), ImageRecord.new(job=job), {"seconds": 1})
        for index, job in enumerate(toy_jobs(count))
    ]


def value(result: Result) -> float:
    assert isinstance(result, GeneratedImage)
    return float(result.pixels[0, 0, 0])


def add(amount: float, record: Any = None, note: str = "") -> Work:
    return lambda pixels: Outcome(pixels + amount, record, note)


def test_the_table_checks_safety_before_it_writes_the_watermark() -> None:
    assert list(STAGES) == ["safety", "watermark"]
    source: Any = ToySource()
    stages = Stages(StageContext(Settings.of(), SPEC, source, lambda pixels: pixels), lambda event: None)
    assert [(stage.name, stage.works_on) for stage in stages] == [("safety", "image"), ("watermark", "file")]


def test_stages_run_in_the_order_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    double: Work = lambda pixels: Outcome(pixels * 2)  # noqa: E731
    setup = Setup(monkeypatch, first=("image", add(1)), second=("image", double))
    assert [value(result) for result in setup.stages.apply(images(2))] == pytest.approx([2.0, 2.2])
    assert setup.calls == ["first apply 2", "second apply 2"]


def test_checks_and_preparation_collect_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, first=("image", add(0)), second=("file", add(0)))
    assert setup.stages.check(16, 32) == ["first note"]
    assert setup.stages.prepare("cuda") == []
    assert setup.calls == ["first check 16x32", "second check 16x32", "first prepare cuda", "second prepare cuda"]


class TestLoading:
    def test_stages_load_once_before_the_first_batch_that_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        setup = Setup(monkeypatch, first=("image", add(0)))
        jobs = toy_jobs(2)
        batches = setup.stages.loaded([Batch(jobs, [False, False]), *[Batch(jobs, [False, True])] * 2])
        next(batches)
        assert setup.calls == []
        next(batches)
        assert setup.calls == ["first load"]
        next(batches)
        assert setup.calls == ["first load"]

    def test_stages_do_not_load_if_no_image_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        setup = Setup(monkeypatch, first=("image", add(0)))
        list(setup.stages.loaded([Batch(toy_jobs(1), [False])]))
        assert setup.calls == []

    def test_no_memory_is_an_error_with_advice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        setup = Setup(monkeypatch, first=("image", add(0)))

        def load(_: FakeStage) -> None:
            raise MemoryError

        monkeypatch.setattr(FakeStage, "load", load)
        with pytest.raises(DeviceError, match="out of memory"):
            list(setup.stages.loaded([Batch(toy_jobs(1), [True])]))


def test_image_stages_work_on_generated_images_and_file_stages_on_what_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch, first=("image", add(0.5)), second=("file", add(1, {"found": True}, "was written")))
    (result,) = setup.stages.apply(images(1))
    assert value(result) == 0.5
    pixels, fields = setup.stages.finish(np.zeros((2, 2, 3), np.uint8), "the grid")
    assert pixels[0, 0, 0] == 1
    assert fields == {"second": {"found": True}}
    assert setup.notes == ["the grid was written"]
    assert setup.calls == ["first apply 1", "second apply 1"]


def test_the_outcome_is_recorded_under_the_name_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, first=("image", add(0, {"score": 1})), second=("image", add(0)))
    before = images(1)
    (result,) = setup.stages.apply(before)
    assert isinstance(result, GeneratedImage) and isinstance(before[0], GeneratedImage)
    assert (result.record.values()["first"], result.record.values()["second"]) == ({"score": 1}, None)
    assert (result.job, result.effort) == (before[0].job, before[0].effort)
    assert "first" not in before[0].record.values(), "results are not changed in place"


def test_an_outcome_without_pixels_withholds_the_image_from_later_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    def withhold(pixels: Pixels) -> Outcome:
        return Outcome(None, {"done": "skip"}, "looks unsafe") if pixels[0, 0, 0] else Outcome(pixels)

    setup = Setup(monkeypatch, first=("image", withhold), second=("image", add(1)))
    first, second = setup.stages.apply(images(2))
    assert value(first) == 1
    assert isinstance(second, WithheldImage)
    assert second.record.values()["first"] == {"done": "skip"}
    assert setup.notes == ["image 2 looks unsafe"]
    assert setup.calls == ["first apply 2", "second apply 1"]


def test_results_without_an_image_pass_through_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, first=("image", add(1)))
    before = images(3)
    failed, unneeded = FailedImage(before[0].job, ModelError("NaN")), UnneededImage(before[2].job)
    results = list(setup.stages.apply([failed, before[1], unneeded]))
    assert results[0] is failed and results[2] is unneeded
    assert value(results[1]) == pytest.approx(1.1)


def test_a_batch_without_images_calls_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, first=("image", add(1)))
    results: list[Result] = [UnneededImage(job) for job in toy_jobs(2)]
    assert list(setup.stages.apply(results)) == results
    assert setup.calls == []


class TestErrors:
    @staticmethod
    def fail_on_second(pixels: Pixels) -> Outcome:
        if pixels[0, 0, 0] == np.float32(0.1):
            raise ModelError("the stage failed")
        return Outcome(pixels)

    def test_by_default_an_error_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        setup = Setup(monkeypatch, first=("image", self.fail_on_second))
        with pytest.raises(ModelError):
            list(setup.stages.apply(images(3)))

    def test_with_skip_only_its_image_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        setup = Setup(monkeypatch, on_error="skip", first=("image", self.fail_on_second), second=("image", add(1)))
        first, second, third = setup.stages.apply(images(3))
        assert [value(first), value(third)] == pytest.approx([1.0, 1.2])
        assert isinstance(second, FailedImage) and isinstance(second.error, ModelError)
        assert second.job.index == 1
        assert setup.calls == ["first apply 3", *["first apply 1"] * 3, "second apply 2"]

    def test_no_memory_is_an_error_with_advice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(pixels: Pixels) -> Outcome:
            raise MemoryError

        with pytest.raises(DeviceError, match="out of memory") as caught:
            list(Setup(monkeypatch, first=("image", full)).stages.apply(images(1)))
        assert "--n_samples" in caught.value.fix
        (failed,) = Setup(monkeypatch, on_error="skip", first=("image", full)).stages.apply(images(1))
        assert isinstance(failed, FailedImage)

    def test_other_exceptions_pass_unchanged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(pixels: Pixels) -> Outcome:
            raise KeyError("a bug")

        with pytest.raises(KeyError):
            list(Setup(monkeypatch, on_error="skip", first=("image", broken)).stages.apply(images(2)))
