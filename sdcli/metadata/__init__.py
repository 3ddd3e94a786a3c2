"""Reads how an image was generated from the metadata in its file, written by sdcli or by another tool.

To add a tool, write one file with a function from the texts of a file to a `Provenance` or None, and add one line to
`sdcli.registry.METADATA_READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdcli.metadata import texts
from sdcli.metadata.provenance import Provenance
from sdcli.metadata.record import record_in
from sdcli.registry import METADATA_READERS

__all__ = ["Provenance", "provenance", "record_in", "texts"]


def provenance(texts: Mapping[str, str]) -> Provenance | None:
    """Reads how an image was generated.

    Files come from anyone, so damaged metadata is treated as absent and raises no error.

    Args:
        texts: the texts of the file by name, from `texts.read`.

    Returns:
        The result of the first reader that recognizes the texts; None if none does.
    """
    return next((found for read in METADATA_READERS.values() if (found := read(texts)) is not None), None)
