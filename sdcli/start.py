"""The first and the last that the command line does: before it imports anything, which takes a second, and at its end.

The first words appear at once, for the commands that take long. On a terminal they are removed when there is more to
say.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

from sdcli import first, quiet, signals

IMPORTING = "importing libraries"
_SILENT = {"--quiet", "--help", "-h", "--dry-run", "--dry_run"}
_erasable = False


def begin() -> None:
    """Take over signals, set the number of threads, print the first words. For the command line only."""
    signals.exit_at_once()
    quiet.limit_threads()
    command, *flags = [*sys.argv[1:], ""]
    # Parsing the arguments needs imports, so this looks at them as they are.
    if command in ("txt2img", "rerun") and _SILENT.isdisjoint(flags):
        _first_words()


def _first_words() -> None:
    global _erasable
    if sys.stderr is None:
        return
    _erasable = signals.is_terminal(sys.stderr)
    with suppress(OSError):  # reported at the next line
        # In one call: Ctrl-C may come between two.
        sys.stderr.write(f"sdcli: {IMPORTING}" if _erasable else f"sdcli: {IMPORTING}\n")
        sys.stderr.flush()


def erase_first_words() -> None:
    """Remove the first words from a terminal."""
    global _erasable
    if _erasable:
        _erasable = False
        print(signals.NEW_LINE, end="", file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """End the process.

    Python would free every object and unmap every library first, which takes two seconds after PyTorch. So the process
    ends after the functions that libraries registered for its end. Its streams must be flushed.
    """
    with suppress(OSError):
        erase_first_words()
    if not first.IS_COMMAND_LINE:  # a program that calls the command line as a function
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # what these functions print, if anything
            stream.flush()
    os._exit(code)
