"""The errors of sdcli. Each says what failed, why, and what to do, and has an exit code.

    SdcliError
    ├── UsageError          2    flags, or settings from a file or the environment
    ├── InputFileError      3    a prompt file, a settings file, or an image to read
    │   └── SkippedError    3    --on-error skip skipped rows or images
    ├── ModelError          4    a model that is damaged or not supported
    │   └── ModelNotFound   4
    ├── DeviceError         5    a device that does not exist, or out of memory
    ├── WithheldError       6    the safety checker withheld every image
    └── OutputError         7    images that cannot be written

Exit code 0 is success; 1 means that the answer is no (no watermark found, images differ); 70 is a bug. A signal gives
128
plus its number: 129 SIGHUP, 130 SIGINT (Ctrl-C), 141 SIGPIPE (the reader of standard output closed it), 143 SIGTERM.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

EXIT_NO = 1
EXIT_BUG = 70
EXIT_SIGNAL = 128
"""Plus the number of the signal."""


class SdcliError(Exception):
    """An error that the user can act on.

    Args:
        what: what failed, with the value that failed; one line.
        why: the reason, if `what` does not say it.
        fix: what to do.
        settings: the settings that caused it, by name. The command line adds the files or variables that set them.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, what: str, *, why: str = "", fix: str = "", settings: Iterable[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.settings = tuple(settings)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.fix) if line)


def indented(error: Exception) -> str:
    """The message of an error for a note: what follows its first line is indented, as in a message of its own."""
    return str(error).replace("\n", "\n  ")


class UsageError(SdcliError):
    """A setting that is not valid, or settings that contradict each other, from any source."""

    exit_code = 2


class InputFileError(SdcliError):
    """A prompt file, a settings file or an image that cannot be read."""

    exit_code = 3


class SkippedError(InputFileError):
    """The run is finished, except for rows and images that `--on-error skip` skipped.

    Args:
        rows: invalid rows of the prompt file.
        images: images that could not be generated.
    """

    def __init__(self, rows: int, images: int) -> None:
        parts = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in ((rows, "row"), (images, "image")) if n]
        super().__init__(f"{' and '.join(parts)} skipped (listed above); all others were generated")


class ModelError(SdcliError):
    """A model that is damaged, unreadable or not supported."""

    exit_code = 4


class ModelNotFound(ModelError):
    """A model that does not exist, or cannot be downloaded."""


class DeviceError(SdcliError):
    """A device that does not exist, or that is out of memory."""

    exit_code = 5


class WithheldError(SdcliError):
    """The safety checker withheld every image of the run."""

    exit_code = 6


class OutputError(SdcliError):
    """Images that cannot be written, for example to a read-only folder or a full disk."""

    exit_code = 7
