"""iPNDM (Zhang and Chen, 2022): PLMS that begins with lower orders instead of more evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan, Sampler, Step, k_diffusion

if TYPE_CHECKING:
    import torch

    from sdcli.pipeline.noise import BatchNoise
    from sdcli.pipeline.samplers import Denoiser


def sample(denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
    """See `sdcli.pipeline.samplers.Sample`.

    diffusers' scheduler has a noise schedule of its own, and wants velocities. It gets the sigmas that Euler has, and
    the predictions as velocities.
    """
    from diffusers.schedulers.scheduling_ipndm import IPNDMScheduler

    from sdcli.pipeline.samplers import of_diffusers, scheduler_steps

    of_euler = of_diffusers.make(k_diffusion.EULER_SCHEDULER, plan, schedule)
    evaluations = scheduler_steps.evaluations_of(of_euler)
    sigmas = of_euler.sigmas.double()
    scheduler = IPNDMScheduler(trained_betas=(sigmas / (sigmas**2 + 1).sqrt()).tolist())
    scheduler.set_timesteps(len(evaluations))
    scheduler.set_begin_index(0)
    left = iter(evaluations)

    def velocity(latents: torch.Tensor, time: float) -> torch.Tensor:
        output = denoiser(latents, time)
        bar = next(left).alpha_bar
        signal, amount = bar**0.5, (1 - bar) ** 0.5
        if schedule.prediction_type == "epsilon":
            output = (output - amount * latents) / signal
        elif schedule.prediction_type == "sample":
            output = (signal * latents - output) / amount
        return output

    # It finds its place by counting.
    counted = [replace(evaluation, scheduler_time=None) for evaluation in evaluations]
    steps = scheduler_steps.sample(scheduler, counted, velocity, noise)
    return scheduler_steps.with_denoised_end(steps, len(counted))


IPNDM = Sampler(
    "iPNDM",
    k_diffusion.EULER.check,
    k_diffusion.EULER.evaluations,
    draws=k_diffusion.EULER.draws,
    sample=sample,
    schedules=k_diffusion.EULER.schedules,
    takes_sigmas=True,
    aliases=("IPNDMScheduler",),
    order=2,
)
