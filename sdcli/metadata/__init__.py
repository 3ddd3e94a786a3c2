"""Reads how an image was generated from the metadata in its file, written by sdcli or by another tool.

To add a tool, write one file with a function from the texts of a file to a `Provenance` or None, and add one line to
`sdcli.registry.METADATA_READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from sdcli.metadata import stealth, texts
from sdcli.metadata.provenance import Provenance
from sdcli.metadata.record import record_in
from sdcli.metadata.texts import RECORD_KEY
from sdcli.registry import METADATA_READERS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Provenance", "of_image", "provenance", "record_in", "texts"]

LONGEST = 4_000_000
"""Characters of a text of another tool that is read."""
MOST_VALUES = 1000
"""Other values of another tool that are kept."""


def of_image(image: Image.Image) -> Provenance | None:
    """Reads how an image was generated from the texts of its file; if they do not say it, from a text in its pixels."""
    return provenance(texts.read(image)) or provenance(stealth.texts(image))


def provenance(texts: Mapping[str, str]) -> Provenance | None:
    """Reads how an image was generated.

    Files come from anyone, so damaged metadata is treated as absent and raises no error.

    Args:
        texts: the texts of the file by name, from `texts.read`.

    Returns:
        The result of the first reader that recognizes the texts; None if none does.
    """
    long = [name for name in texts if name != RECORD_KEY and len(texts[name]) > LONGEST]
    notes = tuple(f"the text {name[:80]} is not read: it has more than {LONGEST:,} characters" for name in long[:9])
    if long:
        texts = {name: text for name, text in texts.items() if name not in long}
    found: Provenance | None
    found = next((found for read in METADATA_READERS.values() if (found := read(texts)) is not None), None)
    if found is None:
        return Provenance("not known", notes=notes) if notes else None
    if len(found.other) > MOST_VALUES:
        notes += (f"{len(found.other) - MOST_VALUES:,} other values are not shown, of {len(found.other):,}",)
        found = replace(found, other=dict(islice(found.other.items(), MOST_VALUES)))
    return replace(found, notes=found.notes + notes) if notes else found
