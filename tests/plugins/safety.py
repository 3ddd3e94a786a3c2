"""A safety checker: flags images whose mean brightness is at least `--nsfw-threshold`.

To use it as a template: sdcli/stages/NAME.py, and a line in `sdcli.registry.SAFETY_CHECKERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdcli.stages.safety import CheckerSearch, Pixels, SafetyVerdict


@dataclass(frozen=True)
class BrightnessChecker:
    """See `sdcli.stages.safety.SafetyChecker`."""

    threshold: float
    name: str = "dummy"
    source: str = "no weights"

    def load(self) -> None:
        """Nothing: it has no weights."""

    def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        means = [float(image.mean()) for image in images]
        return [SafetyVerdict(self.name, mean >= self.threshold, {"brightness": round(mean, 4)}) for mean in means]


def find(search: CheckerSearch) -> BrightnessChecker:
    """The checker, which is always available."""
    return BrightnessChecker(search.nsfw_threshold)
