"""Multistep samplers: UniPC (Zhao et al., 2023), DEIS (Zhang and Chen, 2022), SA-Solver (Xue et al., 2023)."""

from __future__ import annotations

from sdcli.pipeline.samplers.of_diffusers import Scheduler, in_each_step, sampler

UNIPC = sampler(
    "UniPC",
    Scheduler("scheduling_unipc_multistep:UniPCMultistepScheduler", zero_snr=True),
    "unipc_bh2", "unipc_tu",
    takes_sigmas=True, order=3,
)  # fmt: skip
# Its last step ends where it begins with the schedules of curves, so a single one does nothing.
DEIS = sampler(
    "DEIS", Scheduler("scheduling_deis_multistep:DEISMultistepScheduler", least=2), takes_sigmas=True, order=2
)
SA_SOLVER = sampler("SA Solver", Scheduler("scheduling_sasolver:SASolverScheduler", draws=in_each_step))
