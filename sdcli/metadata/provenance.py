"""How an image was generated, with the names of sdcli's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args, get_origin

from sdcli.records import GridRecord, ImageRecord
from sdcli.settings import ImageSettings, names


@cache
def kinds() -> dict[str, type]:
    """The types of the values that are read from metadata: the settings of an image, and its model."""
    found = {}
    for name in names("image"):
        annotation = ImageSettings.model_fields[name].annotation
        types = [each for each in get_args(annotation) or (annotation,) if each is not type(None)]
        if get_origin(annotation) is tuple:
            types = [tuple]
        found[name] = types[0] if isinstance(types[0], type) else str
    return found | {"model": str, "model_hash": str}


def needed() -> list[str]:
    """The settings that are required to generate an image again."""
    return [*names("image", essential=True), "model"]


@dataclass(frozen=True)
class Provenance:
    """How an image was generated, according to the metadata in its file.

    Attributes:
        tool: the program that wrote the metadata.
        version: the version of the program; empty if unknown.
        settings: the known settings, by the names of `kinds`. A sampler that sdcli does not have keeps the tool's name.
        other: other values that may be of interest, by the tool's names.
        harmless: the names of other values that do not change the image, or that the settings contain.
        notes: limits of these values, each a sentence without a capital and full stop.
        record: the record, if sdcli wrote the file.
        unreadable: why the record cannot be read, if it cannot.
    """

    tool: str
    version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    harmless: frozenset[str] = frozenset()
    record: ImageRecord | GridRecord | None = None
    unreadable: str = ""

    @property
    def unknown(self) -> list[str]:
        """The names in `needed` that are missing from `settings`."""
        return [name for name in needed() if name not in self.settings]


def known(**values: Any) -> dict[str, Any]:
    """Returns the values that have the type in `kinds`; converts numbers in strings, and leaves out all others.

    In every tool, a negative seed stands for a random one, which is unknown.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        kind = kinds()[name]
        converted = _number(value, kind) if kind in (int, float) else _switch(value) if kind is bool else value
        if kind is tuple and isinstance(value, list) and all(isinstance(each, str) for each in value):
            converted = tuple(value)
        if isinstance(converted, kind):
            kept[name] = converted
    if kept.get("seed", 0) < 0:
        del kept["seed"]
    return kept


def _switch(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(str(value).lower())


def _number(value: Any, kind: type) -> int | float | None:
    # Python reads 1_000 as a number.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or "_" in str(value):
        return None
    try:
        # int(float(value)) would round large seeds.
        number = int(value) if isinstance(value, (int, str)) and kind is int else float(value)
        return number if math.isfinite(number) and number == kind(number) else None
    except (ValueError, OverflowError):
        return None
