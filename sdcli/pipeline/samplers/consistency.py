"""Samplers of a few steps for models that are distilled for them: LCM (Luo et al., 2023), TCD (Zheng et al., 2024)."""

from __future__ import annotations

from sdcli.pipeline.samplers import Plan
from sdcli.pipeline.samplers.of_diffusers import Scheduler, between_steps, sampler

_STEPS = 50
"""Steps of the sampler that such models are distilled from; theirs are some of these."""


def _with_eta(plan: Plan, steps: int) -> int:
    """One in each step but the last, if eta is not 0."""
    return steps - 1 if plan.eta else 0


LCM = sampler(
    "LCM",
    Scheduler("scheduling_lcm:LCMScheduler", draws=between_steps, zero_snr=True, most=_STEPS),
    schedules=(),
)
TCD = sampler(
    "TCD",
    Scheduler("scheduling_tcd:TCDScheduler", draws=_with_eta, zero_snr=True, most=_STEPS),
    schedules=(),
    takes_eta=True,
    order=1,
)
