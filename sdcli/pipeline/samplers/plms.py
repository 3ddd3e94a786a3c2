"""PLMS (Liu et al., 2022), with the original's timesteps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan, Sampler, Step, ddim
from sdcli.pipeline.schedules import SPACINGS, scheduler_arguments, spaced, timesteps

if TYPE_CHECKING:
    from sdcli.pipeline.noise import BatchNoise
    from sdcli.pipeline.samplers import Denoiser


_FEWEST = 10
"""Steps for models whose last step ends without noise. With 6, 7 or 9 steps of PLMS the builtin model's images are
torn, so fewer than 10 are those of DDIM."""


def check(plan: Plan, schedule: NoiseSchedule) -> None:
    """Refuse what DDIM refuses, and models with a zero terminal SNR."""
    if schedule.rescale_betas_zero_snr:
        raise UsageError(
            "--sampler plms does not work with this model",
            why="The model was trained with a zero terminal SNR, and PLMS divides by the signal.",
            fix="Pass --sampler ddim.",
            settings=("steps", "sampler"),
        )
    ddim.check(plan, schedule)


def sample(denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
    """See `sdcli.pipeline.samplers.Sample`."""
    if _is_ddim(plan, schedule):
        return ddim.sample(denoiser, noise, plan, schedule)
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    from sdcli.pipeline.samplers import scheduler_steps
    from sdcli.pipeline.samplers.scheduler_steps import Evaluation

    scheduler = PNDMScheduler(
        **scheduler_arguments(schedule), skip_prk_steps=True, set_alpha_to_one=schedule.set_alpha_to_one
    )
    steps, schedule = plan.steps, spaced(schedule, plan)
    scheduler.set_timesteps(steps)

    def evaluation(model_time: int, scheduler_time: int) -> Evaluation:
        after_last = scheduler_time < 0
        alpha_bar = scheduler.final_alpha_cumprod if after_last else scheduler.alphas_cumprod[scheduler_time]
        return Evaluation(model_time, scheduler_time, float(alpha_bar))

    times = timesteps(steps, schedule)
    stride = schedule.num_train_timesteps // steps
    # The first step evaluates the model twice (Heun): at its own time and at the time of the next step. The scheduler
    # counts back from the second to the first, so it needs that time even if a single step leaves none.
    second = evaluation(times[min(1, len(times) - 1)], times[0] - stride)
    evaluations = [evaluation(time, time) for time in times]
    steps_of_plms = scheduler_steps.sample(scheduler, [evaluations[0], second, *evaluations[1:]], denoiser, noise)
    if not ends_without_noise(schedule):
        return steps_of_plms
    # The last step goes from far above zero to no noise at all. Extrapolated from the steps before, it adds the noise
    # that they differ in, and tears the image; the estimate of the noise-free latents is the step of first order.
    return (replace(step, latents=step.denoised) if step.index == len(evaluations) else step for step in steps_of_plms)


def ends_without_noise(schedule: NoiseSchedule) -> bool:
    """Whether the last step ends at clean latents from a timestep that is not next to zero."""
    return schedule.set_alpha_to_one and schedule.timestep_spacing != "leading"


def _is_ddim(plan: Plan, schedule: NoiseSchedule) -> bool:
    return ends_without_noise(spaced(schedule, plan)) and plan.steps < _FEWEST


def evaluations(plan: Plan, schedule: NoiseSchedule) -> int:
    """One evaluation for each timestep, and one more in the first step."""
    return ddim.evaluations(plan, schedule) + (not _is_ddim(plan, schedule))


def draws(plan: Plan, schedule: NoiseSchedule) -> int:
    """The original draws noise in each evaluation."""
    return ddim.evaluations(plan, schedule) + 1


def why(plan: Plan, schedule: NoiseSchedule) -> str:
    """Why the model is evaluated more often than there are steps."""
    own = "PLMS evaluates it twice in its first step"
    if _is_ddim(plan, schedule):
        own = f"fewer than {_FEWEST} of PLMS would tear this model's images, so they are those of DDIM"
    return "; ".join(filter(None, [ddim.why(plan, schedule), own]))


SAMPLER = Sampler(
    "PLMS",
    check,
    evaluations,
    draws=draws,
    sample=sample,
    why=why,
    schedules=SPACINGS,
    aliases=("pndm", "PNDMScheduler"),
)
