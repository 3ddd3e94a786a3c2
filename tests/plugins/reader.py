"""A metadata reader: a text with the name "Dummy", which is a JSON object with the names of sdcli's settings.

To use it as a template: sdcli/metadata/NAME.py, and a line in `sdcli.registry.METADATA_READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, kinds, known


def read(texts: Mapping[str, str]) -> Provenance | None:
    """The settings in the text; None if there is no such text, or it is damaged."""
    values = read_object(texts.get("Dummy", ""))
    if values is None:
        return None
    settings = known(**{name: value for name, value in values.items() if name in kinds()})
    return Provenance("Dummy", settings=settings, other={"mood": values["mood"]} if "mood" in values else {})
