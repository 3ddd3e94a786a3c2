"""Running out of memory: the one place that recognizes it and turns it into an error with advice."""

from __future__ import annotations

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
