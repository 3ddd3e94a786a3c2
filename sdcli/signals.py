"""Signals that end the command line: Ctrl-C, SIGTERM, and SIGHUP if the terminal is closed.

While modules are imported and the model loads, and after the run, nothing has to be cleaned up: the process exits at
once. An exception in the middle of an import may become another one, or be swallowed. In between, a signal raises
`Stopped`, so that files are closed and locks are released; a second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TextIO

from sdcli.errors import EXIT_SIGNAL

MESSAGES = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped: the terminal was closed",
}
"""What a signal means, for the user."""
NEW_LINE = "\r\x1b[K"
"""Returns to the beginning of a terminal's line and removes what is there."""
_SHOW_CURSOR = "\x1b[?25h"


class Stopped(BaseException):
    """A signal that ends the run."""

    advice = ""
    """What to do to continue."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can remove what was written."""
    return stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def exit_at_once() -> None:
    """From now on a signal ends the process, with a message and without a traceback."""
    _handle(_exit)


def raise_stopped() -> None:
    """From now on a signal raises `Stopped`, once; only in a process in which `exit_at_once` was called."""
    if _exit in map(signal.getsignal, MESSAGES):
        _handle(_stop)


def _exit(number: int, _: FrameType | None) -> None:
    with suppress(OSError, ValueError, AttributeError):  # standard error is closed
        # Not through the stream, which the signal may have interrupted.
        begin = f"{NEW_LINE}{_SHOW_CURSOR}" if is_terminal(sys.__stderr__) else ""  # type: ignore[arg-type]
        os.write(2, f"{begin}sdcli: {MESSAGES[signal.Signals(number)]}\n".encode())
    os._exit(EXIT_SIGNAL + number)


def _stop(number: int, _: FrameType | None) -> None:
    exit_at_once()
    raise Stopped(number)


def _handle(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in MESSAGES:
        # nohup makes a process ignore SIGHUP, and some shells SIGINT in the background; that stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
