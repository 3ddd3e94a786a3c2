"""Timesteps at which samplers evaluate the model, and the noise schedule in diffusers' terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdcli.model_spec import CURVES, NoiseSchedule

if TYPE_CHECKING:
    from sdcli.pipeline.samplers import Plan

SPACINGS = ("leading", "linspace", "trailing")
"""Schedules that are a spacing of timesteps."""
BY_SIGMAS = ("sgm_uniform", "align_your_steps")
"""Schedules that are computed here, as noise levels."""
_ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Noise levels for 10 steps of Stable Diffusion 1 (Sabour et al., "Align your steps", 2024)."""


def spaced(schedule: NoiseSchedule, plan: Plan, default: str | None = None) -> NoiseSchedule:
    """The noise schedule with the spacing of a plan.

    Args:
        schedule: the noise schedule of the model.
        plan: the plan.
        default: the spacing if neither the plan nor the model's files name one; by default the one that the sampler of
            the files has.
    """
    spacing = schedule.timestep_spacing if schedule.spacing_is_given or default is None else default
    if plan.schedule in SPACINGS:
        spacing = plan.schedule
    return schedule.model_copy(update={"timestep_spacing": spacing})


def timesteps(steps: int, schedule: NoiseSchedule) -> Sequence[int]:
    """The timesteps of DDIM and PLMS, from the noisiest down.

    "leading" is the original's list, range(0, T, T // steps) + 1. It can be longer than `steps`: 30 steps give 31
    timesteps. "trailing" and "linspace" begin at the last timestep, T - 1.
    """
    total = schedule.num_train_timesteps
    stride = total // steps
    if schedule.timestep_spacing == "leading":
        return range(schedule.steps_offset, total + schedule.steps_offset, stride)[::-1]
    # In strides from the last timestep, because the schedulers step back by the stride. diffusers spreads the timesteps
    # evenly; if `steps` does not divide T, its schedulers then fall behind the timesteps that the model receives.
    return range(total - 1, -1, -stride)


def exceeds_training(steps: int, schedule: NoiseSchedule) -> bool:
    """Whether the first timestep lies after the last one that the model was trained with."""
    return timesteps(steps, schedule)[0] >= schedule.num_train_timesteps


def scheduler_arguments(schedule: NoiseSchedule) -> dict[str, Any]:
    """The arguments that all of diffusers' schedulers share."""
    shared = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"}
    return schedule.model_dump(include=shared)


def by_sigmas(plan: Plan, schedule: NoiseSchedule) -> tuple[list[float], list[float]]:
    """The noise levels of a plan with `sigmas`, or with one of the schedules `BY_SIGMAS` or `CURVES`.

    Returns:
        The sigma of each step, and its timestep, which may lie between two trained ones.
    """
    import numpy as np
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    curve = {f"use_{plan.schedule}_sigmas": True} if plan.schedule in CURVES else {}
    euler = EulerDiscreteScheduler(
        **scheduler_arguments(schedule), rescale_betas_zero_snr=schedule.rescale_betas_zero_snr, **curve
    )
    if curve:
        euler.set_timesteps(plan.steps)
        return euler.sigmas[:-1].tolist(), euler.timesteps.tolist()
    bars = euler.alphas_cumprod.double().numpy()
    # Between trained timesteps the logarithm of sigma is interpolated, as k-diffusion does.
    logs = 0.5 * (np.log1p(-bars) - np.log(bars))
    trained = np.arange(len(bars))
    if plan.sigmas:
        levels = np.log(np.array(plan.sigmas))
        times = np.interp(levels, logs, trained)
    elif plan.schedule == "sgm_uniform":
        times = np.linspace(len(bars) - 1, 0, plan.steps + 1)[:-1]
        levels = np.interp(times, trained, logs)
    else:
        known = np.log(np.array(_ALIGN_YOUR_STEPS))
        places = np.linspace(0, len(known) - 1, plan.steps + 1)[:-1]
        levels = np.interp(places, np.arange(len(known)), known)
        times = np.interp(levels, logs, trained)
    return np.exp(levels).tolist(), times.tolist()
