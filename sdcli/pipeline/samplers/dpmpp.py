"""The samplers of DPM-Solver++ (Lu et al., 2022): single-step, multistep, and with noise in each step."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sdcli.model_spec import CURVES
from sdcli.pipeline.samplers.of_diffusers import Scheduler, in_each_step, sampler, twice

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.pipeline.noise import BatchNoise

_MULTISTEP = "scheduling_dpmsolver_multistep:DPMSolverMultistepScheduler"
_SDE = {"algorithm_type": "sde-dpmsolver++"}


def _brownian_seed(job: Job) -> int:
    """The seed of a job's Brownian noise: that of the image; another for each place in a stream of several images."""
    place = job.noise
    if place.rows == 1 and not place.before and not place.fixed_rows:
        return job.seed
    digest = sha256(f"{job.seed} {place.model_dump_json()}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _give_brownian_noise(scheduler: Any, noise: BatchNoise) -> None:
    """Set the scheduler's source of noise: a Brownian tree for each image, on the CPU, so that every device has it."""
    import warnings

    import torch
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

    # torchsde compares the ends of the tree in another precision than it was given.
    warnings.filterwarnings("ignore", "Should have t[ab]", UserWarning)

    sigmas = scheduler.sigmas
    least, most = sigmas[sigmas > 0].min().item(), sigmas.max().item()
    seeds = [_brownian_seed(job) for job in noise.jobs]
    tree = BrownianTreeNoiseSampler(torch.zeros(len(seeds), *noise.shape), least, most, seeds)

    def on_device(sigma: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        drawn: torch.Tensor = tree(float(sigma), float(after))
        return drawn.to(noise.device)

    scheduler.noise_sampler = on_device


MULTISTEP_2 = sampler(
    "DPM++ 2M", Scheduler(_MULTISTEP, zero_snr=True), "dpmpp_2", "dpmsolver++", takes_sigmas=True, order=2
)
SINGLE_STEP_2 = sampler(
    "DPM++ 2S",
    Scheduler(
        "scheduling_dpmsolver_singlestep:DPMSolverSinglestepScheduler", options={"lower_order_final": True}, least=2
    ),
    "dpmsingle",
    schedules=("linspace", *CURVES),
    order=2,
)
SDE = sampler(
    "DPM++ SDE",
    Scheduler(
        "scheduling_dpmsolver_sde:DPMSolverSDEScheduler",
        evaluations=twice, prepare=_give_brownian_noise, x0=False,
    ),
    "dpm_sde",
)  # fmt: skip
MULTISTEP_2_SDE = sampler(
    "DPM++ 2M SDE",
    Scheduler(_MULTISTEP, options=_SDE, draws=in_each_step, zero_snr=True),
    takes_sigmas=True,
)  # fmt: skip
MULTISTEP_3_SDE = sampler(
    "DPM++ 3M SDE",
    Scheduler(_MULTISTEP, options={**_SDE, "solver_order": 3}, draws=in_each_step, zero_snr=True),
    takes_sigmas=True,
)  # fmt: skip
