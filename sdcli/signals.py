"""Signals that end the command line: Ctrl-C, SIGTERM, and SIGHUP if the terminal is closed.

While modules are imported, and after the run, nothing has to be cleaned up: the process exits at once. In between, a
signal raises `Stopped`, so that files are closed and locks are released; a second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from sdcli.errors import EXIT_SIGNAL


class Stopped(BaseException):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def is_command_line() -> bool:
    """Whether this process runs `sdcli` or `python -m sdcli`, not a program that imports the package."""
    name = os.path.basename(getattr(sys, "argv", [""])[0])  # noqa: PTH119
    return name == "sdcli" or (name == "-m" and "sdcli" in sys.orig_argv)


def exit_at_once() -> None:
    """From now on a signal ends the process, without a traceback."""
    _handle(lambda number, _: os._exit(EXIT_SIGNAL + number))


def raise_stopped() -> None:
    """From now on a signal raises `Stopped`, once."""
    _handle(_stop)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    exit_at_once()
    raise Stopped(number)


def _handle(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup makes a process ignore SIGHUP, and some shells SIGINT in the background; that stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
