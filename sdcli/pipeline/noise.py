"""Seeds become latents: every draw of noise, in the original's order.

Two generators: PyTorch's own on the CPU, and the one of a CUDA card, which is counted out here and so gives the same
numbers on any device.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sdcli.jobs import Job, NoisePlace

_ROUND = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEP = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counter: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Args:
        counter: (4, n), 32-bit words, lowest first.
        seed: the key, 64 bits.

    Returns:
        (4, n) random 32-bit words.
    """
    c0, c1, c2, c3 = counter
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = c0 * _ROUND[0], c2 * _ROUND[1]
        c0, c1, c2, c3 = (
            (second >> _SHIFT) ^ c1 ^ np.uint64(key[0]),
            second & _LOW,
            (first >> _SHIFT) ^ c3 ^ np.uint64(key[1]),
            first & _LOW,
        )
        key = [(word + step) & 0xFFFFFFFF for word, step in zip(key, _KEY_STEP, strict=True)]
    return np.stack([c0, c1, c2, c3])


def cuda_randn(count: int, seed: int, draw: int) -> NDArray[np.float32]:
    """What the `draw`-th `torch.randn` of `count` numbers (from 0) after `manual_seed(seed)` gives on a CUDA card.

    Number i comes from thread i: counter (draw, i), the first two words through Box-Muller as in curand. A card whose
    grid is capped (multiprocessors x resident blocks x 256 threads: 40,960 numbers on a T4, 270,336 on an H200) lets
    each thread make several numbers in longer draws; there it parts from this, which is the uncapped order.
    """
    counter = np.zeros((4, count), dtype=np.uint64)
    counter[0], counter[1] = draw & 0xFFFFFFFF, draw >> 32
    counter[2] = np.arange(count, dtype=np.uint64)
    # curand maps a word to the middle of its 2^-32 wide interval. The card computes in float32; float64 rounded at the
    # end is nearer to its fused operations than float32 step by step.
    x, y = (philox(counter, seed)[:2].astype(np.float64) + 0.5) * 2.0**-32
    return np.asarray(np.sqrt(-2.0 * np.log(x)) * np.sin(2.0 * np.pi * y), dtype=np.float32)


class _CpuStream(threading.local):
    """PyTorch's CPU generator, moved to any draw of a stream by replaying what comes before it.

    A run's batches ask in order, so the generator is kept where it stands and goes back to the start only when asked
    for something behind it. Each thread has its own.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator("cpu")
        self.seed: int | None = None
        self.shape: tuple[int, ...] = ()
        self.made: list[tuple[int, int]] = []

    def draw(self, seed: int, before: Sequence[tuple[int, int]], rows: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The draw of (rows, *shape) that follows `before`."""
        todo = _remaining(self.made, before) if (self.seed, self.shape) == (seed, shape) else None
        if todo is None:
            self.generator.manual_seed(seed)
            self.seed, self.shape, self.made = seed, shape, []
            todo = list(before)
        for past, times in todo:
            for _ in range(times):
                torch.randn((past, *shape), generator=self.generator)
        self.made = _joined([*before, (rows, 1)])
        return torch.randn((rows, *shape), generator=self.generator)


def _joined(draws: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same draws with neighbours of equal size counted together."""
    joined: list[tuple[int, int]] = []
    for rows, times in draws:
        if joined and joined[-1][0] == rows:
            joined[-1] = (rows, joined[-1][1] + times)
        elif times:
            joined.append((rows, times))
    return joined


def _remaining(made: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """What is left to draw of `before` once `made` is drawn; None where `made` has gone another way, or too far."""
    left = _joined(before)
    for rows, times in made:
        if not left or left[0][0] != rows or left[0][1] < times:
            return None
        left[0] = (rows, left[0][1] - times)
        if not left[0][1]:
            left.pop(0)
    return left


_cpu_stream = _CpuStream()


class BatchNoise:
    """All the noise of one batch of jobs, each row from its own job's place in its own stream.

    Args:
        jobs: the batch.
        shape: (C, height/f, width/f) of one image's latents.
    """

    def __init__(self, jobs: Sequence[Job], shape: tuple[int, int, int]) -> None:
        self.jobs = jobs
        self.shape = shape

    def start(self) -> torch.Tensor:
        """The starting noise, (batch, C, height/f, width/f), float32 on the CPU."""
        return self._rows([_start_of(job.noise) for job in self.jobs])

    def step(self, number: int) -> torch.Tensor:
        """The noise of the sampler's `number`-th draw (from 0), of the same shape."""
        return self._rows([_step_of(job.noise, number) for job in self.jobs])

    def _rows(self, draws: Sequence[_Draw]) -> torch.Tensor:
        made: dict[tuple[str, int, _Draw], torch.Tensor] = {}
        rows = []
        for job, draw in zip(self.jobs, draws, strict=True):
            key = (job.rng, job.seed, draw)
            if key not in made:
                made[key] = self._draw(job, draw)
            rows.append(made[key][job.noise.row])
        return torch.stack(rows)

    def _draw(self, job: Job, draw: _Draw) -> torch.Tensor:
        if job.rng == "cpu":
            return _cpu_stream.draw(job.seed, draw.before, draw.rows, self.shape)
        place = sum(times for _, times in draw.before)
        numbers = cuda_randn(draw.rows * math.prod(self.shape), job.seed, place)
        return torch.from_numpy(numbers).reshape(draw.rows, *self.shape)


class _Draw(NamedTuple):
    """One draw of a stream: what is drawn before it, as (rows, times), and its own rows."""

    before: tuple[tuple[int, int], ...]
    rows: int


def _start_of(place: NoisePlace) -> _Draw:
    return _Draw((), place.fixed_rows) if place.fixed_rows else _Draw(place.before, place.rows)


def _step_of(place: NoisePlace, number: int) -> _Draw:
    own = number if place.fixed_rows else number + 1
    return _Draw((*place.before, (place.rows, own)), place.rows)
