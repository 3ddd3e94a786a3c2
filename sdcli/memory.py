"""Running out of memory, open files or threads: the one place that recognizes it and turns it into an error."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sdcli.errors import DeviceError, SdcliError

LESS_MEMORY = "Pass a smaller --n_samples, --H or --W, or --device cpu."
"""What to do if a run does not fit in memory."""

# In lower case. "memory" alone is not enough: "illegal memory access" is a fault, and paths contain anything.
_PHRASES = (
    "out of memory",
    "enough memory",
    "insufficient memory",
    "allocate memory",
    "memory allocation",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
    "could not create a primitive",  # oneDNN
    "could not create a memory object",
    "failed to map segment",  # the loader of shared libraries
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or another library means that memory ran out, on a card or off it.

    PyTorch has a class for this on a card only, and raises `RuntimeError` for some cases there too, so messages are
    read as well. Those of sdcli's own errors are not.
    """
    if isinstance(error, SdcliError):
        return False
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    message = str(error).lower()
    return any(phrase in message for phrase in _PHRASES)


def shortage(error: BaseException) -> DeviceError | None:
    """The error to report if the process ran out of memory, open files or threads, whatever part of sdcli found out.

    Libraries notice this anywhere, and their errors become errors of sdcli about a file or a model, so causes are
    looked at, too. None if it is another error.
    """
    if isinstance(error, DeviceError):
        return error
    why = str(error).split("\n", 1)[0]
    if is_out_of_memory(error):
        return DeviceError("out of memory", why=why, fix=LESS_MEMORY)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return DeviceError("too many open files", why=why, fix="Raise the limit, for example with: ulimit -n 1024")
    if (isinstance(error, RuntimeError) and "start new thread" in why) or "pthread_create failed" in why:
        return DeviceError("no more threads can be started", why=why, fix="Raise the limit of processes (ulimit -u).")
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None if before is None else shortage(before)


@contextmanager
def memory_errors(what: str, *, fix: str) -> Iterator[None]:
    """Turn running out of memory into an error that says what to do.

    Args:
        what: what failed, for the error.
        fix: what to do about it.

    Raises:
        DeviceError: instead of the exception of Python or PyTorch.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(what, why=str(error).split("\n", 1)[0], fix=fix) from error
