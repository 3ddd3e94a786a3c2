"""Guidance with several parts, and conditioning that changes with the steps."""

from __future__ import annotations

import pytest
import torch

from sdcli.model_spec import NoiseSchedule
from sdcli.models.conditioning import Composition, Encoding, Stages
from sdcli.pipeline.guidance import ComposedDenoiser
from sdcli.pipeline.samplers import Plan
from sdcli.registry import SAMPLERS


class Unet:
    """Its prediction is the first number of the embeddings everywhere; it keeps the size of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(
        self, latents: torch.Tensor, times: torch.Tensor, *, encoder_hidden_states: torch.Tensor, return_dict: bool
    ) -> tuple[torch.Tensor]:
        assert len(latents) == len(times) == len(encoder_hidden_states) and not return_dict
        self.calls.append((len(latents), encoder_hidden_states.shape[1]))
        return (encoder_hidden_states[:, :1, :1, None].expand(-1, 4, 2, 2) + 0 * latents,)


def stages(*each: tuple[int, float], tokens: int = 77) -> Stages:
    return tuple((until, Encoding(torch.full((tokens, 3), value))) for until, value in each)


def predictions(rows: list[Composition], scale: float, calls: int = 1, **arguments: int) -> list[list[float]]:
    """The prediction of each row in each call."""
    denoiser = ComposedDenoiser(Unet(), rows, scale, **{"steps": 10, "evaluations": 10, **arguments})
    latents = torch.zeros(len(rows), 4, 2, 2)
    return [denoiser(latents, 500)[:, 0, 0, 0].tolist() for _ in range(calls)]


def test_each_part_is_a_weighted_direction_from_the_negative_prompt() -> None:
    row = Composition(((1.0, stages((10, 3))), (-0.5, stages((10, 5)))), stages((10, 1)))
    # 1 + 4 x (1 x (3 - 1) - 0.5 x (5 - 1))
    assert predictions([row], 4) == [[1.0]]
    row = Composition(((1.0, stages((10, 3))), (0.5, stages((10, 5)))), stages((10, 1)))
    assert predictions([row], 4) == [[17.0]]
    assert predictions([row], 1) == [[5.0]], "parts need the negative prompt without guidance, too"


def test_one_part_without_guidance_needs_no_negative_prompt() -> None:
    unet = Unet()
    row = Composition(((1.0, stages((4, 3), (10, 7))),), stages((10, 1)))
    denoiser = ComposedDenoiser(unet, [row], 1.0, steps=10, evaluations=10)
    assert denoiser(torch.zeros(1, 4, 2, 2), 0.5).unique().tolist() == [3]
    assert unet.calls == [(1, 77)]


def test_rows_of_different_lengths_are_evaluated_apart_and_keep_their_order() -> None:
    unet = Unet()
    rows = [
        Composition(((1.0, stages((10, number), tokens=length)),), stages((10, 0), tokens=length))
        for number, length in ((1, 77), (2, 154), (3, 77))
    ]
    denoiser = ComposedDenoiser(unet, rows, 2.0, steps=10, evaluations=10)
    assert denoiser(torch.zeros(3, 4, 2, 2), 500)[:, 0, 0, 0].tolist() == [2, 4, 6]
    assert unet.calls == [(4, 77), (2, 154)]


def test_a_part_of_many_is_not_evaluated_with_more_images_than_one_prompt_would_be() -> None:
    unet = Unet()
    row = Composition(tuple((0.25, stages((10, 1))) for _ in range(4)), stages((10, 0)))
    ComposedDenoiser(unet, [row], 2.0, steps=10, evaluations=10)(torch.zeros(1, 4, 2, 2), 500)
    assert unet.calls == [(2, 77), (2, 77), (1, 77)]


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpm_solver", "heun", "dpm2", "dpmpp_2m", "dpmpp_sde", "lms"])
def test_the_prompt_changes_in_the_same_step_with_every_sampler(sampler: str) -> None:
    """The last step that is asked for is the last one, and a step has one or two evaluations, never more."""
    plan = Plan(5)
    evaluations = SAMPLERS[sampler].evaluations(plan, NoiseSchedule())
    row = Composition(((1.0, stages(*((step, step) for step in range(5)))),), stages((5, 0)))
    found = [each[0] for each in predictions([row], 1.0, evaluations, steps=plan.steps, evaluations=evaluations)]
    assert sorted(found) == found and set(found) == set(range(5))
    assert all(found.count(step) <= 2 for step in range(5))
    if sampler in ("heun", "dpm2"):
        assert found == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    if sampler == "plms":
        assert found == [0, 0, 1, 2, 3, 4]
