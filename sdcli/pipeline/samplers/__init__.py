"""Samplers: each a generator of steps around one of diffusers' schedulers.

A sampler is one file with a `Sampler` and one line in `sdcli.registry.SAMPLERS`. These files import nothing heavy until
`sample` is called, so that steps are checked before a model loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sdcli.model_spec import NoiseSchedule

if TYPE_CHECKING:
    import torch

    from sdcli.pipeline.noise import BatchNoise

    Denoiser = Callable[[torch.Tensor, float], torch.Tensor]
    """Latents and a timestep to a prediction of the latents' shape, see `GuidedDenoiser`."""


@dataclass(frozen=True)
class Step:
    """The state after one evaluation of the model.

    Attributes:
        index: number of the evaluation, from 0.
        timestep: the time that the model received.
        sigma: ratio of noise to signal in the latents that the model received, as in k-diffusion; infinite at a zero
            terminal SNR.
        latents: (batch, C, height/f, width/f), float32; those of the last step are the result.
        denoised: the estimate of the noise-free latents that the prediction stands for, of the same shape.
    """

    index: int
    timestep: float
    sigma: float
    latents: torch.Tensor
    denoised: torch.Tensor


class Sample(Protocol):
    """The generator of a sampler."""

    def __call__(
        self, denoiser: Denoiser, noise: BatchNoise, steps: int, schedule: NoiseSchedule, eta: float
    ) -> Iterator[Step]:
        """Generate a batch of latents from noise.

        Args:
            denoiser: the model.
            noise: initial noise, and the noise of each draw.
            steps: number of sampling steps.
            schedule: the noise schedule that the model was trained with.
            eta: share of new noise in each step, 0 to 1.
        """
        ...


@dataclass(frozen=True)
class Sampler:
    """A sampler.

    Attributes:
        title: the name that other tools show for it.
        check: raises `UsageError` for a number of steps or a schedule that it cannot handle.
        evaluations: evaluations of the model for a number of steps.
        draws: draws of noise that the original makes while sampling. They move the run's stream of random numbers even
            where nothing uses them.
        sample: the generator.
        why: why the number of evaluations is not the number of steps, in words; "" if it is.
        refuses_eta: whether an eta other than 0 is an error, as in the original.
        aliases: names that other tools have for it in their files, in lower case.
    """

    title: str
    check: Callable[[int, NoiseSchedule], None]
    evaluations: Callable[[int, NoiseSchedule], int]
    draws: Callable[[int, NoiseSchedule], int]
    sample: Sample
    why: Callable[[int, NoiseSchedule], str] = lambda steps, schedule: ""
    refuses_eta: bool = False
    aliases: tuple[str, ...] = ()
