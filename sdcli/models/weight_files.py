"""Which files of a diffusers model contain the weights of a part."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# Full precision first, in either format; then safetensors first.
_VARIANTS = (None, "fp16")
_STEMS = {"safetensors": "(diffusion_pytorch_model|model)", "bin": "(diffusion_pytorch_model|pytorch_model)"}


@dataclass(frozen=True)
class WeightFiles:
    """The files of one part's weights: one, or several with an index."""

    part: str
    """The part's folder, in the model's folder."""
    files: tuple[str, ...]
    """Relative to the model's folder, with forward slashes."""
    variant: str | None
    safetensors: bool

    @property
    def weights(self) -> list[str]:
        """The files that contain tensors: all but the index."""
        return [name for name in self.files if not name.endswith(".json")]


def find(names: Collection[str], part: str) -> WeightFiles | None:
    """The files to load for a part; None if there are none.

    Args:
        names: the model's files, relative to its folder, with forward slashes.
        part: the part's folder.
    """
    for variant in _VARIANTS:
        for extension, stem in _STEMS.items():
            dotted = rf"\.{variant}" if variant else ""
            file = re.compile(rf"{part}/{stem}{dotted}(-\d+-of-\d+)?\.{extension}")
            index = re.compile(rf"{part}/{stem}\.{extension}\.index{dotted}\.json")
            files = [name for name in names if file.fullmatch(name)]
            if files:
                files += [name for name in names if index.fullmatch(name)]
                return WeightFiles(part, tuple(sorted(files)), variant, extension == "safetensors")
    return None
