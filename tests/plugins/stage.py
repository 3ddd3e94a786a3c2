"""A stage: mirrors each generated image, and records how bright its left half was before.

To use it as a template: sdcli/stages/NAME.py, and a line in `sdcli.registry.STAGES`, where its turn is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sdcli.stages import Outcome, StageContext


class MirrorStage:
    """See `sdcli.stages.Stage`."""

    name = "mirror"
    works_on: Literal["image"] = "image"

    def check(self, height: int, width: int) -> str:
        return ""

    def prepare(self, device: str) -> str:
        return ""

    def load(self) -> None:
        """Nothing: it has no weights."""

    def apply(self, images: Sequence[Any]) -> list[Outcome]:
        return [self._outcome(image) for image in images]

    def _outcome(self, image: Any) -> Outcome:
        left = image[:, : image.shape[1] // 2]
        return Outcome(image[:, ::-1].copy(), {"left": round(float(left.mean()), 4)}, note="was mirrored")


def stage(context: StageContext) -> MirrorStage:
    """The stage, which is part of every run. One that a setting turns on returns None where it is off."""
    return MirrorStage()
