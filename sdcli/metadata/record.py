"""sdcli's own record: what it writes into every image, in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdcli.metadata.provenance import KINDS, Provenance, known, parsed
from sdcli.metadata.texts import RECORD_KEY


def of(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """The record; None if there is none, or it is damaged."""
    return parsed(texts.get(RECORD_KEY))


def read(texts: Mapping[str, str]) -> Provenance | None:
    """What the record says; None if it names no job."""
    record = of(texts)
    job = record.get("job") if record else None
    if record is None or not isinstance(job, dict):
        return None
    settings = known(**{name: job[name] for name in KINDS if name in job})
    return Provenance("sdcli", str(record.get("sdcli", "")), settings, record=record)
