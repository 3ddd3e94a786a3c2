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
