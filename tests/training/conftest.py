"""Makes `training/`, a folder of scripts, importable as its scripts see themselves."""

from __future__ import annotations

import sys
from pathlib import Path

TRAINING = Path(__file__).parents[2] / "training"
sys.path.insert(0, str(TRAINING))
