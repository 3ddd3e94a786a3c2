"""Where an image comes from, told with sdcli's own names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdcli.pipeline.samplers import SAMPLERS

KINDS: Mapping[str, type] = {
    "prompt": str,
    "negative_prompt": str,
    "seed": int,
    "rng": str,
    "steps": int,
    "sampler": str,
    "scale": float,
    "eta": float,
    "width": int,
    "height": int,
    "precision": str,
    "model": str,
    "model_hash": str,
}
"""What is asked of every image, by the names of settings and jobs, in the order in which it is shown."""
NEEDED = ("prompt", "seed", "steps", "sampler", "scale", "width", "height", "model")
"""Without these an image cannot be drawn again."""


@dataclass(frozen=True)
class Provenance:
    """What a file says of how its image was drawn.

    settings: by the names of `KINDS`, as far as they are known. A sampler that sdcli has not keeps its foreign name.
    other: what else the tool wrote that a person may want to see, by the tool's own names.
    notes: what is to be known about the reading, in sentences' parts.
    record: sdcli's own record, whole.
    """

    tool: str
    version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None

    @property
    def unknown(self) -> list[str]:
        """Which of `NEEDED` the file does not tell."""
        return [name for name in NEEDED if name not in self.settings]


def known(**values: Any) -> dict[str, Any]:
    """The values that are of their kind, numbers in words as numbers; the rest is left out."""
    kept = {}
    for name, value in values.items():
        converted = _number(value, KINDS[name]) if KINDS[name] in (int, float) else value
        if isinstance(converted, KINDS[name]):
            kept[name] = converted
    return kept


def _number(value: Any, kind: type) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        # Not by way of float, which has no room for large seeds.
        number = int(value) if isinstance(value, (int, str)) and kind is int else float(value)
        return number if math.isfinite(number) and number == kind(number) else None
    except (ValueError, OverflowError):
        return None


def parsed(text: str | None) -> dict[str, Any] | None:
    """A JSON object; None if it is none, broken, or nested too deep."""
    try:
        # ComfyUI writes NaN, which is no JSON.
        value = json.loads(text or "", parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def own_sampler(name: str) -> str:
    """The name in `SAMPLERS` of what other tools call `name`, where it is the same sampler; else `name`."""
    others = {sampler.title.casefold(): own for own, sampler in SAMPLERS.items()}
    others |= {"dpmpp_2m": "dpm_solver", "pndm": "plms", "k_dpmpp_2m": "dpm_solver"}
    return others.get(name.casefold(), name)
