"""Reads the record that sdcli writes into every image."""

from __future__ import annotations

from collections.abc import Mapping

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, kinds, known
from sdcli.metadata.texts import RECORD_KEY
from sdcli.records import GridRecord, ImageRecord, UnreadableRecord, read_record


def record_in(texts: Mapping[str, str]) -> ImageRecord | GridRecord | None:
    """Returns the record in the texts of a file; None if it is missing or cannot be read."""
    values = read_object(texts.get(RECORD_KEY, ""))
    try:
        return None if values is None else read_record(values)
    except UnreadableRecord:
        return None


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from the record; returns None if it has no job."""
    values = read_object(texts.get(RECORD_KEY, ""))
    job = values.get("job") if values else None
    if values is None or not isinstance(job, dict):
        return None
    settings = known(**{name: job[name] for name in kinds() if name in job})
    version = str(values.get("sdcli", ""))
    try:
        return Provenance("sdcli", version, settings, record=read_record(values))
    except UnreadableRecord as error:
        note = f"the record cannot be read: {error}"
        return Provenance("sdcli", version, settings, notes=(note,), unreadable=str(error))
