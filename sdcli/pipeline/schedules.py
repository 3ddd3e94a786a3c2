"""Timesteps at which samplers evaluate the model, and the noise schedule in diffusers' terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdcli.model_spec import NoiseSchedule


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
