"""What image files say of how they were drawn, in the words of sdcli and of other tools.

A tool is one file with a `read`, and one entry of `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sdcli.metadata import a1111, comfyui, invokeai, record
from sdcli.metadata.provenance import Provenance

# Each knows its own texts; the first that answers is taken. Values that a tool wrote down go before those that are read
# out of a graph of nodes.
READERS: tuple[Callable[[Mapping[str, str]], Provenance | None], ...] = (
    record.read,
    invokeai.read,
    a1111.read,
    comfyui.read,
)


def provenance(texts: Mapping[str, str]) -> Provenance | None:
    """How an image was drawn, by the texts of its file (`texts.read`); None if they say nothing of it.

    Anyone can write anything into a file: whatever is damaged counts as not there.
    """
    return next((found for read in READERS if (found := read(texts)) is not None), None)
