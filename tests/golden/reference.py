"""The original's samplers in float64, for any noise prediction, without diffusers.

DDIM: Song et al. 2020, eq. 12. PLMS: Liu et al. 2022, eq. 9 and 12. DPM-Solver++ 2M: Lu et al. 2022, algorithm 2.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Latents = NDArray[np.float64]
Model = Callable[[Latents, float], Latents]

ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def model(latents: Latents, time: float) -> Latents:
    """A noise prediction: a smooth, nonlinear function of both arguments."""
    return np.tanh(0.7 * latents + 0.3 * np.roll(latents, 1, axis=-1) + np.sin(time / 300))


def times_of(steps: int) -> list[int]:
    return [t + 1 for t in range(0, 1000, 1000 // steps)]


def to(latents: Latents, noise: Latents, now: float, before: float, sigma: float = 0.0) -> Latents:
    """From alpha-bar `now` to `before` along the predicted noise."""
    image = (latents - np.sqrt(1 - now) * noise) / np.sqrt(now)
    return np.sqrt(before) * image + np.sqrt(1 - before - sigma**2) * noise


def ddim(latents: Latents, steps: int, eta: float, fresh: Iterator[Latents], model: Model = model) -> Latents:
    times = times_of(steps)
    befores = [ALPHAS[0], *ALPHAS[times[:-1]]]
    for time, before in list(zip(times, befores, strict=True))[::-1]:
        now = ALPHAS[time]
        sigma = eta * np.sqrt((1 - before) / (1 - now) * (1 - now / before))
        latents = to(latents, model(latents, time), now, before, sigma) + sigma * next(fresh)
    return latents


def plms(latents: Latents, steps: int, model: Model = model) -> Latents:
    times = times_of(steps)
    befores = [ALPHAS[0], *ALPHAS[times[:-1]]]
    downward = list(zip(times, befores, strict=True))[::-1]
    past: list[Latents] = []
    for index, (time, before) in enumerate(downward):
        noise = model(latents, time)
        if not past:
            following = downward[min(index + 1, len(downward) - 1)][0]
            guess = to(latents, noise, ALPHAS[time], before)
            mixed = (noise + model(guess, following)) / 2
        elif len(past) == 1:
            mixed = (3 * noise - past[-1]) / 2
        elif len(past) == 2:
            mixed = (23 * noise - 16 * past[-1] + 5 * past[-2]) / 12
        else:
            mixed = (55 * noise - 59 * past[-1] + 37 * past[-2] - 9 * past[-3]) / 24
        latents = to(latents, mixed, ALPHAS[time], before)
        past = [*past[-2:], noise]
    return latents


def dpm_solver(latents: Latents, steps: int, model: Model = model) -> Latents:
    at = np.linspace(1, 1 / 1000, steps + 1)
    log_alpha = np.interp(at, np.arange(1, 1001) / 1000, 0.5 * np.log(ALPHAS))
    alpha, sigma = np.exp(log_alpha), np.sqrt(1 - np.exp(2 * log_alpha))
    lam = log_alpha - np.log(sigma)
    past: list[Latents] = []
    for i in range(1, steps + 1):
        noise = model(latents, (at[i - 1] - 1 / 1000) * 1000)
        past.append((latents - sigma[i - 1] * noise) / alpha[i - 1])
        step = lam[i] - lam[i - 1]
        image = past[-1]
        if i > 1 and not (steps < 15 and i == steps):
            ratio = (lam[i - 1] - lam[i - 2]) / step
            image = past[-1] + (past[-1] - past[-2]) / (2 * ratio)
        latents = sigma[i] / sigma[i - 1] * latents - alpha[i] * np.expm1(-step) * image
    return latents
