"""Whether this process is the command line; if so, Ctrl-C ends it without a traceback from here on.

Imports only what Python itself has imported: `signal` imports other modules, in which Ctrl-C is an exception.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys


def is_command_line() -> bool:
    """Whether this process runs `sdcli` or `python -m sdcli`, not a program that imports the package."""
    name = os.path.basename(getattr(sys, "argv", [""])[0])  # noqa: PTH119
    return name == "sdcli" or (name == "-m" and "sdcli" in sys.orig_argv)


IS_COMMAND_LINE = is_command_line()
"""As the process was started."""

if IS_COMMAND_LINE and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
