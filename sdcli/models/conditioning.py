"""What a UNet needs beside latents and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of a batch.

    Attributes:
        prompt: embeddings of the prompts, (batch, tokens, width).
        negative: embeddings of the negative prompts, padded to the same shape.
        added: further conditions of some families by the names that the UNet gives them, such as pooled embeddings and
            time ids: (of the prompts, of the negative prompts).
    """

    prompt: torch.Tensor
    negative: torch.Tensor
    added: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prompt.shape != self.negative.shape:
            raise ValueError(f"prompt and negative prompt differ: {self.prompt.shape} and {self.negative.shape}")

    def unet_arguments(self, *, guided: bool) -> dict[str, Any]:
        """Keyword arguments of `UNet2DConditionModel`.

        Args:
            guided: the batch is doubled for classifier-free guidance, with the negative half first as in the original.
        """
        if not guided:
            arguments: dict[str, Any] = {"encoder_hidden_states": self.prompt}
            added = {name: prompt for name, (prompt, _) in self.added.items()}
        else:
            arguments = {"encoder_hidden_states": torch.cat([self.negative, self.prompt])}
            added = {name: torch.cat([negative, prompt]) for name, (prompt, negative) in self.added.items()}
        return arguments | ({"added_cond_kwargs": added} if added else {})


Stages = tuple[tuple[int, torch.Tensor], ...]
"""Embeddings up to a step: (last step, embeddings of (tokens, width)), in order; all have the same shape."""


@dataclass(frozen=True)
class Composition:
    """The conditioning of one image whose guidance has several parts, or changes with the steps.

    Attributes:
        parts: the parts of the guidance: (weight, embeddings).
        negative: the embeddings of the negative prompt.
    """

    parts: tuple[tuple[float, Stages], ...]
    negative: Stages

    @property
    def is_simple(self) -> bool:
        """Whether it is one prompt, with guidance that has one part of the weight 1 and never changes."""
        return len(self.parts) == 1 == self.parts[0][0] and len(self.parts[0][1]) == 1 == len(self.negative)


def at(stages: Stages, step: int) -> torch.Tensor:
    """The embeddings in a step, from 0; a stage that ends with step n includes the step n, see `Part.at`."""
    return next((embeddings for last, embeddings in stages if step <= last), stages[-1][1])
