"""Prompts become conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdcli.models.conditioning import Composition, Conditioning
from sdcli.models.families import get
from sdcli.models.model import Model

if TYPE_CHECKING:
    from sdcli.jobs import Job

__all__ = ["Composition", "Conditioning", "encode"]


def encode(model: Model, jobs: Sequence[Job]) -> Conditioning | tuple[Composition, ...]:
    """The conditioning of a batch, by the model's family; one row for each job, in order."""
    return get(model.spec.family).condition(model, jobs)
