"""The samplers of k-diffusion (Karras et al., 2022): Euler, Heun, DPM2, and their ancestral forms; LMS."""

from __future__ import annotations

from sdcli.pipeline.samplers.of_diffusers import Scheduler, between_steps, in_each_step, sampler, twice

EULER_SCHEDULER = Scheduler("scheduling_euler_discrete:EulerDiscreteScheduler", zero_snr=True)
EULER = sampler("Euler", EULER_SCHEDULER, takes_sigmas=True, order=1)
EULER_A = sampler(
    "Euler a",
    Scheduler(
        "scheduling_euler_ancestral_discrete:EulerAncestralDiscreteScheduler",
        draws=in_each_step, zero_snr=True, x0=False,
    ),
    "euler_ancestral",
    takes_sigmas=True,
)  # fmt: skip
HEUN = sampler(
    "Heun",
    Scheduler("scheduling_heun_discrete:HeunDiscreteScheduler", evaluations=twice, x0=False),
    order=2,
)
DPM2 = sampler(
    "DPM2",
    Scheduler("scheduling_k_dpm_2_discrete:KDPM2DiscreteScheduler", evaluations=twice, x0=False),
    order=2,
)  # fmt: skip
DPM2_A = sampler(
    "DPM2 a",
    Scheduler(
        "scheduling_k_dpm_2_ancestral_discrete:KDPM2AncestralDiscreteScheduler",
        evaluations=twice, draws=between_steps, x0=False,
    ),
    "dpm_2_ancestral",
)  # fmt: skip
LMS = sampler(
    "LMS",
    Scheduler("scheduling_lms_discrete:LMSDiscreteScheduler", extrapolates=True),
    "lmsd",
    takes_sigmas=True, order=3,
)  # fmt: skip
