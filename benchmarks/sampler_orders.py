"""Measures at which order each sampler converges.

    python benchmarks/sampler_orders.py [--plot docs/images/sampler-orders.svg]

The model is exact: noise-free latents with a normal distribution have a prediction in closed form, and so has the
solution of the probability-flow ODE (Song et al., 2021). Along a solution

    (latents - signal * mean) / sqrt(signal^2 * std^2 + noise^2),   signal^2 + noise^2 = 1

stays constant while the noise falls. How far it moves is the error of the sampler, and the order is the slope of the
error over the number of steps, both as logarithms. Prints a Markdown table. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sdcli.errors import UsageError
from sdcli.jobs import Job, NoisePlace
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.noise import BatchNoise
from sdcli.pipeline.samplers import Plan, Sampler
from sdcli.registry import SAMPLERS


def noise_schedule(timesteps: int) -> NoiseSchedule:
    """The noise levels of Stable Diffusion v1 in other numbers of timesteps than 1000.

    Some of diffusers' schedulers take about a millisecond for each timestep when they are made.
    """
    finer = 1000 / timesteps
    return NoiseSchedule(
        num_train_timesteps=timesteps,
        beta_start=0.00085 * finer,
        beta_end=0.012 * finer,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )


SCHEDULE = noise_schedule(200)
STEPS = (10, 20, 25, 40, 50, 100)
"""They divide the timesteps, so that those of DDIM and PLMS are evenly spaced."""
SLOPE = (25, 50)
"""Steps between which the order is measured."""
LEAST_SIGMA = 0.3
"""Errors are measured down to this noise level. Below, schedules differ in how far they go, and all end with a step of
first order."""
JOB = Job(
    prompt="",
    seed=7,
    rng="cpu",
    noise=NoisePlace(),
    height=64,
    width=64,
    steps=1,
    scale=1.0,
    model="",
    model_hash="",
    index=0,
)


@dataclass(frozen=True)
class Gaussian:
    """A model of noise-free latents with independent normal distributions.

    Attributes:
        mean, std: (C, height, width), float64.
        consistent: whether it estimates the end of the solution, as a consistency model, not the mean of the noise-free
            latents that can have led to the noisy ones.
    """

    mean: torch.Tensor
    std: torch.Tensor
    consistent: bool = False

    def standardized(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """What is constant along a solution: noisy latents in units of their own distribution."""
        signal, noise = _parts(sigma)
        return (latents.double() - signal * self.mean) / (signal**2 * self.std**2 + noise**2).sqrt()

    def end(self, standardized: torch.Tensor) -> torch.Tensor:
        """The noise-free latents at the end of a solution."""
        return self.mean + self.std * standardized

    def predict(self, latents: torch.Tensor, sigma: float, prediction_type: str) -> torch.Tensor:
        """The prediction for noisy latents, float32."""
        signal, noise = _parts(sigma)
        shift = self.standardized(latents, sigma)
        if not self.consistent:
            shift = shift * signal * self.std / (signal**2 * self.std**2 + noise**2).sqrt()
        denoised = self.end(shift)
        epsilon = (latents.double() - signal * denoised) / noise
        velocity = signal * epsilon - noise * denoised
        return {"epsilon": epsilon, "sample": denoised, "v_prediction": velocity}[prediction_type].float()


def _parts(sigma: float) -> tuple[float, float]:
    """The shares of signal and noise in latents, 0 to 1."""
    signal = 1 / math.sqrt(sigma**2 + 1)
    return signal, sigma * signal


class Sampled(NamedTuple):
    """A run of a sampler with a Gaussian model.

    Attributes:
        inputs: the noise level and the standardized latents of each evaluation.
        latents: the result, (1, C, height, width).
    """

    inputs: list[tuple[float, torch.Tensor]]
    latents: torch.Tensor

    @property
    def error(self) -> float:
        """The largest error (root mean square) down to `LEAST_SIGMA`."""
        start = self.inputs[0][1]
        return max(_rms(latents - start) for sigma, latents in self.inputs if sigma >= LEAST_SIGMA)


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


def run(sampler: Sampler, plan: Plan, schedule: NoiseSchedule, model: Gaussian) -> Sampled:
    """Sample with a model that knows the noise level that the sampler takes its latents for.

    A timestep that is rounded to a trained one is then no error.
    """
    shape: Any = tuple(model.mean.shape)
    noise = BatchNoise([JOB], shape, torch.device("cpu"))
    # The noise level follows the model's prediction in `Step`, so a first run finds them.
    levels = [step.sigma for step in sampler.sample(lambda latents, time: latents, noise, plan, schedule)]
    left = iter(levels)
    inputs: list[tuple[float, torch.Tensor]] = []

    def denoiser(latents: torch.Tensor, _: float) -> torch.Tensor:
        sigma = next(left)
        inputs.append((sigma, model.standardized(latents, sigma)))
        return model.predict(latents, sigma, schedule.prediction_type)

    *_, last = sampler.sample(denoiser, noise, plan, schedule)
    return Sampled(inputs, last.latents)


def of_many_shapes() -> Gaussian:
    """64 distributions with means of -1 to 1 and standard deviations of 1.2 to 0.4."""
    shape = (1, 8, 8)
    return Gaussian(
        torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(shape),
        torch.linspace(1.2, 0.4, 64, dtype=torch.float64).reshape(shape),
    )


def smoothest(sampler: Sampler) -> str:
    """The schedule for measurements: Karras's, whose steps change slowly, if the sampler takes it."""
    return next((name for name in ("karras", "trailing") if name in sampler.schedules), "auto")


def errors(sampler: Sampler, schedule: NoiseSchedule, steps: Sequence[int] = STEPS) -> dict[int, float]:
    """The error by number of steps, for those that the sampler takes."""
    found = {}
    for number in steps:
        plan = Plan(number, smoothest(sampler))
        try:
            sampler.check(plan, schedule)
        except UsageError:
            continue
        found[number] = run(sampler, plan, schedule, of_many_shapes()).error
    return found


def slope(found: Mapping[int, float]) -> float:
    """The order that errors show."""
    return -float(np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0])


def table(found: Mapping[str, Mapping[int, float]]) -> str:
    """The errors in Markdown: a row for each sampler."""
    lines = [
        f"| sampler |{''.join(f' {steps} steps |' for steps in STEPS)} order |",
        f"| --- |{' ---: |' * len(STEPS)} ---: |",
    ]
    for name, row in found.items():
        cells = [f"{row[steps]:.1e}" if steps in row else "" for steps in STEPS]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {slope({n: row[n] for n in SLOPE if n in row}):.1f} |")
    return "\n".join(lines)


def plot(found: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draw the errors over the steps, with a line for each order."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "sdcli"  # the same file each time
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    for order in sorted({SAMPLERS[name].order for name in found}):
        start = 0.45 / order
        axes.loglog(STEPS, [start * (STEPS[0] / steps) ** order for steps in STEPS], color="0.7", linestyle=":")
        axes.annotate(f"order {order}", (STEPS[0], start), color="0.4", va="bottom")
    colours = plt.get_cmap("tab20").colors
    for number, (name, row) in enumerate(found.items()):
        style = {1: "-", 2: "--"}.get(SAMPLERS[name].order, "-.")
        axes.loglog(
            list(row), list(row.values()), style, color=colours[number % 20], marker="o", markersize=4, label=name
        )
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps")
    axes.set_ylabel("error in standard deviations")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the errors, too: an SVG or PNG file")
    given = parser.parse_args()
    found = {name: errors(sampler, SCHEDULE) for name, sampler in SAMPLERS.items() if sampler.order}
    print(table(found))
    if given.plot is not None:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
