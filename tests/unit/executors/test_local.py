"""A batch, from jobs to checked images: what happens to those that cannot be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sdcli.devices import Compute
from sdcli.errors import DeviceError, ModelError, SdcliError
from sdcli.events import Watch
from sdcli.executors.local import Canvas, Easel
from sdcli.jobs import Job
from sdcli.pipeline import Drawn, Limits
from sdcli.settings import Settings
from sdcli.stages.safety import SafetyVerdict


class Tokenizer:
    """A token a word, three at most with those for beginning and end."""

    model_max_length = 3

    def __call__(self, prompts: list[str], **_: object) -> dict[str, Any]:
        spans = [[(0, 0), *self.words(prompt), (0, 0)] for prompt in prompts]
        return {"input_ids": [[0] * len(row) for row in spans], "offset_mapping": spans}

    def words(self, prompt: str) -> list[tuple[int, int]]:
        ends = np.cumsum([len(word) + 1 for word in prompt.split()])
        return [(int(end) - len(word) - 1, int(end) - 1) for word, end in zip(prompt.split(), ends, strict=True)]


class Source:
    loads = 0

    def load(self, device: object, progress: object) -> Any:
        self.loads += 1
        return SimpleNamespace(tokenizer=Tokenizer())


class Unsafe:
    """Flags what is brighter than half."""

    def load(self) -> None: ...

    def check(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        return [SafetyVerdict("toy", bool(image.mean() > 0.5), {}) for image in images]


class Notes(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def jobs(*prompts: str) -> list[Job]:
    return [
        Job.model_validate(
            {
                "prompt": prompt, "negative_prompt": "", "seed": 1, "rng": "cpu", "noise": {}, "height": 16,
                "width": 16, "steps": 4, "sampler": "ddim", "scale": 2.0, "eta": 0.0, "precision": "full",
                "model": "m", "model_hash": "0", "index": index,
            }
        )
        for index, prompt in enumerate(prompts)
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The batches that were drawn; a prompt "nan" is no number, "big" has no room."""
    batches: list[list[str]] = []

    def generate(model: object, jobs: Sequence[Job], compute: Compute, watch: Watch, limits: Limits) -> Drawn:
        prompts = [job.prompt for job in jobs]
        batches.append(prompts)
        if "nan" in prompts:
            raise ModelError("not numbers")
        if "big" in prompts:
            raise MemoryError
        return Drawn([np.full((16, 16, 3), len(p) / 10, np.float32) for p in prompts], "full", len(jobs), tiled=False)

    monkeypatch.setattr("sdcli.pipeline.generate", generate)
    return batches


def easel(watch: Watch | None = None, checker: Any = None, **settings: object) -> Easel:
    run: Any = SimpleNamespace(settings=Settings.of(device="cpu", **settings), source=Source())
    return Easel(run, Compute(torch.device("cpu"), None), checker, watch or Watch())


def kinds(found: list[Canvas | SdcliError]) -> list[type]:
    return [type(one) for one in found]


def test_the_model_loads_once_and_not_before_it_is_needed(drawn: list[list[str]]) -> None:
    one = easel()
    assert one.source.loads == 0
    one.draw(jobs("a"))
    one.draw(jobs("b"))
    assert one.source.loads == 1
    assert drawn == [["a"], ["b"]]


def test_by_default_what_fails_ends_the_run(drawn: list[list[str]]) -> None:
    with pytest.raises(ModelError):
        easel().draw(jobs("a", "nan"))
    with pytest.raises(DeviceError, match="out of memory"):
        easel().draw(jobs("big"))


def test_with_skip_the_others_of_the_batch_are_drawn(drawn: list[list[str]]) -> None:
    found = easel(on_error="skip").draw(jobs("a", "nan", "bb", "big"))
    assert kinds(found) == [Canvas, ModelError, Canvas, DeviceError]
    assert drawn == [["a", "nan", "bb", "big"], ["a"], ["nan"], ["bb"], ["big"]]
    assert found[2].pixels[0, 0, 0] == pytest.approx(0.2), "each with its own image"


def test_a_model_that_cannot_be_loaded_ends_the_run_even_with_skip(drawn: list[list[str]]) -> None:
    one = easel(on_error="skip")

    def load(*_: object) -> None:
        raise ModelError("damaged")

    one.source.load = load
    with pytest.raises(ModelError, match="damaged"):
        one.draw(jobs("a"))


def test_what_the_checker_says_goes_with_its_image(drawn: list[list[str]]) -> None:
    found = easel(checker=Unsafe()).draw(jobs("a", "a bright"))
    assert [canvas.verdict.flagged for canvas in found] == [False, True]
    assert found[0].effort["batch"] == 2
    assert found[0].how == {"device": "cpu", "precision": "full"}


def test_words_that_are_not_read_are_told_once_and_kept_with_each_image(drawn: list[list[str]]) -> None:
    watch = Notes()
    one = easel(watch)
    first, second = one.draw(jobs("red apple", "cat"))
    again = one.draw(jobs("red apple"))[0]
    assert [canvas.words_cut for canvas in (first, second, again)] == ["apple", "", "apple"]
    assert watch.notes == ["the prompt is longer than the model reads; not drawn: apple"]
