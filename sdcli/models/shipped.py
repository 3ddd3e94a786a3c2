"""Files that ship with sdcli: model configurations, vocabularies, the builtin models."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent

BUILTIN = PACKAGE / "models" / "builtin"
FAST = PACKAGE / "models" / "builtin-fast"
"""The parts in which the few-step model differs from `BUILTIN`."""
NAMES = ("builtin", "builtin-fast")
"""Values of `--model`, and names in records, of the two. They know the same words."""
VOCABULARIES = PACKAGE / "models" / "vocabularies"


def configs() -> Path:
    """The folder of model configurations: in the package if it is installed, next to it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"
