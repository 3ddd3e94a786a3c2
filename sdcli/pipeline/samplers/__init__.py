"""One table: a sampler's name, the diffusers scheduler behind it, and the timesteps it takes.

Nothing here is heavy until a sampler's `plan` is called, so steps are checked before a model loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.settings import SamplerName

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Evaluation:
    """One call of the model: the time it is told, and the time its scheduler is told."""

    model_time: float
    scheduler_time: float


@dataclass(frozen=True)
class Plan:
    """A scheduler made ready, and the evaluations that take noise to an image, in order."""

    scheduler: Any
    evaluations: Sequence[Evaluation]
    takes_noise: bool
    """Whether the scheduler's step has a use for noise of its own (DDIM with eta)."""

    def step(
        self,
        output: torch.Tensor,
        evaluation: Evaluation,
        latents: torch.Tensor,
        eta: float,
        noise: torch.Tensor | None,
    ) -> torch.Tensor:
        """The latents after one evaluation of the model; all tensors (batch, C, height/f, width/f)."""
        options = {"eta": eta, "variance_noise": noise} if self.takes_noise else {}
        time = evaluation.scheduler_time
        return self.scheduler.step(output, time, latents, return_dict=False, **options)[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sampler:
    """A sampler: what it can do, and how to make it ready."""

    title: str
    """Its name among people."""
    check: Callable[[int, NoiseSchedule], None]
    draws: Callable[[int, NoiseSchedule], int]
    """Draws of noise the original makes while sampling; they move the generator even where nothing uses them."""
    plan: Callable[[int, NoiseSchedule], Plan]


def timesteps(steps: int, noise: NoiseSchedule) -> Sequence[int]:
    """The times at which DDIM and PLMS evaluate the model, from the noisiest down.

    The list can be longer than `steps`: 30 gives 31. "leading" is the original's, range(0, T, T // steps) + 1;
    "trailing" and "linspace" begin at the last time there is.
    """
    total = noise.num_train_timesteps
    back = total // steps
    if noise.timestep_spacing == "leading":
        return range(noise.steps_offset, total + noise.steps_offset, back)[::-1]
    # From the very last time down, by just as much as the schedulers step back: diffusers spreads the times evenly
    # instead, and where `steps` does not divide `total` its schedulers then fall behind the times the model is told.
    return range(total - 1, -1, -back)


def _reaches_past_the_end(steps: int, noise: NoiseSchedule) -> bool:
    return timesteps(steps, noise)[0] >= noise.num_train_timesteps


def _check_discrete(steps: int, noise: NoiseSchedule) -> None:
    """DDIM and PLMS: some numbers of steps make a list of times that reaches past the last one trained."""
    total = noise.num_train_timesteps
    if steps <= total and not _reaches_past_the_end(steps, noise):
        return
    works = [s for s in range(1, total + 1) if not _reaches_past_the_end(s, noise)]
    if steps > total:
        raise UsageError(f"--ddim_steps {steps} is more than the model has", fix=f"Give at most {max(works)}.")
    below = max((s for s in works if s < steps), default=None)
    above = min((s for s in works if s > steps), default=None)
    nearest = " and ".join(str(s) for s in (below, above) if s is not None)
    raise UsageError(
        f"--ddim_steps {steps} does not work with DDIM and PLMS",
        why=f"Its list of timesteps reaches {timesteps(steps, noise)[0]}; the model ends at {total - 1}.",
        fix=f"The nearest that work: {nearest}. --sampler dpm_solver takes any number from 2.",
    )


def _check_plms(steps: int, noise: NoiseSchedule) -> None:
    if noise.rescale_betas_zero_snr:
        raise UsageError(
            "--plms does not go with this model",
            why="It was trained down to a signal of zero, which PLMS divides by.",
            fix="Draw with --sampler ddim.",
        )
    _check_discrete(steps, noise)


def _check_dpm_solver(steps: int, noise: NoiseSchedule) -> None:
    if steps < 2:
        raise UsageError(
            f"--ddim_steps {steps} does not work with DPM-Solver",
            why="It goes from one point to the next, and needs two steps.",
            fix="Give 2 or more, or another sampler.",
        )
    if steps > noise.num_train_timesteps:
        raise UsageError(
            f"--ddim_steps {steps} is more than the model has", fix=f"Give at most {noise.num_train_timesteps}."
        )


def _betas(noise: NoiseSchedule) -> dict[str, Any]:
    return noise.model_dump(include={"num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}) | {
        "prediction_type": noise.prediction_type
    }


def _ddim(steps: int, noise: NoiseSchedule) -> Plan:
    import torch
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        **_betas(noise),
        clip_sample=False,
        set_alpha_to_one=noise.set_alpha_to_one,
        rescale_betas_zero_snr=noise.rescale_betas_zero_snr,
    )
    times = timesteps(steps, noise)
    # The scheduler steps back by T // num_inference_steps; the list itself may be one longer than `steps`.
    scheduler.num_inference_steps = steps
    scheduler.timesteps = torch.tensor(list(times))
    return Plan(scheduler, [Evaluation(t, t) for t in times], takes_noise=True)


def _plms(steps: int, noise: NoiseSchedule) -> Plan:
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    scheduler = PNDMScheduler(**_betas(noise), skip_prk_steps=True, set_alpha_to_one=noise.set_alpha_to_one)
    scheduler.set_timesteps(steps)
    times = timesteps(steps, noise)
    back = noise.num_train_timesteps // steps
    # The first step evaluates twice (Heun): at its own time, and at the time it leads to. The scheduler counts back
    # from the second to the first, so it is told that time even where there is none left, with a single step.
    second = Evaluation(times[min(1, len(times) - 1)], times[0] - back)
    evaluations = [Evaluation(t, t) for t in times]
    return Plan(scheduler, [evaluations[0], second, *evaluations[1:]], takes_noise=False)


def _dpm_solver(steps: int, noise: NoiseSchedule) -> Plan:
    """DPM-Solver++ 2M as the original has it: uniform in continuous time from 1 to 1/T, lower order at the ends."""
    import numpy as np
    import torch
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        **_betas(noise),
        rescale_betas_zero_snr=noise.rescale_betas_zero_snr,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        lower_order_final=True,
        final_sigmas_type="sigma_min",
    )
    total = noise.num_train_timesteps
    scheduler.set_timesteps(steps)
    # Between the trained times log alpha is interpolated linearly, and sigma follows from it.
    continuous = np.linspace(1.0, 1.0 / total, steps + 1, dtype=np.float32)
    log_alpha = 0.5 * np.log(scheduler.alphas_cumprod.numpy())
    at = np.interp(continuous, np.arange(1, total + 1, dtype=np.float32) / total, log_alpha)
    scheduler.sigmas = torch.from_numpy(np.sqrt(np.expm1(-2.0 * at)).astype(np.float32))
    times = ((continuous[:-1] - 1.0 / total) * total).tolist()
    scheduler.timesteps = torch.tensor(list(times))
    scheduler.num_inference_steps = steps
    scheduler.set_begin_index(0)
    return Plan(scheduler, [Evaluation(t, t) for t in times], takes_noise=False)


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddim": Sampler("DDIM", _check_discrete, lambda steps, noise: len(timesteps(steps, noise)), _ddim),
    "plms": Sampler("PLMS", _check_plms, lambda steps, noise: len(timesteps(steps, noise)) + 1, _plms),
    "dpm_solver": Sampler("DPM++ 2M", _check_dpm_solver, lambda steps, noise: 0, _dpm_solver),
}
