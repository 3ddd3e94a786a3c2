"""Samplers: each a generator of steps around one of diffusers' schedulers.

A sampler is one file with a `Sampler` and one line in `sdcli.registry.SAMPLERS`. These files import nothing heavy until
`sample` is called, so that steps are checked before a model loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sdcli.model_spec import NoiseSchedule
from sdcli.settings import ImageSettings, sigmas_of

if TYPE_CHECKING:
    import torch

    from sdcli.pipeline.noise import BatchNoise

    Denoiser = Callable[[torch.Tensor, float], torch.Tensor]
    """Latents and a timestep to a prediction of the latents' shape, see `GuidedDenoiser`."""


@dataclass(frozen=True)
class Plan:
    """What a sampler does.

    Attributes:
        steps: number of sampling steps.
        schedule: where the steps are, one of the values of `--schedule`.
        sigmas: the noise levels of the steps, falling, instead of a schedule; a last 0 is the end of the last step.
        eta: share of new noise in each step, 0 to 1.
    """

    steps: int
    schedule: str = "auto"
    sigmas: tuple[float, ...] = ()
    eta: float = 0.0

    @classmethod
    def of(cls, settings: ImageSettings, steps: int) -> Plan:
        """The plan of an image with so many steps, unless its sigmas say how many."""
        sigmas = sigmas_of(settings)
        return cls(len(sigmas) or steps, settings.schedule, sigmas, settings.eta)


@dataclass(frozen=True)
class Step:
    """The state after one evaluation of the model.

    Attributes:
        index: number of the evaluation, from 0.
        timestep: the time that the model received.
        sigma: ratio of noise to signal in the latents that the model received, as in k-diffusion; infinite at a zero
            terminal SNR; NaN in a pipeline of diffusers.
        latents: (batch, C, height/f, width/f), float32; those of the last step are the result.
        denoised: the estimate of the noise-free latents that the prediction stands for, of the same shape; None in a
            pipeline of diffusers.
    """

    index: int
    timestep: float
    sigma: float
    latents: torch.Tensor
    denoised: torch.Tensor | None


class Sample(Protocol):
    """The generator of a sampler."""

    def __call__(self, denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
        """Generate a batch of latents from noise.

        Args:
            denoiser: the model.
            noise: initial noise, and the noise of each draw.
            plan: what to do, as `check` accepts it.
            schedule: the noise schedule that the model was trained with.
        """
        ...


@dataclass(frozen=True)
class Sampler:
    """A sampler.

    Attributes:
        title: the name that other tools show for it.
        check: raises `UsageError` for a plan or a noise schedule that it cannot handle. The values of `schedules`,
            `sigmas` and `eta` are already checked.
        evaluations: evaluations of the model for a plan.
        draws: draws of noise that it makes after the initial noise. Those of the original count, even where
            nothing uses them: they move the run's stream of random numbers.
        sample: the generator.
        why: why the number of evaluations is not the number of steps, in words; "" if it is.
        schedules: the values of `--schedule` that it takes, besides auto.
        takes_sigmas: whether it takes `--sigmas`.
        takes_eta: whether it takes an eta other than 0.
        aliases: names that other tools have for it, besides `title`. Capitals, spaces, punctuation, and what
            `sdcli.sampler_names.key` leaves out do not matter.
        order: order of convergence to the solution of the probability-flow ODE (Song et al., 2021), at an eta of 0:
            twice as many steps divide the error by 2 to the power of it. 0 if the sampler adds noise in each step.
    """

    title: str
    check: Callable[[Plan, NoiseSchedule], None]
    evaluations: Callable[[Plan, NoiseSchedule], int]
    draws: Callable[[Plan, NoiseSchedule], int]
    sample: Sample
    why: Callable[[Plan, NoiseSchedule], str] = lambda plan, schedule: ""
    schedules: tuple[str, ...] = ()
    takes_sigmas: bool = False
    takes_eta: bool = False
    aliases: tuple[str, ...] = ()
    order: int = 0

    def takes(self, name: str, value: Any) -> bool:
        """Whether it takes a value of the setting `schedule`, `sigmas` or `eta`."""
        if name == "schedule":
            return value in ("auto", *self.schedules)
        return not value or (self.takes_sigmas if name == "sigmas" else self.takes_eta)
