"""Each sampler against the original's arithmetic as `tests/golden/reference.py` states it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from reference import Latents, ddim, dpm_solver, model, plms

from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan
from sdcli.registry import SAMPLERS

V1 = NoiseSchedule()
SHAPE = (1, 4, 3, 5)


class GivenNoise:
    """The noise of the reference: the initial latents, and the draws of an iterator in order."""

    def __init__(self, initial: Latents, draws: Iterator[Latents]) -> None:
        self._initial, self._draws = initial, draws
        self._next = 0

    def initial(self) -> torch.Tensor:
        return torch.from_numpy(self._initial).float()

    def draw(self, number: int) -> torch.Tensor:
        assert number == self._next
        self._next += 1
        return torch.from_numpy(next(self._draws)).float()


def sampled(name: str, latents: Latents, steps: int, eta: float, draws: Iterator[Latents]) -> Latents:
    def denoiser(state: torch.Tensor, time: float) -> torch.Tensor:
        return torch.from_numpy(model(state.double().numpy(), time)).float()

    noise: Any = GivenNoise(latents, draws)
    *_, last = SAMPLERS[name].sample(denoiser, noise, Plan(steps, eta=eta), V1)
    result: Latents = last.latents.double().numpy()
    return result


def draws(seed: int) -> Iterator[Latents]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.standard_normal(SHAPE)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 15, 20, 30, 50, 60, 250])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim(steps: int, eta: float) -> None:
    start = next(draws(0))
    expected = ddim(start, steps, eta, draws(1))
    np.testing.assert_allclose(sampled("ddim", start, steps, eta, draws(1)), expected, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 10, 30, 50, 60])
def test_plms(steps: int) -> None:
    start = next(draws(0))
    np.testing.assert_allclose(sampled("plms", start, steps, 0.0, draws(1)), plms(start, steps), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 14, 15, 20, 27, 50, 101])
def test_dpm_solver(steps: int) -> None:
    start = next(draws(0))
    expected = dpm_solver(start, steps)
    np.testing.assert_allclose(sampled("dpm_solver", start, steps, 0.0, draws(1)), expected, atol=1e-3, rtol=1e-3)
