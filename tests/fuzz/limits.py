"""What one input may take: time and memory. Counts the inputs and the most that one of them took."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

SECONDS = 10
"""Of processor time."""
MEMORY = 500 * 2**20
"""Bytes."""
_PATIENCE = 300
"""Seconds after which an input that waits counts as a hang, on a busy machine too."""


@dataclass
class Tried:
    """What was tried for one test."""

    inputs: int = 0
    slowest: float = 0.0
    memory: int = 0
    failures: int = 0


now = Tried()
"""That of the test that is running."""


class Hang(BaseException):
    """No `except` of sdcli catches it."""


def interrupt(_: int, frame: FrameType | None) -> None:
    """The handler of the signals of the timers of `limited`, which come again until one raises the error.

    In a callback of the garbage collector, such as Hypothesis has, an error would be lost and fail the test later.
    """
    if frame is None or not any(getattr(callback, "__code__", None) is frame.f_code for callback in gc.callbacks):
        raise Hang


@contextmanager
def limited() -> Iterator[None]:
    """Interrupt what takes too long.

    Raises:
        AssertionError: it took more than `SECONDS` or more than `MEMORY`.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, began = _peak_memory(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 1.5 * SECONDS, 1)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE, 1)
    try:
        yield
    except Hang:
        raise AssertionError(f"the input takes more than {SECONDS} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds, memory = time.process_time() - began, _peak_memory() - before
        now.inputs += 1
        now.slowest, now.memory = max(now.slowest, seconds), max(now.memory, memory)
    assert seconds < SECONDS, f"the input takes {seconds:.1f} s"
    assert memory < MEMORY, f"the input takes {memory / 2**20:,.0f} MB"


def _peak_memory() -> int:
    """The largest resident size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
