"""Prompts become embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdcli.models.model import Model


def encode(model: Model, prompts: Sequence[str]) -> torch.Tensor:
    """The text encoder's last hidden state, (batch, tokens, width).

    As in the original: padded to full length without an attention mask; what is longer is cut.
    """
    # Each different prompt once: the batch of the original holds one prompt several times over.
    unique = list(dict.fromkeys(prompts))
    ids = model.tokenizer(
        unique,
        truncation=True,
        max_length=model.tokenizer.model_max_length,
        padding="max_length",
        return_tensors="pt",
    )["input_ids"]
    embeddings: torch.Tensor = model.text_encoder(ids.to(model.device))[0]
    return embeddings[[unique.index(prompt) for prompt in prompts]]
