"""Data that ships with sdcli: model configurations, vocabularies, the builtin model."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent

BUILTIN = PACKAGE / "models" / "builtin"
VOCABULARIES = PACKAGE / "models" / "vocabularies"
CLIP = VOCABULARIES / "clip"
BERT = VOCABULARIES / "bert"


def configs() -> Path:
    """The folder of model configurations: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"
