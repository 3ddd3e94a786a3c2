"""Samplers: timesteps as the original's, and each scheduler's arithmetic against the formulas it stands for."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import SAMPLERS, timesteps
from sdcli.settings import SamplerName

V1 = NoiseSchedule()
FAILS = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
"""Steps at which the original ends in an IndexError, with DDIM and PLMS."""


@pytest.mark.parametrize(("steps", "count"), [(50, 50), (6, 7), (15, 16), (30, 31), (60, 63), (1, 1), (20, 20)])
def test_as_many_timesteps_as_the_original(steps: int, count: int) -> None:
    times = timesteps(steps, V1)
    assert len(times) == count
    assert times[-1] == 1
    assert list(times) == sorted(times, reverse=True)


def test_steps_that_reach_past_the_end_are_those_of_the_original() -> None:
    def fails(steps: int) -> bool:
        try:
            SAMPLERS["ddim"].check(steps, V1)
        except UsageError:
            return True
        return False

    assert {steps for steps in range(1, 1001) if fails(steps)} == FAILS


def test_the_nearest_steps_that_work_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        SAMPLERS["plms"].check(105, V1)
    assert "100 and 112" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        SAMPLERS["ddim"].check(700, V1)
    assert "500" in caught.value.fix


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_trained_are_refused(name: SamplerName) -> None:
    with pytest.raises(UsageError):
        SAMPLERS[name].check(1001, V1)


def test_dpm_solver_needs_two_steps() -> None:
    with pytest.raises(UsageError):
        SAMPLERS["dpm_solver"].check(1, V1)
    SAMPLERS["dpm_solver"].check(2, V1)
    SAMPLERS["dpm_solver"].check(333, V1)


def test_draws_of_noise() -> None:
    assert [SAMPLERS[name].draws(30, V1) for name in ("ddim", "plms", "dpm_solver")] == [31, 32, 0]


def exact_path(name: SamplerName, steps: int, noise: NoiseSchedule) -> float:
    """How far a sampler ends from the image when the model knows the answer; max |error|.

    A model that knows the image x0 predicts (x - alpha x0) / sigma. Every sampler must then end on
    alpha_end x0 + sigma_end epsilon for the epsilon it began with.
    """
    plan = SAMPLERS[name].plan(steps, noise)
    alphas = plan.scheduler.alphas_cumprod.double()
    image = torch.tensor([[[[0.8, -0.3], [0.1, -0.9]]]]).double()
    epsilon = torch.tensor([[[[0.5, -1.3], [2.1, 0.2]]]]).double()
    start = alphas[int(plan.evaluations[0].model_time)]
    latents = (start.sqrt() * image + (1 - start).sqrt() * epsilon).float()
    for evaluation in plan.evaluations:
        latents = plan.step(epsilon.float(), evaluation, latents, 0.0, None)
    end = (
        alphas[0] if noise.timestep_spacing == "leading" or name == "dpm_solver" else plan.scheduler.final_alpha_cumprod
    )
    return float((latents.double() - end.sqrt() * image - (1 - end).sqrt() * epsilon).abs().max())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 6, 10, 20, 50])
def test_a_model_that_knows_the_answer_gives_it(name: SamplerName, steps: int) -> None:
    if name == "dpm_solver" and steps == 1:
        pytest.skip("DPM-Solver has no single step")
    assert exact_path(name, steps, V1) < 2e-4


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [2, 15, 20, 60, 150, 501])
def test_the_builtin_model_s_schedule_leaves_no_noise(name: SamplerName, steps: int) -> None:
    trailing = V1.model_copy(update={"timestep_spacing": "trailing", "set_alpha_to_one": True})
    assert exact_path(name, steps, trailing) < 5e-4


def test_plms_is_refused_where_it_would_divide_by_zero() -> None:
    with pytest.raises(UsageError, match="plms"):
        SAMPLERS["plms"].check(20, V1.model_copy(update={"rescale_betas_zero_snr": True}))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@given(steps=st.integers(1, 1000))
def test_other_spacings_stay_in_range_for_any_steps(spacing: str, steps: int) -> None:
    noise = V1.model_copy(update={"timestep_spacing": spacing})
    times = timesteps(steps, noise)
    assert len(times) >= steps
    assert times[0] == 999, "it begins at the last time there is"
    assert all(0 <= t < 1000 for t in times)
    assert {a - b for a, b in pairwise(times)} <= {1000 // steps}, "the step that the schedulers take"
    SAMPLERS["ddim"].check(steps, noise)


def test_trailing_is_diffusers_own() -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing="trailing")
    for steps in (1, 4, 20, 50):
        scheduler.set_timesteps(steps)
        ours = timesteps(steps, V1.model_copy(update={"timestep_spacing": "trailing"}))
        assert list(ours) == scheduler.timesteps.tolist()


def test_eta_adds_the_noise_it_is_given() -> None:
    plan = SAMPLERS["ddim"].plan(10, V1)
    latents, output, noise = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    evaluation = plan.evaluations[0]
    still = plan.step(output, evaluation, latents, 0.0, None)
    moved = plan.step(output, evaluation, latents, 1.0, noise)
    alphas = plan.scheduler.alphas_cumprod
    now, before = alphas[901], alphas[801]
    sigma = ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
    torch.testing.assert_close(moved - still, torch.full_like(noise, float(sigma)))
