"""Batches by a pipeline of diffusers: noise, arguments and errors, with pipelines of a few lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sdcli.errors import ModelError
from sdcli.jobs import Job, NoisePlace
from sdcli.model_spec import ModelSpec, NoiseSchedule, PipelineSpec
from sdcli.models.model import PipelineModel
from sdcli.pipeline import generate
from sdcli.pipeline.noise import BatchNoise, PipelineNoise
from tests.jobs import job as one_job

CPU = torch.device("cpu")


def jobs(count: int, **settings: Any) -> list[Job]:
    values = {"height": 8, "width": 16, "seed": 5, "rng": "cpu", "steps": 2} | settings
    return [one_job(**values, prompt=f"prompt {row}", noise=NoisePlace(rows=count, row=row)) for row in range(count)]


class Toy:
    """A pipeline whose images are its first noise."""

    def __init__(self, draw: Callable[..., torch.Tensor] = torch.randn) -> None:
        self.components: dict[str, Any] = {"scheduler": object(), "tokenizer": None}
        self.calls: list[dict[str, Any]] = []
        self.draw = draw

    def __call__(self, **arguments: Any) -> tuple[np.ndarray[Any, Any]]:
        self.calls.append(arguments)
        rows = len(arguments["prompt"])
        noise = self.draw((rows, 3, arguments["height"], arguments["width"]))
        for index in range(arguments["num_inference_steps"]):
            values = {"latents": noise + index}
            assert arguments["callback_on_step_end"](self, index, torch.tensor(7 - index), values) == values
        return (noise.permute(0, 2, 3, 1).numpy(),)


def model(pipeline: Any, **spec: Any) -> PipelineModel:
    taken = {"name": "StableDiffusion3Pipeline", "scale": "guidance_scale", "takes_negative_prompt": True} | spec
    return PipelineModel(
        ModelSpec(
            name="toy", family="diffusers", latent_channels=3, downscale=1, size_multiple=1, default_height=8,
            default_width=8, default_scale=7, default_steps=2, schedule=NoiseSchedule(), watermark_method="dwtDct",
            pipeline=PipelineSpec(**taken),
        ),
        tokenizer=None, pipeline=pipeline, device=CPU, half=torch.bfloat16,
    )  # fmt: skip


def test_the_noise_is_that_of_the_run() -> None:
    batch = jobs(3)
    steps: list[Any] = []
    images, latents = generate(model(Toy()), batch, steps.append)
    noise = BatchNoise(batch, (3, 8, 16), CPU).initial()
    torch.testing.assert_close(images, noise * 2 - 1)
    assert torch.equal(latents, noise + 1)
    assert [(step.index, step.timestep, step.denoised) for step in steps] == [(0, 7.0, None), (1, 6.0, None)]


def test_what_the_pipeline_is_called_with() -> None:
    toy = Toy()
    generate(model(toy, takes_rescale=True), jobs(2, scale=3.0, negative_prompt="blurry"), lambda step: None)
    (call,) = toy.calls
    assert callable(call.pop("callback_on_step_end"))
    assert call == {
        "prompt": ["prompt 0", "prompt 1"], "negative_prompt": ["blurry", "blurry"], "height": 8, "width": 16,
        "num_inference_steps": 2, "guidance_scale": 3.0, "guidance_rescale": 0.0, "output_type": "np",
    }  # fmt: skip


def test_no_scale_and_no_negative_prompt_if_it_takes_none() -> None:
    toy = Toy()
    generate(model(toy, scale="", takes_negative_prompt=False), jobs(1), lambda step: None)
    assert not {"guidance_scale", "true_cfg_scale", "negative_prompt"} & toy.calls[0].keys()


def test_no_negative_prompt_may_be_zeros() -> None:
    """Then it is left out, and a batch of both kinds is generated image by image."""
    toy = Toy()
    zeros = model(toy, no_text_is_zero=True)
    batch = jobs(2)
    batch[1] = batch[1].model_copy(update={"negative_prompt": "blurry"})
    images, latents = generate(zeros, batch, lambda step: None)
    assert [call.get("negative_prompt") for call in toy.calls] == [None, ["blurry"]]
    assert torch.equal(images, generate(model(Toy()), batch, lambda step: None)[0])
    assert len(latents) == 2


class TestNoise:
    def drawn(self, draw: Callable[[], torch.Tensor], count: int = 2) -> torch.Tensor:
        with PipelineNoise(jobs(count)):
            return draw()

    def test_the_first_draw_and_later_ones(self) -> None:
        batch = jobs(2)
        own = BatchNoise(batch, (4, 5), CPU)
        with PipelineNoise(batch):
            first, second, third = torch.randn(2, 4, 5), torch.randn((2, 4, 5)), torch.randn_like(torch.zeros(2, 4, 5))
        assert torch.equal(first, own.initial())
        assert torch.equal(second, own.draw(0)) and torch.equal(third, own.draw(1))

    def test_any_shape_and_data_type(self) -> None:
        found = self.drawn(lambda: torch.randn((2, 1, 4, 3, 3), dtype=torch.bfloat16, generator=torch.Generator()))
        assert found.dtype == torch.bfloat16 and found.shape == (2, 1, 4, 3, 3)
        assert self.drawn(lambda: torch.randn(size=(2, 3))).shape == (2, 3)
        assert self.drawn(lambda: torch.randn_like(torch.zeros(2, 3, dtype=torch.float64))).dtype == torch.float64

    def test_other_functions_are_as_ever(self) -> None:
        assert torch.equal(self.drawn(lambda: torch.zeros(7)), torch.zeros(7))

    def test_noise_of_another_number_of_images(self) -> None:
        with pytest.raises(ValueError, match=r"\(3, 4\) for 2 images"):
            self.drawn(lambda: torch.randn(3, 4))


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (torch.zeros, "It draws no noise"),
        (lambda shape: torch.randn((shape[0] + 1, *shape[1:])), r"noise of the shape \(2, 3, 8, 16\) for 1 images"),
        (lambda shape: torch.randn((shape[0], 3, 4, 4)), r"It returns \(1, 3, 4, 4\)"),
        (lambda shape: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_a_pipeline_that_fails_is_a_model_error(draw: Any, why: str) -> None:
    with pytest.raises(ModelError, match="StableDiffusion3Pipeline of diffusers cannot") as error:
        generate(model(Toy(draw)), jobs(1), lambda step: None)
    assert re.search(why, error.value.why)


def test_lack_of_memory_is_left_to_the_executor() -> None:
    def draw(shape: Any) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        generate(model(Toy(draw)), jobs(1), lambda step: None)


class Part(torch.nn.Linear):
    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype


def test_the_data_type_is_that_of_autocast() -> None:
    part = Part(2, 2)
    seen = []

    def draw(shape: Any) -> torch.Tensor:
        seen.append((part.dtype, torch.is_autocast_enabled("cpu")))
        return torch.randn(shape)

    toy = Toy(draw)
    toy.components["transformer"] = part
    for half in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            generate(model(toy), jobs(1), lambda step: None)
    assert seen == [(torch.bfloat16, False), (torch.float32, False)]
