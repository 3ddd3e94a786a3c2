"""Seeds become noise: every draw of random numbers, in the original's order.

Two generators: PyTorch's on the CPU, and that of a CUDA device, which is computed here and so gives the same numbers on
any device.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from sdcli.jobs import Job, NoisePlace
from sdcli.model_spec import ModelSpec

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


def cuda_randn(count: int, seed: int, draw: int, first: int = 0) -> NDArray[np.float32]:
    """Numbers of the `draw`-th `torch.randn` (from 0) after `manual_seed(seed)` on a CUDA device.

    Args:
        count: how many numbers.
        seed: the seed.
        draw: the number of draws before.
        first: the numbers before them in the same draw.

    Number i comes from thread i: counter (draw, i), the first two words through Box-Muller as in curand. A device caps
    its grid (multiprocessors x resident blocks x 256 threads: 40,960 numbers on a T4, 270,336 on an H200) and lets each
    thread make several numbers of a longer draw, in another order. This function gives the order without a cap.
    """
    counter = np.zeros((4, count), dtype=np.uint64)
    counter[0], counter[1] = draw & 0xFFFFFFFF, draw >> 32
    thread = np.arange(first, first + count, dtype=np.uint64)
    counter[2], counter[3] = thread & _LOW, thread >> _SHIFT
    # curand maps a word to the middle of its 2^-32 wide interval. The device computes in float32 with fused operations;
    # float64 rounded at the end is nearer to that than float32 in single steps.
    x, y = (philox(counter, seed)[:2].astype(np.float64) + 0.5) * 2.0**-32
    return np.asarray(np.sqrt(-2.0 * np.log(x)) * np.sin(2.0 * np.pi * y), dtype=np.float32)


class _CpuStream(threading.local):
    """PyTorch's CPU generator, moved to any draw of a stream by replaying the draws before it.

    The batches of a run draw in order, so the generator keeps its position, and restarts only for an earlier draw. Each
    thread has its own.
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
    """The same draws, with neighbours of equal size counted together."""
    joined: list[tuple[int, int]] = []
    for rows, times in draws:
        if joined and joined[-1][0] == rows:
            joined[-1] = (rows, joined[-1][1] + times)
        elif times:
            joined.append((rows, times))
    return joined


def _remaining(made: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """The draws of `before` that follow `made`; None if `made` is not a beginning of `before`."""
    left = _joined(before)
    for rows, times in made:
        if not left or left[0][0] != rows or left[0][1] < times:
            return None
        left[0] = (rows, left[0][1] - times)
        if not left[0][1]:
            left.pop(0)
    return left


_cpu_stream = _CpuStream()


def latent_shape(job: Job, spec: ModelSpec) -> tuple[int, int, int]:
    """(C, height/f, width/f) of the job's latents."""
    return spec.latent_channels, job.height // spec.downscale, job.width // spec.downscale


class BatchNoise:
    """The noise of a batch: each job's rows from its own place in its stream.

    Args:
        jobs: the batch.
        shape: (C, height/f, width/f) of one image's latents, or that of any other noise.
        device: where the noise goes. It is always computed on the CPU.
    """

    def __init__(self, jobs: Sequence[Job], shape: tuple[int, ...], device: torch.device) -> None:
        self.jobs = jobs
        self.shape = shape
        self.device = device

    def initial(self) -> torch.Tensor:
        """The initial noise, (batch, C, height/f, width/f), float32."""
        return self._rows([_initial(job.noise) for job in self.jobs])

    def draw(self, number: int) -> torch.Tensor:
        """The sampler's `number`-th draw (from 0), of the same shape."""
        return self._rows([_later(job.noise, number) for job in self.jobs])

    def _rows(self, draws: Sequence[_Draw]) -> torch.Tensor:
        made: dict[tuple[int, _Draw], torch.Tensor] = {}
        rows = []
        for job, draw in zip(self.jobs, draws, strict=True):
            key = (job.seed, draw)
            if job.rng == "cuda":
                # A row needs no other: its batch may have been much larger than this one.
                count, place = math.prod(self.shape), sum(times for _, times in draw.before)
                numbers = cuda_randn(count, job.seed, place, job.noise.row * count)
                rows.append(torch.from_numpy(numbers).reshape(self.shape))
                continue
            if key not in made:
                made[key] = _cpu_stream.draw(job.seed, draw.before, draw.rows, self.shape)
            rows.append(made[key][job.noise.row])
        return torch.stack(rows).to(self.device)


class SchedulerNoise(TorchFunctionMode):
    """Answers `torch.randn` inside a scheduler's step with the batch's own noise, counted by draw.

    diffusers' schedulers draw noise from a generator of their own. With this mode active around `scheduler.step` no
    scheduler is changed, and an image is the same alone, in a batch and on any device.
    """

    def __init__(self, noise: BatchNoise) -> None:
        super().__init__()
        self.noise = noise
        self.draws = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.randn, torch.randn_like):
            return func(*args, **(kwargs or {}))
        drawn = self.noise.draw(self.draws)
        self.draws += 1
        return drawn


class PipelineNoise(TorchFunctionMode):
    """Answers `torch.randn` inside a pipeline of diffusers with the noise of a batch.

    The first draw is the initial noise, in the shape that the pipeline asks for, before it packs or scales it. The
    others are those of its scheduler.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__()
        self.jobs = jobs
        self.draws = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.randn, torch.randn_like):
            return func(*args, **kwargs)
        # On the meta device, it is not known to which seed it belongs.
        asked = func(*args, **{**kwargs, "device": "meta", "generator": None})
        device = kwargs.get("device") or (args[0].device if func is torch.randn_like else None)
        if asked.shape[:1] != (len(self.jobs),):
            raise ValueError(f"It draws noise of the shape {tuple(asked.shape)} for {len(self.jobs)} images")
        noise = BatchNoise(self.jobs, tuple(asked.shape[1:]), torch.device(device or "cpu"))
        drawn = noise.draw(self.draws - 1) if self.draws else noise.initial()
        self.draws += 1
        return drawn.to(asked.dtype)


class _Draw(NamedTuple):
    """One draw of a stream: the draws before it, as (rows, times), and its own rows."""

    before: tuple[tuple[int, int], ...]
    rows: int


def _initial(place: NoisePlace) -> _Draw:
    return _Draw((), place.fixed_rows) if place.fixed_rows else _Draw(place.before, place.rows)


def _later(place: NoisePlace, number: int) -> _Draw:
    own = number if place.fixed_rows else number + 1
    return _Draw((*place.before, (place.rows, own)), place.rows)
