"""Samplers with a model in closed form: each reaches the exact answer, at the order that it says.

The model and the measurement are those of `benchmarks/sampler_orders.py`.
"""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from benchmarks.sampler_orders import (
    SCHEDULE,
    SLOPE,
    Gaussian,
    errors,
    noise_schedule,
    of_many_shapes,
    run,
    slope,
    smoothest,
)
from sdcli.errors import UsageError
from sdcli.pipeline.samplers import Plan, Sampler, k_diffusion
from sdcli.pipeline.samplers.of_diffusers import Scheduler, sampler
from sdcli.registry import SAMPLERS

# diffusers integrates the coefficients of LMS numerically, in each step.
DETERMINISTIC = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "lms" else []) for name in SAMPLERS if SAMPLERS[name].order
]
DISTILLED = {"lcm", "tcd"}
NOISY = noise_schedule(400)
"""SA-Solver adds noise at timesteps from 200."""


def converges(sampler: Sampler) -> bool:
    return sampler.order - 0.25 < slope(errors(sampler, SCHEDULE, SLOPE)) < sampler.order + 0.5


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_sampler_converges_at_its_order(name: str) -> None:
    assert converges(SAMPLERS[name])


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_result_is_near_the_exact_answer(name: str, prediction_type: str) -> None:
    schedule = SCHEDULE.model_copy(update={"prediction_type": prediction_type})
    plan, model = Plan(50, smoothest(SAMPLERS[name])), of_many_shapes()
    try:
        SAMPLERS[name].check(plan, schedule)
    except UsageError:
        assert prediction_type == "sample"
        return
    found = run(SAMPLERS[name], plan, schedule, model)
    answer = model.end(found.inputs[0][1])
    assert answer.std() > 0.8
    # The last step, to no noise at all, is of first order.
    assert float((found.latents - answer).square().mean().sqrt()) < 0.04


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].order])
def test_a_sampler_that_says_no_order_adds_noise(name: str) -> None:
    found = run(SAMPLERS[name], Plan(20, smoothest(SAMPLERS[name])), NOISY, of_many_shapes())
    assert found.error > 0.5, f"{name} follows the exact answer: give its Sampler the order at which it converges"


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].order or SAMPLERS[name].takes_eta])
def test_noise_in_each_step_keeps_the_distribution(name: str) -> None:
    shape = (1, 64, 64)
    mean, std = 0.5, 0.7
    model = Gaussian(torch.full(shape, mean).double(), torch.full(shape, std).double(), consistent=name in DISTILLED)
    plan = Plan(50, smoothest(SAMPLERS[name]), eta=1.0 if SAMPLERS[name].takes_eta else 0.0)
    latents = run(SAMPLERS[name], plan, NOISY, model).latents
    assert float(latents.mean()) == pytest.approx(mean, abs=0.03)
    assert float(latents.std()) == pytest.approx(std, abs=0.06)


def test_a_lower_order_is_noticed() -> None:
    first_order = Scheduler("scheduling_dpmsolver_multistep:DPMSolverMultistepScheduler", options={"solver_order": 1})
    assert converges(sampler("Right", first_order, order=1))
    assert not converges(sampler("Wrong", first_order, order=2))


def test_a_wrong_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = EulerDiscreteScheduler.step

    def longer(self: Any, output: torch.Tensor, time: Any, latents: torch.Tensor, **options: Any) -> Any:
        (following,) = step(self, output, time, latents, **options)[:1]
        return (latents + 1.05 * (following - latents),)

    assert converges(k_diffusion.EULER)
    monkeypatch.setattr(EulerDiscreteScheduler, "step", longer)
    assert not converges(k_diffusion.EULER)
