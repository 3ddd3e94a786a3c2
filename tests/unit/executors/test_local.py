"""The local executor: loading, lack of memory, NaN, failed images and events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdcli.devices import Compute
from sdcli.errors import DeviceError, ModelError
from sdcli.events import BatchDone, BatchStarted, Event, Note, Phase, StepDone
from sdcli.executors.local import LocalExecutor, _tile
from sdcli.images import Batch, FailedImage, GeneratedImage, Result, UnneededImage
from sdcli.jobs import Job
from sdcli.models.model import Model, PipelineModel
from sdcli.registry import EXECUTORS
from tests.unit.pipeline.test_of_diffusers import Toy
from tests.unit.pipeline.test_of_diffusers import jobs as pipeline_jobs
from tests.unit.pipeline.test_of_diffusers import model as pipeline_model
from tests.unit.pipeline.toy_model import ToySource, ToyUnet, toy_job, toy_jobs, toy_model


class Run:
    """An executor on the CPU, with the events that it sent."""

    def __init__(self, model: Model | PipelineModel | None = None, on_error: Any = "stop") -> None:
        self.events: list[Event] = []
        self.source: Any = ToySource(model)
        self.executor = LocalExecutor(
            self.source, device="cpu", precision="full", on_error=on_error, progress=self.events.append
        )

    def results(self, jobs: Sequence[Job], needed: Sequence[bool] | None = None) -> list[Result]:
        (results,) = self.executor.map([Batch(jobs, needed or [True] * len(jobs))])
        return results

    def images(self, jobs: Sequence[Job]) -> list[GeneratedImage]:
        results = self.results(jobs)
        assert all(isinstance(result, GeneratedImage) for result in results)
        return [result for result in results if isinstance(result, GeneratedImage)]

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


def prompts(*texts: str) -> list[Job]:
    return [toy_job(index, prompt=text) for index, text in enumerate(texts)]


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of each batch. A prompt "nan" spoils its batch, "big" does not fit in memory."""
    seen: list[list[str]] = []

    def generate(model: object, jobs: Sequence[Job], on_step: object) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [job.prompt for job in jobs]
        seen.append(texts)
        if "big" in texts:
            raise MemoryError
        images = torch.stack([torch.full((3, 16, 16), len(text) / 5 - 1) for text in texts])
        return images * (torch.nan if "nan" in texts else 1), images

    monkeypatch.setattr("sdcli.pipeline.generate", generate)
    return seen


def test_it_is_in_the_table_and_describes_its_device() -> None:
    run = Run()
    assert EXECUTORS["local"] is LocalExecutor
    assert (run.executor.device, run.executor.description) == ("cpu", "cpu, precision full")


class TestLoading:
    def test_the_model_loads_once_and_only_when_it_is_needed(self) -> None:
        run = Run()
        run.results(toy_jobs(2), [False, False])
        assert run.source.loads == 0
        list(run.executor.map([Batch(toy_jobs(1), [True])] * 2))
        assert run.source.loads == 1

    def test_a_model_that_cannot_be_loaded_ends_the_run_even_with_skip(self) -> None:
        run = Run(on_error="skip")

        def load(*_: object) -> None:
            raise ModelError("the file is damaged")

        run.source.load = load
        with pytest.raises(ModelError, match="damaged"):
            run.results(toy_jobs(1))

    def test_no_memory_for_the_model_is_an_error_with_advice(self) -> None:
        run = Run(on_error="skip")

        def load(*_: object) -> None:
            torch.empty(2**60, dtype=torch.uint8)

        run.source.load = load
        with pytest.raises(DeviceError, match="out of memory") as caught:
            run.results(toy_jobs(1))
        assert "--n_samples" in caught.value.fix
        assert caught.value.exit_code == 5


def test_events_come_in_order() -> None:
    run = Run()
    batches = [Batch(toy_jobs(2), [True, True]), Batch(toy_jobs(3), [False] * 3)]
    list(run.executor.map(batches))
    steps = [StepDone(0), StepDone(1), StepDone(2), StepDone(3)]
    phases = [Phase("importing libraries"), Phase("loading model")]
    assert run.events == [*phases, BatchStarted(2, 4), *steps, BatchDone(2), BatchDone(3)]


def test_plms_announces_its_additional_evaluation() -> None:
    run = Run()
    run.results(toy_jobs(1, sampler="plms"))
    why = "4 steps take 5 evaluations of the model: PLMS evaluates it twice in its first step"
    assert run.events[2] == BatchStarted(1, 5, 1, why)
    assert sum(isinstance(event, StepDone) for event in run.events) == 5


def test_images_are_float32_in_0_to_1_with_their_job_record_and_effort() -> None:
    jobs = toy_jobs(2)
    images = Run().images(jobs)
    for job, image in zip(jobs, images, strict=True):
        assert image.pixels.shape == (16, 16, 3) and image.pixels.dtype == np.float32
        assert image.pixels.min() >= 0 and image.pixels.max() <= 1
        assert image.job is job and image.record.job == job
        values = image.record.values()
        assert (values["device"], values["precision"], values["words_cut"]) == ("cpu", "full", None)
        assert (values["safety"], values["watermark"]) == (None, None)
        assert "vae" not in values
        assert image.effort["batch"] == 2 and image.effort["seconds"] >= 0
        assert image.path is None


def test_a_batch_is_generated_whole_if_some_of_it_is_needed() -> None:
    jobs = toy_jobs(3)
    first, second, third = Run().results(jobs, [False, True, False])
    assert first == UnneededImage(jobs[0]) and third == UnneededImage(jobs[2])
    assert isinstance(second, GeneratedImage)
    assert second.effort["batch"] == 3
    assert np.array_equal(second.pixels, Run().images(jobs)[1].pixels)


def test_unneeded_batches_pass_through(generated: list[list[str]]) -> None:
    run = Run()
    jobs = prompts("a", "b")
    assert run.results(jobs, [False, False]) == [UnneededImage(job) for job in jobs]
    assert generated == []
    assert run.events == [BatchDone(2)]


def test_the_unread_end_of_a_prompt_is_reported_once_and_recorded_for_each_image() -> None:
    run = Run()
    images = [*run.images(prompts("red apple", "cat")), *run.images(prompts("red apple"))]
    assert [image.record.words_cut for image in images] == ["apple", None, "apple"]
    assert run.notes == ["the prompt is longer than the model reads; ignored: apple"]


class TestFailedImages:
    def test_by_default_an_error_ends_the_run(self, generated: list[list[str]]) -> None:
        with pytest.raises(ModelError, match="NaN"):
            Run().results(prompts("a", "nan"))
        with pytest.raises(DeviceError, match="out of memory"):
            Run().results(prompts("big"))

    def test_with_skip_the_other_images_of_the_batch_are_generated_one_by_one(self, generated: list[list[str]]) -> None:
        jobs = prompts("a", "nan", "bb", "ccc")
        results = Run(on_error="skip").results(jobs)
        assert [type(result) for result in results] == [GeneratedImage, FailedImage, GeneratedImage, GeneratedImage]
        assert generated == [["a", "nan", "bb", "ccc"], ["a"], ["nan"], ["bb"], ["ccc"]]
        assert [result.job for result in results] == jobs
        values = [float(result.pixels[0, 0, 0]) for result in results if isinstance(result, GeneratedImage)]
        assert values == pytest.approx([0.1, 0.2, 0.3]), "each job has its own image"
        assert isinstance(results[1], FailedImage) and isinstance(results[1].error, ModelError)

    def test_an_image_without_room_in_memory_fails_alone(self, generated: list[list[str]]) -> None:
        results = Run(on_error="skip").results(prompts("a", "big"))
        assert [type(result) for result in results] == [GeneratedImage, FailedImage]
        assert isinstance(results[1], FailedImage) and isinstance(results[1].error, DeviceError)

    def test_other_exceptions_pass_unchanged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def generate(*_: object) -> None:
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr("sdcli.pipeline.generate", generate)
        with pytest.raises(RuntimeError, match="shapes"):
            Run(on_error="skip").results(toy_jobs(2))


class TestNaN:
    @pytest.fixture(autouse=True)
    def float16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Autocast to float16, which overflows at 65,504, on any CPU."""
        cpu = torch.device("cpu")
        monkeypatch.setattr(
            "sdcli.devices.choose",
            lambda _, precision, half=None: Compute(cpu, None if precision == "full" else half or torch.float16),
        )

    def test_a_batch_with_nan_in_autocast_is_generated_again_in_full_precision(self) -> None:
        run = Run(toy_model(ToyUnet(1e6)))
        again = run.images(toy_jobs(2, precision="autocast"))
        assert again[0].record.precision == "full, after not a number in autocast float16"
        assert run.notes == [
            "NaN in autocast float16: generating the batch again in full precision, with the same noise"
        ]
        expected = Run(toy_model(ToyUnet(1e6))).images(toy_jobs(2))
        for one, other in zip(again, expected, strict=True):
            assert np.array_equal(one.pixels, other.pixels), "from the same noise"

    def test_images_without_nan_stay_in_autocast(self) -> None:
        run = Run()
        images = run.images(toy_jobs(2, precision="autocast"))
        assert [image.record.precision for image in images] == ["autocast float16"] * 2
        assert run.notes == []

    def test_nan_in_full_precision_is_an_error(self) -> None:
        with pytest.raises(ModelError, match="the model m generates NaN") as caught:
            Run(toy_model(ToyUnet(float("nan")))).results(toy_jobs(2, precision="autocast"))
        assert "--scale" in caught.value.fix

    def test_infinite_latents_count_even_if_the_vae_hides_them(self) -> None:
        class HidingVae(nn.Module):
            class config:
                scaling_factor = 1.0

            def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
                return (torch.zeros(len(latents), 3, 16, 16),)

        with pytest.raises(ModelError, match="NaN"):
            Run(toy_model(ToyUnet(float("nan")), HidingVae())).results(toy_jobs(1))


class SmallMemory(ToyUnet):
    """Has room for `holds` images under guidance; lists the number of images of each evaluation."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.holds = holds
        self.evaluated: list[int] = []

    def forward(self, latents: torch.Tensor, *given: object, **named: object) -> tuple[torch.Tensor]:
        self.evaluated.append(len(latents) // 2)
        if len(latents) // 2 > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(latents, *given, **named)


class TilingVae(AutoencoderKL):
    """A real VAE with room for latents of `holds` pixels on each side."""

    def __init__(self, holds: int) -> None:
        super().__init__(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, sample_size=512,
        )  # fmt: skip
        self.holds = holds

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        if not self.use_tiling and z.shape[-1] > self.holds:
            raise MemoryError
        return super()._decode(z, return_dict)


class TestOutOfMemory:
    def test_the_batch_is_halved_for_the_rest_of_the_run(self) -> None:
        unet = SmallMemory(holds=2)
        run = Run(toy_model(unet))
        images = run.images(toy_jobs(7))
        assert [image.effort["batch"] for image in images] == [1] * 7
        assert [note.split(":")[0] for note in run.notes] == [
            "out of memory with batches of 7",
            "out of memory with batches of 3",
        ]
        for one, other in zip(images, Run().images(toy_jobs(7)), strict=True):
            np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-5)
        assert sum(event.images for event in run.events if isinstance(event, BatchDone)) == 7

        unet.evaluated.clear()
        run.images(toy_jobs(7))
        assert set(unet.evaluated) == {1}, "larger batches are not tried again"
        assert len(run.notes) == 2

    def test_a_pipeline_of_diffusers(self) -> None:
        """Halved with the same noise; a NaN is an error; each step is an event."""

        class Small(Toy):
            spoiled = 1.0

            def __call__(self, **arguments: Any) -> tuple[Any]:
                if len(arguments["prompt"]) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return (super().__call__(**arguments)[0] * self.spoiled,)

        small = Small()
        run = Run(pipeline_model(small))
        batch = pipeline_jobs(4, sampler="auto")
        images = run.images(batch)
        assert [image.effort["batch"] for image in images] == [2] * 4
        assert [note.split(":")[0] for note in run.notes] == ["out of memory with batches of 4"]
        for one, other in zip(images, Run(pipeline_model(Toy())).images(batch), strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
        steps = [event.index for event in run.events if isinstance(event, StepDone)]
        assert steps == [0, 1] * 2
        small.spoiled = math.nan
        with pytest.raises(ModelError, match="generates NaN"):
            run.images(batch)

    @given(holds=st.integers(1, 8), count=st.integers(1, 9))
    def test_halving_gives_every_image_in_order(self, holds: int, count: int) -> None:
        images = Run(toy_model(SmallMemory(holds))).images(toy_jobs(count))
        assert len(images) == count
        assert all(image.effort["batch"] <= holds for image in images)
        for one, other in zip(images, Run().images(toy_jobs(count)), strict=True):
            assert one.job == other.job
            np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-5)

    def test_a_single_image_is_decoded_in_tiles(self) -> None:
        torch.manual_seed(0)
        vae = TilingVae(holds=16).eval()
        job = toy_job(height=256, width=256)
        run = Run(toy_model(vae=vae))
        (tiled,) = run.images([job])
        assert tiled.record.vae == "tiled"
        assert vae.tile_latent_min_size == 16
        assert run.notes == ["out of memory with batches of 1: the VAE continues in tiles, with the same noise"]
        vae.disable_tiling()
        vae.holds = 32
        (whole,) = Run(toy_model(vae=vae)).images([job])
        assert whole.record.vae is None
        error = np.mean((tiled.pixels - whole.pixels) ** 2)
        assert 0 < error < 1e-2, "nearly the same image, with blended seams"

    def test_a_tiny_vae_decodes_in_tiles_at_any_scale(self) -> None:
        torch.manual_seed(0)
        wide = {"encoder_block_out_channels": (4,) * 5, "decoder_block_out_channels": (4,) * 5}
        vae = AutoencoderTiny(num_encoder_blocks=(0, 1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1, 0), **wide).eval()
        latents = torch.randn(1, 4, 32, 32)
        with torch.no_grad():
            whole = vae.decode(latents).sample
            assert _tile(vae, 32, 16)
            tiled = vae.decode(latents).sample
        assert tiled.shape == whole.shape == (1, 3, 512, 512)
        assert 0 < (tiled - whole).square().mean() < 0.1 * whole.var(), "nearly the same image, with blended seams"

    def test_a_single_image_without_room_is_an_error(self) -> None:
        with pytest.raises(DeviceError, match="out of memory") as caught:
            Run(toy_model(SmallMemory(holds=0))).results(toy_jobs(4))
        assert "--n_samples" in caught.value.fix


def test_the_second_batch_of_a_size_is_remembered_for_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: list[tuple[object, ...]] = []
    monkeypatch.setattr("sdcli.estimates.remember", lambda *values: remembered.append(values))
    run = Run()
    for count in (2, 2, 2, 1):
        run.images(toy_jobs(count))
    assert len(remembered) == 1, "the first batch warms up"
    assert remembered[0][1:3] == ("cpu", 2)
