"""How an image was generated, with the names of sdcli's settings."""

from __future__ import annotations

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
"""Types of the settings that are read from metadata, by name, in the order in which they are displayed."""
NEEDED = ("prompt", "seed", "steps", "sampler", "scale", "width", "height", "model")
"""The settings that are required to generate the image again."""


@dataclass(frozen=True)
class Provenance:
    """How an image was generated, according to the metadata in its file.

    Attributes:
        tool: the program that wrote the metadata.
        version: the version of the program; empty if unknown.
        settings: the known settings, by the names of `KINDS`. A sampler that sdcli does not have keeps the tool's name.
        other: other values that may be of interest, by the tool's names.
        notes: limits of these values, each a sentence without a capital and full stop.
        record: the whole record, if sdcli wrote the file.
    """

    tool: str
    version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None

    @property
    def unknown(self) -> list[str]:
        """The names in `NEEDED` that are missing from `settings`."""
        return [name for name in NEEDED if name not in self.settings]


def known(**values: Any) -> dict[str, Any]:
    """Returns the values that have the type in `KINDS`; converts numbers in strings, and leaves out all others."""
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
        # int(float(value)) would round large seeds.
        number = int(value) if isinstance(value, (int, str)) and kind is int else float(value)
        return number if math.isfinite(number) and number == kind(number) else None
    except (ValueError, OverflowError):
        return None


def own_sampler(name: str) -> str:
    """Returns the name in `SAMPLERS` of the sampler that other tools call `name`; `name` if sdcli does not have it."""
    others = {sampler.title.casefold(): own for own, sampler in SAMPLERS.items()}
    others |= {"dpmpp_2m": "dpm_solver", "pndm": "plms", "k_dpmpp_2m": "dpm_solver"}
    return others.get(name.casefold(), name)
