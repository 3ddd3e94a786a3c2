"""A sampler: Euler's method (Karras et al., 2022, algorithm 1) around diffusers' EulerDiscreteScheduler.

To use it as a template: sdcli/pipeline/samplers/NAME.py, and a line in `sdcli.registry.SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan, Sampler, Step
from sdcli.pipeline.schedules import scheduler_arguments

if TYPE_CHECKING:
    from sdcli.pipeline.noise import BatchNoise
    from sdcli.pipeline.samplers import Denoiser


def check(plan: Plan, schedule: NoiseSchedule) -> None:
    """Refuse more steps than the model has timesteps."""
    if plan.steps > schedule.num_train_timesteps:
        raise UsageError(
            f"--ddim_steps {plan.steps} is more than the model's {schedule.num_train_timesteps} timesteps",
            fix=f"Pass at most {schedule.num_train_timesteps}.",
            settings=("steps",),
        )


def sample(denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
    """See `sdcli.pipeline.samplers.Sample`."""
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    from sdcli.pipeline.samplers import scheduler_steps
    from sdcli.pipeline.samplers.scheduler_steps import Evaluation

    scheduler = EulerDiscreteScheduler(**scheduler_arguments(schedule), timestep_spacing="linspace")
    scheduler.set_timesteps(plan.steps)
    alpha_bars = (1 / (scheduler.sigmas[:-1] ** 2 + 1)).tolist()
    times = scheduler.timesteps.tolist()
    evaluations = [Evaluation(time, time, alpha_bar) for time, alpha_bar in zip(times, alpha_bars, strict=True)]
    return scheduler_steps.sample(scheduler, evaluations, denoiser, noise)


SAMPLER = Sampler(
    "Dummy Euler",
    check,
    evaluations=lambda plan, schedule: plan.steps,
    draws=lambda plan, schedule: 0,
    sample=sample,
    order=1,
)
