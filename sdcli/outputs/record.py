"""What a file says of itself."""

from __future__ import annotations

from typing import Any

from sdcli.version import VERSION


def new_record(**parts: Any) -> dict[str, Any]:
    """The parts of a record, headed by the version that made it.

    JSON types only; never a time, so that the same job gives the same file.
    """
    return {"sdcli": VERSION, **parts}
