"""DDIM (Song et al., 2020), with the original's timesteps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan, Sampler, Step
from sdcli.pipeline.samplers.of_diffusers import Scheduler, if_eta, sampler, with_spacings
from sdcli.pipeline.schedules import SPACINGS, exceeds_training, scheduler_arguments, timesteps

if TYPE_CHECKING:
    from sdcli.pipeline.noise import BatchNoise
    from sdcli.pipeline.samplers import Denoiser


def check(plan: Plan, schedule: NoiseSchedule) -> None:
    """Refuse numbers of steps whose timesteps exceed those of the training. PLMS shares this check."""
    steps = plan.steps
    total = schedule.num_train_timesteps
    if steps <= total and not exceeds_training(steps, schedule):
        return
    valid = [number for number in range(1, total + 1) if not exceeds_training(number, schedule)]
    if steps > total:
        raise UsageError(
            f"--ddim_steps {steps} is more than the model's {total} timesteps",
            fix=f"Pass at most {max(valid)}.",
            settings=("steps", "sampler"),
        )
    below = max((number for number in valid if number < steps), default=None)
    above = min((number for number in valid if number > steps), default=None)
    nearest = " and ".join(str(number) for number in (below, above) if number is not None)
    raise UsageError(
        f"--ddim_steps {steps} does not work with DDIM and PLMS",
        why=f"The timesteps would reach {timesteps(steps, schedule)[0]}; the model's last one is {total - 1}.",
        fix=f"The nearest that work: {nearest}. --sampler dpm_solver takes any number from 2.",
        settings=("steps", "sampler"),
    )


def sample(denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
    """See `sdcli.pipeline.samplers.Sample`."""
    import torch
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from sdcli.pipeline.samplers import scheduler_steps
    from sdcli.pipeline.samplers.scheduler_steps import Evaluation

    scheduler = DDIMScheduler(
        **scheduler_arguments(schedule),
        clip_sample=False,
        set_alpha_to_one=schedule.set_alpha_to_one,
        rescale_betas_zero_snr=schedule.rescale_betas_zero_snr,
    )
    times = timesteps(plan.steps, schedule)
    # The scheduler steps back by T // num_inference_steps; the list may be one longer than `steps`.
    scheduler.num_inference_steps = plan.steps
    scheduler.timesteps = torch.tensor(list(times))
    evaluations = [Evaluation(time, time, float(scheduler.alphas_cumprod[time])) for time in times]
    return scheduler_steps.sample(scheduler, evaluations, denoiser, noise, eta=plan.eta)


def evaluations(plan: Plan, schedule: NoiseSchedule) -> int:
    """One evaluation for each timestep. The original draws noise in each, whatever eta is."""
    return len(timesteps(plan.steps, schedule))


def why(plan: Plan, schedule: NoiseSchedule) -> str:
    """Why there are more timesteps than steps. PLMS shares this reason."""
    count, total = evaluations(plan, schedule), schedule.num_train_timesteps
    return "" if count == plan.steps else f"{total} timesteps in strides of {total // plan.steps} are {count}"


SAMPLER = with_spacings(
    Sampler(
        "DDIM",
        check,
        evaluations,
        draws=evaluations,
        sample=sample,
        why=why,
        takes_eta=True,
        order=1,
    ),
    sampler(
        "DDIM",
        Scheduler("scheduling_ddim:DDIMScheduler", draws=if_eta, spacing="leading", zero_snr=True),
        schedules=SPACINGS,
        takes_eta=True,
    ),
)
