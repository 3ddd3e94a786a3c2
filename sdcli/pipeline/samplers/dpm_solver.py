"""DPM-Solver++ 2M (Lu et al., 2022) as the original runs it: uniform in continuous time, first order at the ends."""

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
    """Refuse a single step, and more steps than the model has timesteps."""
    steps = plan.steps
    if steps < 2:
        raise UsageError(
            f"--ddim_steps {steps} does not work with DPM-Solver",
            why="It needs at least two steps.",
            fix="Pass 2 or more, or another sampler.",
            settings=("steps", "sampler"),
        )
    if steps > schedule.num_train_timesteps:
        raise UsageError(
            f"--ddim_steps {steps} is more than the model's {schedule.num_train_timesteps} timesteps",
            fix=f"Pass at most {schedule.num_train_timesteps}.",
            settings=("steps", "sampler"),
        )


def sample(denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
    """See `sdcli.pipeline.samplers.Sample`."""
    import numpy as np
    import torch
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    from sdcli.pipeline.samplers import scheduler_steps
    from sdcli.pipeline.samplers.scheduler_steps import Evaluation

    scheduler = DPMSolverMultistepScheduler(
        **scheduler_arguments(schedule),
        rescale_betas_zero_snr=schedule.rescale_betas_zero_snr,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        lower_order_final=True,
        final_sigmas_type="sigma_min",
    )
    steps, total = plan.steps, schedule.num_train_timesteps
    scheduler.set_timesteps(steps)
    # Between the trained timesteps log alpha is interpolated linearly, and sigma follows from it.
    continuous = np.linspace(1.0, 1.0 / total, steps + 1, dtype=np.float32)
    log_alpha = 0.5 * np.log(scheduler.alphas_cumprod.numpy())
    at = np.interp(continuous, np.arange(1, total + 1, dtype=np.float32) / total, log_alpha)
    scheduler.sigmas = torch.from_numpy(np.sqrt(np.expm1(-2.0 * at)).astype(np.float32))
    times = ((continuous[:-1] - 1.0 / total) * total).tolist()
    scheduler.timesteps = torch.tensor(list(times))
    scheduler.num_inference_steps = steps
    scheduler.set_begin_index(0)
    alpha_bars = np.exp(2.0 * at).tolist()
    evaluations = [Evaluation(time, time, alpha_bar) for time, alpha_bar in zip(times, alpha_bars, strict=False)]
    return scheduler_steps.sample(scheduler, evaluations, denoiser, noise)


SAMPLER = Sampler(
    "DPM-Solver",
    check,
    evaluations=lambda plan, schedule: plan.steps,
    draws=lambda plan, schedule: 0,
    sample=sample,
    aliases=("dpm", "dpm_solver_stability"),
    order=2,
)
