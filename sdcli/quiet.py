"""What the libraries may not do on their own: report their use over the network, print to standard error, and start
threads while they are imported.

They read these variables once, while they are imported, so `sdcli/__init__.py` imports this module first. A variable
that is already set keeps its value.
"""

from __future__ import annotations

import os

_NO_TELEMETRY = {
    # onnxruntime also writes a device id and a database of events into the cache folder. Its function
    # disable_telemetry_events() comes too late: the import has opened the connection.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
_NO_MESSAGES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
_NO_THREADS = {"OPENBLAS_NUM_THREADS": "1"}


def disable_telemetry() -> None:
    """Keep the libraries from reporting their use. For every program that imports sdcli."""
    _set(_NO_TELEMETRY)


def silence() -> None:
    """Keep warnings of the libraries, which are for programmers, off standard error. For the command line only."""
    _set(_NO_MESSAGES)


def limit_threads() -> None:
    """Keep NumPy from starting a thread for each core while it is imported. For the command line only.

    Where memory or threads are short, its OpenBLAS crashes, or interrupts the process as Ctrl-C does. PyTorch, which
    generates the images, has its own threads.
    """
    _set(_NO_THREADS)


def _set(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


disable_telemetry()
