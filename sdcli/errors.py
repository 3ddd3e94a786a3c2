"""Everything that can go wrong, each with what failed, why, what to do and the exit code.

    SdcliError
    ├── UsageError          2    the flags themselves, or settings from a file or the environment
    ├── InputFileError      3    a prompt file, a settings file, or an image to read
    │   └── SkippedError    3    --on-error skip left something out
    ├── ModelError          4    a model that is missing, broken or of another kind
    │   └── ModelNotFound   4
    ├── DeviceError         5    a device that is not there, or out of memory
    ├── WithheldError       6    every image withheld by the safety checker
    └── OutputError         7    images that cannot be written

Exit code 0 is success, 1 means "the answer is no" (no mark found, images differ), 70 a bug. A signal gives 128 and
its number: 129 SIGHUP, 130 SIGINT (Ctrl-C), 141 SIGPIPE (whoever read standard output has gone), 143 SIGTERM.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_NO = 1
EXIT_BUG = 70
EXIT_SIGNAL = 128
"""Plus the signal's number: 129 SIGHUP, 130 SIGINT, 141 SIGPIPE, 143 SIGTERM."""


class SdcliError(Exception):
    """An error that a person can act on.

    Args:
        what: what failed, with the value that made it fail; one line.
        why: the reason, where `what` does not say it already.
        fix: what to do about it.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.fix) if line)


class UsageError(SdcliError):
    """A setting, or settings that contradict each other, wherever they were said."""

    exit_code = 2


class InputFileError(SdcliError):
    """A prompt file, a settings file, or an image to read, that cannot be read as one."""

    exit_code = 3


class SkippedError(InputFileError):
    """The run is done but for rows and images that `--on-error skip` left out.

    Args:
        rows: rows of the prompt file that are wrong.
        images: images that could not be drawn.
    """

    def __init__(self, rows: int, images: int) -> None:
        parts = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in ((rows, "row"), (images, "image")) if n]
        super().__init__(
            f"left out: {' and '.join(parts)}", why="--on-error is skip; each was told of.", fix="All else is drawn."
        )


class ModelError(SdcliError):
    """A model that is broken, unreadable or of another architecture."""

    exit_code = 4


class ModelNotFound(ModelError):
    """A model that is not where it should be, or cannot be fetched."""


class DeviceError(SdcliError):
    """A device that is not there, or ran out of memory."""

    exit_code = 5


class WithheldError(SdcliError):
    """Every image of the run was withheld by the safety checker."""

    exit_code = 6


class OutputError(SdcliError):
    """Images that cannot be written: a read-only folder, a full disk."""

    exit_code = 7
