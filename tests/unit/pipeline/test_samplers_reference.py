"""Each sampler against the plain account of the original's arithmetic in `tests/golden/reference.py`."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference import Latents, ddim, dpm_solver, model, plms

from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.settings import SamplerName

V1 = NoiseSchedule()
SHAPE = (1, 4, 3, 5)


def ours(name: SamplerName, latents: Latents, steps: int, eta: float, fresh: Iterator[Latents]) -> Latents:
    plan = SAMPLERS[name].plan(steps, V1)
    state = torch.from_numpy(latents).float()
    for evaluation in plan.evaluations:
        output = torch.from_numpy(model(state.double().numpy(), evaluation.model_time)).float()
        noise = torch.from_numpy(next(fresh)).float() if plan.takes_noise else None
        state = plan.step(output, evaluation, state, eta, noise if eta else None)
    return state.double().numpy()


def draws(seed: int) -> Iterator[Latents]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.standard_normal(SHAPE)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 15, 20, 30, 50, 60, 250])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim(steps: int, eta: float) -> None:
    start = next(draws(0))
    expected = ddim(start, steps, eta, draws(1))
    np.testing.assert_allclose(ours("ddim", start, steps, eta, draws(1)), expected, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 10, 30, 50, 60])
def test_plms(steps: int) -> None:
    start = next(draws(0))
    np.testing.assert_allclose(ours("plms", start, steps, 0.0, draws(1)), plms(start, steps), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 14, 15, 20, 27, 50, 101])
def test_dpm_solver(steps: int) -> None:
    start = next(draws(0))
    expected = dpm_solver(start, steps)
    np.testing.assert_allclose(ours("dpm_solver", start, steps, 0.0, draws(1)), expected, atol=1e-3, rtol=1e-3)
