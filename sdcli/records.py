"""What a file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdcli.settings import Settings
from sdcli.version import VERSION

BESIDES_JOB = {
    "model",
    "revision",
    "safety_checker",
    "safety_model",
    "nsfw_threshold",
    "on_unsafe",
    "watermark_method",
}


def new_record(**parts: Any) -> dict[str, Any]:
    """The parts of a record, headed by the version that made it.

    JSON types only; never a time, so that the same job gives the same file.
    """
    return {"sdcli": VERSION, **parts}


def asked(settings: Settings) -> dict[str, Any]:
    """The settings that a job does not tell and that are needed to draw it again, where they are not the defaults.

    Paths as they were given, with `~` for the home folder: its name is nobody's business.
    """
    said = settings.model_dump(include=BESIDES_JOB, exclude_defaults=True)
    if settings.checkpoint is not None:
        said |= {"ckpt": settings.ckpt, "config": settings.config}
    return {name: at_home(value) if isinstance(value, str) else value for name, value in said.items()}


def at_home(path: str) -> str:
    """The path, with `~` for the home folder."""
    home = str(Path.home())
    if path == home:
        return "~"
    return f"~/{path.removeprefix(home).lstrip('/')}" if path.startswith(f"{home}/") else path
