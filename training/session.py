"""Training that may be killed at any time: its clock, its checkpoint, its log."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from dataset import write_atomically


def learning_rate(
    peak: float, step: int, done: float, *, warmup: int = 100, cool_down: float = 1.0, floor: float = 0.0
) -> float:
    """Up in a straight line over `warmup` steps, level, then down a cosine over the last `cool_down` of `done`, 0 to 1.

    Level for most of the way, a run can be given more time without starting its schedule anew.

    Args:
        floor: the least of the cosine, as a share of the peak.
    """
    cooled = min(1.0, max(0.0, (done - 1 + cool_down) / cool_down))
    return peak * min(1.0, (step + 1) / warmup) * max(floor, 0.5 * (1 + math.cos(math.pi * cooled)))


def new_parser(description: str | None, *, batch: int, lr: float | None = None) -> argparse.ArgumentParser:
    """A parser of the options that all trainers on one device have; `batch` and `lr`, if it has one, are defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time, over all runs since the first")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    parser.add_argument("--batch", type=int, default=batch)
    if lr is not None:
        parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    return parser


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One step down the gradient, whose norm is clipped at 1, at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()


class Session:
    """The steps of a training on one device, over all runs since the first.

    Args:
        folder: for `checkpoint.pt` and `log.jsonl`; made if need be.
        minutes: training time in all.
        parts: what learns, by name in the checkpoint; anything with `state_dict` and `load_state_dict`. If there is a
            checkpoint, they are as it has them from here on.
        device: where they are.
        save_seconds: time between two checkpoints.
        beside: further values for whoever reads the checkpoint.
        on_save: called with each checkpoint, to measure, say.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        parts: Mapping[str, Any],
        device: torch.device,
        *,
        save_seconds: float,
        beside: Mapping[str, Any] | None = None,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.minutes = minutes
        self.step, self.seconds = 0, 0.0
        self._parts = parts
        self._save_seconds = save_seconds
        self._beside = beside or {}
        self._on_save = on_save
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint = folder / "checkpoint.pt"
        if self._checkpoint.exists():
            state: dict[str, Any] = torch.load(self._checkpoint, map_location=device, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.seconds = state["step"], state["seconds"]

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Number of each step, from 0, and the share of the time that is over, 0 to 1; saved now and then, and last."""
        started, before, saved = time.monotonic(), self.seconds, time.monotonic()
        while (done := self.seconds / 60 / self.minutes) < 1:
            self.step += 1
            yield self.step - 1, done
            now = time.monotonic()
            self.seconds = before + now - started
            if now - saved > self._save_seconds:
                self._save()
                saved = now
        self._save()

    def log(self, **values: float) -> None:
        """Put a line into the log, and on standard output."""
        row = json.dumps({"step": self.step, "seconds": self.seconds, **values})
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(row + "\n")
        print(row, flush=True)

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {**self._beside, "step": self.step, "seconds": self.seconds}
        write_atomically(self._checkpoint, lambda path: torch.save(state, path))
        self._on_save()
