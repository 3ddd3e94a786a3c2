"""What a UNet needs beside latents and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Encoding:
    """One text, as the UNet takes it.

    Attributes:
        embeddings: (tokens, width).
        added: further conditions of some families by the names that the UNet gives them, such as a pooled embedding and
            time ids; each (numbers,).
    """

    embeddings: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of_encoders(cls, each: Sequence[Encoding]) -> Encoding:
        """What several text encoders give for one text: the embeddings of each token one after another."""
        if len(each) == 1:
            return each[0]
        added = {name: value for one in each for name, value in one.added.items()}
        return cls(torch.cat([one.embeddings for one in each], dim=-1), added)

    @classmethod
    def of_chunks(cls, each: Sequence[Encoding]) -> Encoding:
        """The encoding of a text from those of its chunks. As in AUTOMATIC1111's web UI, the first one is pooled."""
        return cls(torch.cat([one.embeddings for one in each]), each[0].added)

    @classmethod
    def of_shares(cls, each: Sequence[tuple[float, Encoding]]) -> Encoding:
        """The sum of encodings, each multiplied by its share."""
        embeddings = torch.stack([share * one.embeddings for share, one in each]).sum(0)
        names = each[0][1].added
        return cls(
            embeddings, {name: torch.stack([share * one.added[name] for share, one in each]).sum(0) for name in names}
        )


def stacked(each: Sequence[Encoding]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The embeddings of texts, (texts, tokens, width), and their further conditions, (texts, numbers)."""
    added = {name: torch.stack([one.added[name] for one in each]) for name in each[0].added}
    return torch.stack([one.embeddings for one in each]), added


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

    @classmethod
    def of(cls, prompts: Sequence[Encoding], negatives: Sequence[Encoding]) -> Conditioning:
        """The conditioning of a batch from that of each image, whose shapes are the same."""
        (prompt, added), (negative, negative_added) = stacked(prompts), stacked(negatives)
        return cls(prompt, negative, {name: (value, negative_added[name]) for name, value in added.items()})

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


Stages = tuple[tuple[int, Encoding], ...]
"""What is encoded up to a step: (last step, encoding), in order; the embeddings of all have the same shape."""


@dataclass(frozen=True)
class Composition:
    """The conditioning of one image whose guidance has several parts, or changes with the steps.

    Attributes:
        parts: the parts of the guidance, each with its weight.
        negative: the negative prompt.
    """

    parts: tuple[tuple[float, Stages], ...]
    negative: Stages

    @property
    def is_simple(self) -> bool:
        """Whether it is one prompt, with guidance that has one part of the weight 1 and never changes."""
        return len(self.parts) == 1 == self.parts[0][0] and len(self.parts[0][1]) == 1 == len(self.negative)


def at(stages: Stages, step: int) -> Encoding:
    """The encoding in a step, from 0; a stage that ends with step n includes the step n, see `Part.at`."""
    return next((encoding for last, encoding in stages if step <= last), stages[-1][1])
