"""Reads the record that sdcli writes into every image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdcli.json_text import read_object
from sdcli.metadata.provenance import KINDS, Provenance, known
from sdcli.metadata.texts import RECORD_KEY


def of(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the record; None if it is missing or damaged."""
    return read_object(texts.get(RECORD_KEY, ""))


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from the record; returns None if it has no job."""
    record = of(texts)
    job = record.get("job") if record else None
    if record is None or not isinstance(job, dict):
        return None
    settings = known(**{name: job[name] for name in KINDS if name in job})
    return Provenance("sdcli", str(record.get("sdcli", "")), settings, record=record)
