"""The loop of a training that can be killed at any time: budget, checkpoint, log."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from dataset import load_checkpoint, write_atomically


def learning_rate(
    peak: float, step: int, done: float, *, warmup: int = 100, cool_down: float = 1.0, floor: float = 0.0
) -> float:
    """Linear warm-up over `warmup` steps, then constant, then a cosine over the last `cool_down` of the budget.

    A schedule that is constant most of the time lets a run continue with a larger budget.

    Args:
        done: fraction of the budget that is spent, 0 to 1.
        floor: lowest value of the cosine, as a fraction of the peak.
    """
    cooled = min(1.0, max(0.0, (done - 1 + cool_down) / cool_down))
    return peak * min(1.0, (step + 1) / warmup) * max(floor, 0.5 * (1 + math.cos(math.pi * cooled)))


def autocast(options: argparse.Namespace) -> torch.autocast:
    """The autocast context that `--mixed-precision` and `--device` select."""
    device = torch.device(options.device)
    return torch.autocast(device.type, torch.bfloat16, enabled=options.mixed_precision == "bf16")


def optimise(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One optimisation step with this learning rate; the norm of the gradient is clipped at 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()


@dataclass(frozen=True)
class Budget:
    """How long a training lasts, summed over all runs: a number of minutes, or else of steps."""

    minutes: float | None = None
    steps: int | None = None

    @classmethod
    def of(cls, options: argparse.Namespace, *, share: float = 1.0) -> Budget:
        """The budget on the command line; of minutes only a `share`, 0 to 1."""
        return cls(options.minutes and share * options.minutes, options.steps)

    def spent(self, step: int, seconds: float) -> float:
        """Fraction of the budget that is spent; 1 or more at the end."""
        return seconds / 60 / self.minutes if self.minutes else step / (self.steps or 1)


class Session:
    """The steps of a training, over all runs.

    Attributes:
        step: number of steps, including the current one.
        samples: number of samples in these steps.
        seconds: training time.

    Args:
        folder: folder for `checkpoint.pt` and `log.jsonl`; created if it does not exist.
        parts: what the checkpoint holds, by name: anything with `state_dict` and `load_state_dict`. If there is a
            checkpoint, the constructor loads it into them.
        device: device of the parts.
        save_seconds: time between two checkpoints.
        samples: number of samples in a step.
        extra: further values of the checkpoint.
        on_save: called after each checkpoint, for example to measure.
        accelerator: of a training in several processes. Its main process keeps the time and writes the files.
    """

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        parts: Mapping[str, Any],
        device: torch.device,
        *,
        save_seconds: float,
        samples: int = 0,
        extra: Mapping[str, Any] | None = None,
        on_save: Callable[[], None] = lambda: None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.folder = folder
        self.step, self.samples, self.seconds = 0, 0, 0.0
        self._budget = budget
        self._parts = parts
        self._save_seconds = save_seconds
        self._samples = samples
        self._extra = extra or {}
        self._on_save = on_save
        self._accelerator = accelerator
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint = folder / "checkpoint.pt"
        if self._checkpoint.exists():
            # accelerate calls the CPU of a process "cpu:0", which torch.load does not know.
            state = load_checkpoint(folder, "cpu" if device.type == "cpu" else device)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.seconds = state["step"], state["seconds"]
            # Older checkpoints have no number of samples: they are of one process with a constant batch size.
            self.samples = state.get("samples", self.step * samples)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Yields the index of each step, from 0, and the fraction of the budget that is spent, 0 to 1.

        Saves a checkpoint every `save_seconds`, and after the last step.
        """
        started, before, saved = time.monotonic(), self.seconds, time.monotonic()
        while (done := self._budget.spent(self.step, self.seconds)) < 1:
            self.step += 1
            self.samples += self._samples
            yield self.step - 1, done
            now = time.monotonic()
            self.seconds = self._agreed(before + now - started)
            if now - saved > self._save_seconds:
                self._save()
                saved = now
        self._save()

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the files."""
        return self._accelerator is None or self._accelerator.is_main_process

    def log(self, **values: float) -> None:
        """Appends a line to the log and prints it."""
        if not self.main:
            return
        row = json.dumps({"step": self.step, "seconds": self.seconds, **values})
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(row + "\n")
        print(row, flush=True)

    def _agreed(self, seconds: float) -> float:
        # With a clock each, the processes would not all stop after the same step.
        if self._accelerator is None:
            return seconds
        return float(broadcast(torch.tensor(seconds, device=self._accelerator.device)))

    def _save(self) -> None:
        if not self.main:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {**self._extra, "step": self.step, "samples": self.samples, "seconds": self.seconds}
        write_atomically(self._checkpoint, lambda path: torch.save(state, path))
        self._on_save()
