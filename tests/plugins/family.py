"""A model family: Stable Diffusion 1 that reads its prompts backwards, character by character.

To use it as a template: sdcli/models/families/NAME.py, and a line in `sdcli.registry.FAMILIES`. A real family has its
own `text_encoders`, which decide the folders that belong to it; only the source in `source.py` names this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdcli.models.families.sd1 import StableDiffusion1

if TYPE_CHECKING:
    from sdcli.models.conditioning import Encoding
    from sdcli.models.model import Model


class Backwards(StableDiffusion1):
    """Stable Diffusion 1 with reversed prompts."""

    text_encoders = ()
    tensor_prefixes = ()
    embedder = ""
    checkpoint_models = ""

    def encode(self, model: Model, prompts: Sequence[str]) -> list[Encoding]:
        """The embeddings of the reversed prompts."""
        return super().encode(model, [prompt[::-1] for prompt in prompts])


FAMILY = Backwards()
