"""Files that ship with sdcli: model configurations, vocabularies, the builtin model."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent

BUILTIN = PACKAGE / "models" / "builtin"
VOCABULARIES = PACKAGE / "models" / "vocabularies"


def configs() -> Path:
    """The folder of model configurations: in the package if it is installed, next to it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"
