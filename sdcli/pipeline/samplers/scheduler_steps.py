"""The loop that all samplers share: diffusers' scheduler, one evaluation of the model for each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sdcli.pipeline.noise import BatchNoise, SchedulerNoise
from sdcli.pipeline.samplers import Step

if TYPE_CHECKING:
    from sdcli.pipeline.samplers import Denoiser


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model.

    Attributes:
        model_time: the time that the model receives.
        scheduler_time: the time that the scheduler receives: a number, or a tensor of its own.
        alpha_bar: cumulative product of alphas of the latents, 0 to 1 (Ho et al., 2020).
    """

    model_time: float
    scheduler_time: Any
    alpha_bar: float


def evaluations_of(scheduler: Any) -> list[Evaluation]:
    """The evaluations that a scheduler with its timesteps set asks for."""
    # The scheduler gets its own tensors: it takes integers for indices.
    times = list(scheduler.timesteps)
    bars = scheduler.alphas_cumprod
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        return [Evaluation(float(time), time, float(bars[int(time)])) for time in times]
    levels = [float(sigma) for sigma in sigmas[: len(times)]]
    # Methods of second order evaluate the model between two steps.
    between = getattr(scheduler, "sigmas_interpol", None)
    shift = 1 if hasattr(scheduler, "sigmas_down") else 0  # in DPM2 a, they are listed with the step before
    for index in range(1, len(times), 2):
        if between is not None:
            levels[index] = float(between[index - shift])
        elif type(scheduler).__name__ == "DPMSolverSDEScheduler":
            levels[index] = math.sqrt(levels[index - 1] * levels[index])
    return [Evaluation(float(time), time, 1 / (level * level + 1)) for time, level in zip(times, levels, strict=True)]


def sample(
    scheduler: Any,
    evaluations: Sequence[Evaluation],
    denoiser: Denoiser,
    noise: BatchNoise,
    *,
    draws: bool = True,
    **options: Any,
) -> Iterator[Step]:
    """Generate latents with a prepared scheduler.

    Args:
        scheduler: one of diffusers' schedulers, with its timesteps set.
        evaluations: the evaluations in order.
        denoiser: the model.
        noise: the batch's noise.
        draws: whether the scheduler's draws come from `noise`, too. Otherwise it draws itself.
        options: further arguments of `scheduler.step`.
    """
    latents = noise.initial() * scheduler.init_noise_sigma
    drawn_by_scheduler = SchedulerNoise(noise) if draws else nullcontext()
    for index, evaluation in enumerate(evaluations):
        time = evaluation.scheduler_time
        # Some schedulers keep latents whose noise is not scaled down with the signal; the model's input always has the
        # variance that the model was trained with.
        scaled = scheduler.scale_model_input(latents, time)
        output = denoiser(scaled, evaluation.model_time)
        # iPNDM has no such field: it takes velocities.
        prediction = scheduler.config.get("prediction_type", "v_prediction")
        denoised = _denoised(output, scaled, evaluation.alpha_bar, prediction)
        with drawn_by_scheduler:
            latents = scheduler.step(output, time, latents, return_dict=False, **options)[0]
        alpha_bar = evaluation.alpha_bar
        sigma = math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar else math.inf
        yield Step(index, evaluation.model_time, sigma, latents, denoised)


def ends_far_above_zero(evaluations: Sequence[Evaluation]) -> bool:
    """Whether the last evaluation sees more noise than the last timesteps of the training have, a sigma of 0.1."""
    return evaluations[-1].alpha_bar < 0.99


def with_denoised_end(steps: Iterator[Step], count: int) -> Iterator[Step]:
    """Replace the result of the last step by its estimate of the noise-free latents, which is a step of first order.

    For methods that extrapolate from the steps before. Where the last step goes from far above zero to no noise at all,
    that adds the noise in which they differ, and tears the image.

    Args:
        steps: the steps of `sample`.
        count: how many there are.
    """
    for step in steps:
        assert step.denoised is not None, "samplers compute it"
        yield replace(step, latents=step.denoised) if step.index == count - 1 else step


def _denoised(output: torch.Tensor, latents: torch.Tensor, alpha_bar: float, prediction_type: str) -> torch.Tensor:
    """The estimate of the noise-free latents that a prediction for the model's input `latents` stands for."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction_type == "sample":
        return output
    if prediction_type == "v_prediction":
        return signal * latents - noise * output
    return (latents - noise * output) / signal
