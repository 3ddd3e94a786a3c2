"""DDPM (Ho et al., 2020): new noise in each step."""

from __future__ import annotations

from sdcli.pipeline.samplers import Plan
from sdcli.pipeline.samplers.of_diffusers import Scheduler, sampler
from sdcli.pipeline.schedules import SPACINGS


def _draws(plan: Plan, steps: int) -> int:
    """One in each step, but not at timestep 0, at which linspace ends."""
    return steps - 1 if plan.schedule == "linspace" else steps


DDPM = sampler(
    "DDPM",
    Scheduler("scheduling_ddpm:DDPMScheduler", draws=_draws, spacing="leading", zero_snr=True),
    schedules=SPACINGS,
)
