"""Samplers: the original's timesteps, the loop around a scheduler, and results for a model that makes no error."""

import math
from collections.abc import Iterable
from itertools import pairwise
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
from sdcli.pipeline.samplers import Plan, Step, scheduler_steps
from sdcli.pipeline.samplers.scheduler_steps import Evaluation
from sdcli.pipeline.schedules import scheduler_arguments, timesteps
from sdcli.registry import SAMPLERS
from tests.unit.pipeline.toy_model import toy_jobs

V1 = NoiseSchedule()
TRAILING = V1.model_copy(update={"timestep_spacing": "trailing", "set_alpha_to_one": True})
FAILS = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
"""Steps with which the original ends in an IndexError, with DDIM and PLMS."""


def accepts(name: str, plan: Plan, schedule: NoiseSchedule) -> bool:
    try:
        SAMPLERS[name].check(plan, schedule)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(("steps", "count"), [(50, 50), (6, 7), (15, 16), (30, 31), (60, 63), (1, 1), (20, 20)])
def test_the_timesteps_are_as_many_as_the_original_s(steps: int, count: int) -> None:
    times = timesteps(steps, V1)
    assert len(times) == count
    assert times[-1] == 1
    assert list(times) == sorted(times, reverse=True)


def test_steps_that_exceed_the_training_are_those_that_fail_in_the_original() -> None:
    assert {steps for steps in range(1, 1001) if not accepts("ddim", Plan(steps), V1)} == FAILS


def test_the_error_names_the_nearest_steps_that_work() -> None:
    with pytest.raises(UsageError) as caught:
        SAMPLERS["plms"].check(Plan(105), V1)
    assert "100 and 112" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        SAMPLERS["ddim"].check(Plan(700), V1)
    assert "500" in caught.value.fix


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_training_timesteps_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        SAMPLERS[name].check(Plan(1001), V1)


def test_dpm_solver_needs_two_steps() -> None:
    with pytest.raises(UsageError):
        SAMPLERS["dpm_solver"].check(Plan(1), V1)
    SAMPLERS["dpm_solver"].check(Plan(2), V1)
    SAMPLERS["dpm_solver"].check(Plan(333), V1)


def test_the_original_s_number_of_draws() -> None:
    assert [SAMPLERS[name].draws(Plan(30), V1) for name in ("ddim", "plms", "dpm_solver")] == [31, 32, 0]


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


def perfect(name: str, plan: Plan, schedule: NoiseSchedule) -> list[Step]:
    """The steps for a model that knows the noise-free latents and the noise, without new noise.

    The model's prediction is always the noise that the run began with, which every sampler must take away exactly.
    """
    sampler, received = SAMPLERS[name], []

    def first(latents: torch.Tensor, time: float) -> torch.Tensor:
        received.append(float(latents[0, 0, 0, 0]))
        return latents

    ones: Any = GivenNoise(torch.ones_like(IMAGE).float())
    sigma = next(sampler.sample(first, ones, plan, schedule)).sigma
    # The model's first input, in which signal and noise have the variance 1 together.
    start = (IMAGE + sigma * EPSILON) / math.sqrt(sigma**2 + 1)
    noise: Any = GivenNoise((start / received[0]).float())
    return list(sampler.sample(lambda latents, time: EPSILON.float(), noise, plan, schedule))


ORIGINAL = ("ddim", "plms", "dpm_solver")
"""The samplers of the original."""
STOCHASTIC = ("ddpm", "euler_a", "dpm2_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "lcm")
DETERMINISTIC = [name for name in SAMPLERS if name not in STOCHASTIC]


def each(names: Iterable[str], *schedules: NoiseSchedule, steps: Iterable[int]) -> list[Any]:
    """Cases of a sampler, a plan and a noise schedule: all schedules that a sampler takes, and the model's own.

    Not the spacings that a user names for the original's samplers: diffusers steps back by a whole stride, which leaves
    noise where the number of steps does not divide the training's. `tests/golden` compares them with diffusers.
    """
    return [
        pytest.param(name, Plan(number, chosen), schedule, id=f"{name}-{chosen}-{number}-{schedule.timestep_spacing}")
        for name in names
        for number in steps
        for schedule in schedules
        for chosen in ("auto", *SAMPLERS[name].schedules)
        if accepts(name, Plan(number, chosen), schedule) and (chosen == "auto" or name not in ORIGINAL)
    ]


@pytest.mark.parametrize(("name", "plan", "schedule"), each(DETERMINISTIC, V1, TRAILING, steps=(1, 2, 6, 20)))
def test_a_perfect_model_gives_the_exact_result(name: str, plan: Plan, schedule: NoiseSchedule) -> None:
    found = perfect(name, plan, schedule)
    assert len(found) == SAMPLERS[name].evaluations(plan, schedule)
    assert [step.index for step in found] == list(range(len(found)))
    for step in found:
        torch.testing.assert_close(step.denoised.double(), IMAGE, atol=5e-4, rtol=0)
        assert step.latents.dtype == torch.float32
    # The original's schedule ends just above zero.
    alphas = DDIMScheduler(**scheduler_arguments(schedule)).alphas_cumprod.double()
    ends_above = name == "dpm_solver" or (name in ORIGINAL and not schedule.set_alpha_to_one)
    end = alphas[0] if ends_above else torch.ones(())
    # Some end at the smallest sigma of the training, 0.03, which is less than a colour level.
    atol = 5e-4 if name in ORIGINAL else 0.07
    expected = end.sqrt() * IMAGE + (1 - end).sqrt() * EPSILON
    torch.testing.assert_close(found[-1].latents.double(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "plan", "schedule"), each(ORIGINAL, TRAILING, steps=(15, 60, 150, 501)))
def test_no_noise_is_left_with_the_builtin_model_s_schedule(name: str, plan: Plan, schedule: NoiseSchedule) -> None:
    found = perfect(name, plan, schedule)
    torch.testing.assert_close(found[-1].denoised.double(), IMAGE, atol=5e-4, rtol=0)
    if name != "dpm_solver":
        torch.testing.assert_close(found[-1].latents.double(), IMAGE, atol=5e-4, rtol=0)


@pytest.mark.parametrize(("name", "plan", "schedule"), each(SAMPLERS, V1, TRAILING, steps=(10,)))
def test_times_and_sigmas_fall(name: str, plan: Plan, schedule: NoiseSchedule) -> None:
    noise: Any = BatchNoise(toy_jobs(1), (4, 2, 2), torch.device("cpu"))
    found = list(SAMPLERS[name].sample(lambda latents, time: latents * 0.3, noise, plan, schedule))
    if len(found) > SAMPLERS["euler"].evaluations(plan, schedule):
        found = [found[0], *found[2::2]] if name == "plms" else found[::2]  # without the evaluations inside a step
    assert all(before.sigma > step.sigma for before, step in pairwise(found))
    assert all(before.timestep >= step.timestep for before, step in pairwise(found))
    assert 7 < found[0].sigma < 15, "14.6 at the last timestep of the training"
    assert found[-1].sigma > 0


def test_sigma_is_infinite_at_a_zero_terminal_snr() -> None:
    schedule = TRAILING.model_copy(update={"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    noise: Any = GivenNoise(torch.ones(1, 1, 2, 2))
    first, *rest = SAMPLERS["ddim"].sample(lambda latents, time: -IMAGE.float(), noise, Plan(4), schedule)
    assert first.sigma == math.inf
    torch.testing.assert_close(first.denoised.double(), IMAGE, atol=1e-3, rtol=0)
    assert all(torch.isfinite(step.latents).all() for step in [first, *rest])


@pytest.mark.parametrize(
    "changes", [{"rescale_betas_zero_snr": True}, {"prediction_type": "sample"}], ids=["zero SNR", "sample"]
)
def test_plms_refuses_models_that_it_cannot_handle(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="plms"):
        SAMPLERS["plms"].check(Plan(20), V1.model_copy(update=changes))


def test_few_steps_of_plms_are_those_of_ddim_for_a_model_that_ends_without_noise() -> None:
    noise: Any = GivenNoise(torch.full((1, 1, 2, 2), 2.0))

    def result(name: str, steps: int, schedule: NoiseSchedule) -> torch.Tensor:
        *_, last = SAMPLERS[name].sample(lambda latents, time: latents * time / 1000, noise, Plan(steps), schedule)
        return last.latents

    assert torch.equal(result("plms", 9, TRAILING), result("ddim", 9, TRAILING))
    assert not torch.equal(result("plms", 10, TRAILING), result("ddim", 10, TRAILING))
    assert not torch.equal(result("plms", 8, V1), result("ddim", 8, V1))
    assert "those of DDIM" in SAMPLERS["plms"].why(Plan(9), TRAILING)
    # The stream of random numbers of old runs stays as it was.
    assert SAMPLERS["plms"].draws(Plan(8), TRAILING) == 9


def test_plms_ends_with_the_estimate_of_the_noise_free_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    noise: Any = GivenNoise(torch.randn(1, 1, 2, 2, generator=generator))

    def imperfect(latents: torch.Tensor, _: float) -> torch.Tensor:
        return latents + torch.randn(latents.shape, generator=generator)

    *_, last = SAMPLERS["plms"].sample(imperfect, noise, Plan(20), TRAILING)
    assert torch.equal(last.latents, last.denoised)
    # The original's schedule ends next to zero, and its last step is as the others.
    *_, last = SAMPLERS["plms"].sample(imperfect, noise, Plan(20), V1)
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
    SAMPLERS["ddim"].check(Plan(steps), noise)


def test_trailing_equals_diffusers() -> None:
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    for steps in (1, 4, 20, 50):
        scheduler.set_timesteps(steps)
        assert list(timesteps(steps, TRAILING)) == scheduler.timesteps.tolist()


def test_eta_adds_the_noise_of_the_draw() -> None:
    def first(eta: float) -> torch.Tensor:
        noise: Any = GivenNoise(torch.zeros(1, 4, 2, 2))
        step: Step = next(
            SAMPLERS["ddim"].sample(lambda latents, time: torch.zeros_like(latents), noise, Plan(10, eta=eta), V1)
        )
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
        *_, last = SAMPLERS["ddim"].sample(lambda latents, time: latents * 0.3 + 0.1, noise, Plan(5, eta=eta), V1)
        return last.latents

    together = sampled(jobs)
    assert not torch.equal(together[0], together[1])
    for row, job in enumerate(jobs):
        assert torch.equal(sampled([job])[0], together[row])


class FakeScheduler:
    """Halves what it is given, and draws as many times in each step as `draws` says."""

    init_noise_sigma = 3.0
    config: ClassVar = {"prediction_type": "sample"}

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
        monkeypatch.setitem(scheduler.config, "prediction_type", prediction_type)
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


@pytest.mark.parametrize("name", ["lms", "ipndm"])
def test_a_last_step_from_far_above_zero_is_not_extrapolated(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise: Any = GivenNoise(torch.randn(1, 1, 2, 2, generator=generator))

    def imperfect(latents: torch.Tensor, _: float) -> torch.Tensor:
        return latents + torch.randn(latents.shape, generator=generator)

    *_, last = SAMPLERS[name].sample(imperfect, noise, Plan(10), TRAILING)
    assert last.sigma > 0.1
    assert torch.equal(last.latents, last.denoised)
