"""The loop that all samplers share: diffusers' scheduler, one evaluation of the model for each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        scheduler_time: the time that the scheduler receives.
        alpha_bar: cumulative product of alphas of the latents, 0 to 1 (Ho et al., 2020).
    """

    model_time: float
    scheduler_time: float
    alpha_bar: float


def sample(
    scheduler: Any, evaluations: Sequence[Evaluation], denoiser: Denoiser, noise: BatchNoise, **options: Any
) -> Iterator[Step]:
    """Generate latents with a prepared scheduler.

    Args:
        scheduler: one of diffusers' schedulers, with its timesteps set.
        evaluations: the evaluations in order.
        denoiser: the model.
        noise: the batch's noise; the scheduler's draws come from it, too.
        options: further arguments of `scheduler.step`.
    """
    latents = noise.initial() * scheduler.init_noise_sigma
    drawn_by_scheduler = SchedulerNoise(noise)
    for index, evaluation in enumerate(evaluations):
        time = evaluation.scheduler_time
        # Some schedulers keep latents whose noise is not scaled down with the signal; the model's input always has the
        # variance that the model was trained with.
        scaled = scheduler.scale_model_input(latents, time)
        output = denoiser(scaled, evaluation.model_time)
        denoised = _denoised(output, scaled, evaluation.alpha_bar, scheduler.config.prediction_type)
        with drawn_by_scheduler:
            latents = scheduler.step(output, time, latents, return_dict=False, **options)[0]
        alpha_bar = evaluation.alpha_bar
        sigma = math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar else math.inf
        yield Step(index, evaluation.model_time, sigma, latents, denoised)


def _denoised(output: torch.Tensor, latents: torch.Tensor, alpha_bar: float, prediction_type: str) -> torch.Tensor:
    """The estimate of the noise-free latents that a prediction for the model's input `latents` stands for."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction_type == "sample":
        return output
    if prediction_type == "v_prediction":
        return signal * latents - noise * output
    return (latents - noise * output) / signal
