"""Samplers: the original's timesteps, the loop around a scheduler, and results for a model that makes no error."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import Job
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.noise import BatchNoise, SchedulerNoise
from sdcli.pipeline.samplers import Step, scheduler_steps
from sdcli.pipeline.samplers.scheduler_steps import Evaluation
from sdcli.pipeline.schedules import scheduler_arguments, timesteps
from sdcli.registry import SAMPLERS
from tests.unit.pipeline.toy_model import toy_jobs

V1 = NoiseSchedule()
TRAILING = V1.model_copy(update={"timestep_spacing": "trailing", "set_alpha_to_one": True})
FAILS = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
"""Steps with which the original ends in an IndexError, with DDIM and PLMS."""


@pytest.mark.parametrize(("steps", "count"), [(50, 50), (6, 7), (15, 16), (30, 31), (60, 63), (1, 1), (20, 20)])
def test_the_timesteps_are_as_many_as_the_original_s(steps: int, count: int) -> None:
    times = timesteps(steps, V1)
    assert len(times) == count
    assert times[-1] == 1
    assert list(times) == sorted(times, reverse=True)


def test_steps_that_exceed_the_training_are_those_that_fail_in_the_original() -> None:
    def fails(steps: int) -> bool:
        try:
            SAMPLERS["ddim"].check(steps, V1)
        except UsageError:
            return True
        return False

    assert {steps for steps in range(1, 1001) if fails(steps)} == FAILS


def test_the_error_names_the_nearest_steps_that_work() -> None:
    with pytest.raises(UsageError) as caught:
        SAMPLERS["plms"].check(105, V1)
    assert "100 and 112" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        SAMPLERS["ddim"].check(700, V1)
    assert "500" in caught.value.fix


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_training_timesteps_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        SAMPLERS[name].check(1001, V1)


def test_dpm_solver_needs_two_steps() -> None:
    with pytest.raises(UsageError):
        SAMPLERS["dpm_solver"].check(1, V1)
    SAMPLERS["dpm_solver"].check(2, V1)
    SAMPLERS["dpm_solver"].check(333, V1)


def test_the_original_s_number_of_draws() -> None:
    assert [SAMPLERS[name].draws(30, V1) for name in ("ddim", "plms", "dpm_solver")] == [31, 32, 0]


class GivenNoise:
    """A fixed initial noise; the sampler's n-th draw is filled with n + 1. `drawn` lists the draws."""

    def __init__(self, initial: torch.Tensor) -> None:
        self._initial = initial
        self.drawn: list[int] = []

    def initial(self) -> torch.Tensor:
        return self._initial

    def draw(self, number: int) -> torch.Tensor:
        self.drawn.append(number)
        return torch.full_like(self._initial, number + 1.0)


IMAGE = torch.tensor([[[[0.8, -0.3], [0.1, -0.9]]]]).double()
EPSILON = torch.tensor([[[[0.5, -1.3], [2.1, 0.2]]]]).double()


def perfect(name: str, steps: int, schedule: NoiseSchedule) -> tuple[list[Step], torch.Tensor]:
    """The steps for a model that knows the noise-free latents, and the result that they must reach.

    Such a model predicts (x - alpha x0) / sigma. Every sampler must then end at alpha_end x0 + sigma_end epsilon, with
    the epsilon that it began with.
    """
    alphas = DDIMScheduler(**scheduler_arguments(schedule)).alphas_cumprod.double()
    start = alphas[-1 if name == "dpm_solver" else timesteps(steps, schedule)[0]]
    noise: Any = GivenNoise((start.sqrt() * IMAGE + (1 - start).sqrt() * EPSILON).float())
    found = list(SAMPLERS[name].sample(lambda latents, time: EPSILON.float(), noise, steps, schedule, 0.0))
    end = torch.ones(()) if schedule.set_alpha_to_one and name != "dpm_solver" else alphas[0]
    return found, end.sqrt() * IMAGE + (1 - end).sqrt() * EPSILON


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 6, 10, 20, 50])
def test_a_perfect_model_gives_the_exact_result(name: str, steps: int) -> None:
    if name == "dpm_solver" and steps == 1:
        pytest.skip("DPM-Solver needs two steps")
    found, expected = perfect(name, steps, V1)
    torch.testing.assert_close(found[-1].latents.double(), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [2, 15, 20, 60, 150, 501])
def test_no_noise_is_left_with_the_builtin_model_s_schedule(name: str, steps: int) -> None:
    found, expected = perfect(name, steps, TRAILING)
    torch.testing.assert_close(found[-1].latents.double(), expected, atol=5e-4, rtol=0)
    if name != "dpm_solver":
        assert torch.equal(expected, IMAGE)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [V1, TRAILING], ids=["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 6, 20])
def test_every_step_of_a_perfect_model_estimates_the_noise_free_latents(
    name: str, schedule: NoiseSchedule, steps: int
) -> None:
    if name == "dpm_solver" and steps == 1:
        pytest.skip("DPM-Solver needs two steps")
    found, _ = perfect(name, steps, schedule)
    assert len(found) == SAMPLERS[name].evaluations(steps, schedule)
    assert [step.index for step in found] == list(range(len(found)))
    for step in found:
        torch.testing.assert_close(step.denoised.double(), IMAGE, atol=1e-4, rtol=0)
        assert step.latents.dtype == torch.float32


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [V1, TRAILING], ids=["leading", "trailing"])
def test_times_and_sigmas_fall(name: str, schedule: NoiseSchedule) -> None:
    found, _ = perfect(name, 10, schedule)
    # PLMS evaluates the model in its first step also at the time of the second.
    if name == "plms":
        assert found[1].sigma == found[2].sigma and found[1].timestep == found[2].timestep
        del found[1]
    assert all(before.sigma > after.sigma for before, after in pairwise(found))
    assert all(before.timestep > after.timestep for before, after in pairwise(found))
    assert 8 < found[0].sigma < 15, "14.6 at the last timestep of the training"
    assert found[-1].sigma > 0


def test_sigma_is_infinite_at_a_zero_terminal_snr() -> None:
    schedule = TRAILING.model_copy(update={"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    noise: Any = GivenNoise(torch.ones(1, 1, 2, 2))
    first, *rest = SAMPLERS["ddim"].sample(lambda latents, time: -IMAGE.float(), noise, 4, schedule, 0.0)
    assert first.sigma == math.inf
    torch.testing.assert_close(first.denoised.double(), IMAGE, atol=1e-3, rtol=0)
    assert all(torch.isfinite(step.latents).all() for step in [first, *rest])


def test_plms_refuses_a_zero_terminal_snr() -> None:
    with pytest.raises(UsageError, match="plms"):
        SAMPLERS["plms"].check(20, V1.model_copy(update={"rescale_betas_zero_snr": True}))


def test_few_steps_of_plms_are_those_of_ddim_for_a_model_that_ends_without_noise() -> None:
    noise: Any = GivenNoise(torch.full((1, 1, 2, 2), 2.0))

    def result(name: str, steps: int, schedule: NoiseSchedule) -> torch.Tensor:
        *_, last = SAMPLERS[name].sample(lambda latents, time: latents * time / 1000, noise, steps, schedule, 0.0)
        return last.latents

    assert torch.equal(result("plms", 9, TRAILING), result("ddim", 9, TRAILING))
    assert not torch.equal(result("plms", 10, TRAILING), result("ddim", 10, TRAILING))
    assert not torch.equal(result("plms", 8, V1), result("ddim", 8, V1))
    assert "those of DDIM" in SAMPLERS["plms"].why(9, TRAILING)
    # The stream of random numbers of old runs stays as it was.
    assert SAMPLERS["plms"].draws(8, TRAILING) == 9


def test_plms_ends_with_the_estimate_of_the_noise_free_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    noise: Any = GivenNoise(torch.randn(1, 1, 2, 2, generator=generator))

    def imperfect(latents: torch.Tensor, _: float) -> torch.Tensor:
        return latents + torch.randn(latents.shape, generator=generator)

    *_, last = SAMPLERS["plms"].sample(imperfect, noise, 20, TRAILING, 0.0)
    assert torch.equal(last.latents, last.denoised)
    # The original's schedule ends next to zero, and its last step is as the others.
    *_, last = SAMPLERS["plms"].sample(imperfect, noise, 20, V1, 0.0)
    assert not torch.equal(last.latents, last.denoised)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@given(steps=st.integers(1, 1000))
def test_other_spacings_stay_in_range_for_any_number_of_steps(spacing: str, steps: int) -> None:
    noise = V1.model_copy(update={"timestep_spacing": spacing})
    times = timesteps(steps, noise)
    assert len(times) >= steps
    assert times[0] == 999, "the first one is the last of the training"
    assert all(0 <= t < 1000 for t in times)
    assert {a - b for a, b in pairwise(times)} <= {1000 // steps}, "the stride of the schedulers"
    SAMPLERS["ddim"].check(steps, noise)


def test_trailing_equals_diffusers() -> None:
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    for steps in (1, 4, 20, 50):
        scheduler.set_timesteps(steps)
        assert list(timesteps(steps, TRAILING)) == scheduler.timesteps.tolist()


def test_eta_adds_the_noise_of_the_draw() -> None:
    def first(eta: float) -> torch.Tensor:
        noise: Any = GivenNoise(torch.zeros(1, 4, 2, 2))
        step: Step = next(SAMPLERS["ddim"].sample(lambda latents, time: torch.zeros_like(latents), noise, 10, V1, eta))
        return step.latents

    scheduler = DDIMScheduler(**scheduler_arguments(V1))
    now, before = scheduler.alphas_cumprod[901], scheduler.alphas_cumprod[801]
    sigma = ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
    torch.testing.assert_close(first(1.0) - first(0.0), torch.full((1, 4, 2, 2), float(sigma)))


@pytest.mark.parametrize("rng", ["cpu", "cuda"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_eta_gives_the_same_latents_alone_and_in_a_batch(rng: str, eta: float) -> None:
    jobs = toy_jobs(3, rng=rng)

    def sampled(batch: list[Job]) -> torch.Tensor:
        noise = BatchNoise(batch, (4, 2, 2), torch.device("cpu"))
        *_, last = SAMPLERS["ddim"].sample(lambda latents, time: latents * 0.3 + 0.1, noise, 5, V1, eta)
        return last.latents

    together = sampled(jobs)
    assert not torch.equal(together[0], together[1])
    for row, job in enumerate(jobs):
        assert torch.equal(sampled([job])[0], together[row])


class FakeScheduler:
    """Halves what it is given, and draws as many times in each step as `draws` says."""

    init_noise_sigma = 3.0
    config = SimpleNamespace(prediction_type="sample")

    def __init__(self, draws: list[int]) -> None:
        self._draws = iter(draws)
        self.scaled: list[float] = []
        self.stepped: list[tuple[float, dict[str, Any]]] = []

    def scale_model_input(self, latents: torch.Tensor, time: float) -> torch.Tensor:
        self.scaled.append(time)
        return latents * 10

    def step(self, output: torch.Tensor, time: float, latents: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        self.stepped.append((time, options))
        for _ in range(next(self._draws)):
            latents = latents + torch.randn(latents.shape)
        return (latents,)


class TestSchedulerSteps:
    EVALUATIONS: ClassVar = [Evaluation(9.0, 90.0, 0.5), Evaluation(8.0, 80.0, 0.8), Evaluation(7.0, 70.0, 1.0)]

    def test_the_scheduler_scales_the_input_at_each_time(self) -> None:
        scheduler, received = FakeScheduler([0, 0, 0]), []

        def denoiser(latents: torch.Tensor, time: float) -> torch.Tensor:
            received.append((float(latents[0]), time))
            return latents

        noise: Any = GivenNoise(torch.ones(1))
        steps = list(scheduler_steps.sample(scheduler, self.EVALUATIONS, denoiser, noise, eta=0.5))
        assert scheduler.scaled == [90.0, 80.0, 70.0]
        assert received == [(30.0, 9.0), (30.0, 8.0), (30.0, 7.0)], "initial noise times 3, scaled by 10"
        assert scheduler.stepped[0] == (90.0, {"return_dict": False, "eta": 0.5})
        assert [step.timestep for step in steps] == [9.0, 8.0, 7.0]
        assert [step.sigma for step in steps] == pytest.approx([1.0, 0.5, 0.0])

    def test_noise_is_counted_by_draw_not_by_evaluation(self) -> None:
        noise: Any = GivenNoise(torch.zeros(2))
        scheduler = FakeScheduler([2, 0, 1])
        steps = list(scheduler_steps.sample(scheduler, self.EVALUATIONS, lambda latents, time: latents, noise))
        assert noise.drawn == [0, 1, 2]
        assert [float(step.latents[0]) for step in steps] == [1 + 2, 1 + 2, 1 + 2 + 3]

    @pytest.mark.parametrize(
        ("prediction_type", "expected"),
        [("sample", 2.0), ("epsilon", (1 - 0.6 * 2) / 0.8), ("v_prediction", 0.8 - 1.2)],
    )
    def test_the_estimate_follows_the_prediction_type(
        self, prediction_type: str, expected: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = FakeScheduler([0])
        scheduler.init_noise_sigma = 0.1
        monkeypatch.setattr(scheduler.config, "prediction_type", prediction_type)
        noise: Any = GivenNoise(torch.ones(1))
        evaluation = Evaluation(9.0, 9.0, 0.64)
        (step,) = scheduler_steps.sample(scheduler, [evaluation], lambda latents, time: torch.full((1,), 2.0), noise)
        assert float(step.denoised) == pytest.approx(expected)


class TestSchedulerNoise:
    def test_every_way_to_draw_normal_noise_is_answered_in_order(self) -> None:
        noise: Any = GivenNoise(torch.zeros(2, 3))
        before = torch.random.get_rng_state()
        with SchedulerNoise(noise):
            drawn = [
                torch.randn(2, 3),
                torch.randn((2, 3), generator=torch.Generator(), dtype=torch.float32),
                torch.randn_like(torch.zeros(2, 3)),
                randn_tensor((2, 3), generator=None, device=torch.device("cpu"), dtype=torch.float32),
            ]
        assert [float(one[0, 0]) for one in drawn] == [1.0, 2.0, 3.0, 4.0]
        assert noise.drawn == [0, 1, 2, 3]
        assert torch.equal(torch.random.get_rng_state(), before), "no other generator moves"

    def test_counting_continues_in_the_next_step(self) -> None:
        noise: Any = GivenNoise(torch.zeros(1))
        mode = SchedulerNoise(noise)
        for _ in range(2):
            with mode:
                torch.randn(1)
        assert noise.drawn == [0, 1]

    def test_other_functions_are_left_alone(self) -> None:
        noise: Any = GivenNoise(torch.zeros(1))
        with SchedulerNoise(noise):
            assert torch.equal(torch.zeros(2) + torch.ones(2), torch.ones(2))
            uniform = torch.rand(1000)
        assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
        assert noise.drawn == []
        torch.manual_seed(3)
        outside = torch.randn(2)
        torch.manual_seed(3)
        assert torch.equal(torch.randn(2), outside), "nothing is patched outside the block"
