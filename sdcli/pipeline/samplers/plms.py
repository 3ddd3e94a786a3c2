"""PLMS (Liu et al., 2022), with the original's timesteps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan, Sampler, Step, ddim
from sdcli.pipeline.samplers.of_diffusers import Scheduler, once_more, sampler, with_spacings
from sdcli.pipeline.schedules import SPACINGS, scheduler_arguments, timesteps

if TYPE_CHECKING:
    from sdcli.pipeline.noise import BatchNoise
    from sdcli.pipeline.samplers import Denoiser


_FEWEST = 10
"""Steps for models whose last step ends without noise. With 6, 7 or 9 steps of PLMS the builtin model's images are
torn, so fewer than 10 are those of DDIM."""


_TWICE = "PLMS evaluates it twice in its first step"


def check(plan: Plan, schedule: NoiseSchedule) -> None:
    """Refuse what DDIM refuses, models with a zero terminal SNR, and those that predict the noise-free latents."""
    why = (
        "The model was trained with a zero terminal SNR, and PLMS divides by the signal."
        if schedule.rescale_betas_zero_snr
        else "The model predicts the noise-free latents, and PLMS takes noise or velocity."
        if schedule.prediction_type == "sample"
        else ""
    )
    if why:
        raise UsageError(
            "--sampler plms does not work with this model",
            why=why,
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
    steps = plan.steps
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
    evaluations.insert(1, second)
    steps_of_plms = scheduler_steps.sample(scheduler, evaluations, denoiser, noise)
    if not ends_without_noise(schedule):
        return steps_of_plms
    return scheduler_steps.with_denoised_end(steps_of_plms, len(evaluations))


def ends_without_noise(schedule: NoiseSchedule) -> bool:
    """Whether the last step ends at clean latents from a timestep that is not next to zero."""
    return schedule.set_alpha_to_one and schedule.timestep_spacing != "leading"


def _is_ddim(plan: Plan, schedule: NoiseSchedule) -> bool:
    return ends_without_noise(schedule) and plan.steps < _FEWEST


def evaluations(plan: Plan, schedule: NoiseSchedule) -> int:
    """One evaluation for each timestep, and one more in the first step."""
    return ddim.evaluations(plan, schedule) + (not _is_ddim(plan, schedule))


def draws(plan: Plan, schedule: NoiseSchedule) -> int:
    """The original draws noise in each evaluation."""
    return ddim.evaluations(plan, schedule) + 1


def why(plan: Plan, schedule: NoiseSchedule) -> str:
    """Why the model is evaluated more often than there are steps."""
    own = _TWICE
    if _is_ddim(plan, schedule):
        own = f"fewer than {_FEWEST} of PLMS would tear this model's images, so they are those of DDIM"
    return "; ".join(filter(None, [ddim.why(plan, schedule), own]))


SAMPLER = with_spacings(
    Sampler("PLMS", check, evaluations, draws=draws, sample=sample, why=why, aliases=("pndm",), order=2),
    sampler(
        "PLMS",
        Scheduler(
            "scheduling_pndm:PNDMScheduler",
            options={"skip_prk_steps": True},
            evaluations=once_more,
            spacing="leading",
            x0=False,
            least=2,
        ),
        schedules=SPACINGS,
        why=_TWICE,
    ),
)
