"""The training loop: budget, checkpoint, log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from arguments import training_parser
from session import Budget, Session, learning_rate

CPU = torch.device("cpu")


class Counter:
    """Something to save and load."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def train(folder: Path, budget: Budget, samples: int = 4) -> tuple[Session, Counter, list[tuple[int, float]]]:
    counter = Counter()
    session = Session(folder, budget, {"counter": counter}, CPU, save_seconds=60, samples=samples)
    steps = []
    for step, done in session:
        counter.value += 1
        steps.append((step, done))
    return session, counter, steps


def test_a_larger_budget_continues_from_the_checkpoint(tmp_path: Path) -> None:
    _, _, steps = train(tmp_path, Budget(steps=2))
    assert steps == [(0, 0.0), (1, 0.5)]
    session, counter, steps = train(tmp_path, Budget(steps=4), samples=8)
    assert [step for step, _ in steps] == [2, 3]
    assert (session.step, session.samples, counter.value) == (4, 2 * 4 + 2 * 8, 4)
    assert train(tmp_path, Budget(steps=4))[2] == [], "the budget is spent"


def test_a_budget_of_minutes_ends(tmp_path: Path) -> None:
    session, _, steps = train(tmp_path, Budget(minutes=1e-4))
    assert steps and session.seconds >= 6e-3
    assert train(tmp_path, Budget(minutes=1e-4))[2] == []


def test_checkpoints_without_a_number_of_samples_load(tmp_path: Path) -> None:
    torch.save({"counter": {"value": 3}, "step": 3, "seconds": 1.0}, tmp_path / "checkpoint.pt")
    session, counter, _ = train(tmp_path, Budget(steps=4))
    assert (session.samples, counter.value) == (16, 4)


def test_a_checkpoint_is_saved_before_it_is_measured(tmp_path: Path) -> None:
    saved = []

    def measure() -> None:
        saved.append(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"])
        session.log(loss=1.0)

    session = Session(tmp_path, Budget(steps=2), {}, CPU, save_seconds=-1, extra={"size": 64}, on_save=measure)
    assert [step for step, _ in session] == [0, 1]
    assert saved == [1, 2, 2], "after each step, and at the end"
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["size"] == 64
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2]


def test_budget_on_the_command_line() -> None:
    parser = training_parser("", batch=4)
    minutes = parser.parse_args(["--minutes", "10"])
    assert Budget.of(minutes, share=0.25) == Budget(minutes=2.5)
    assert Budget.of(parser.parse_args(["--steps", "3"]), share=0.25) == Budget(steps=3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--steps", "3", "--minutes", "1"])


def test_learning_rate_schedule() -> None:
    rates = [learning_rate(2.0, step, step / 100, warmup=10, cool_down=0.4, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:61] == [2.0] * 52
    assert rates[80] == pytest.approx(1.0) and rates[100] == pytest.approx(0.2)
