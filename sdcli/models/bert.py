"""The text encoder of LAION-400M: a transformer with normalization first, 8 heads of 64, and no attention mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

CONFIG: Any = LDMBertConfig  # has no types

# Names in x-transformers and in diffusers. In x-transformers, layers with even numbers are attention, odd ones MLPs.
OUTER = {
    "token_emb.": "model.embed_tokens.",
    "pos_emb.emb.": "model.embed_positions.",
    "norm.": "model.layer_norm.",
    "to_logits.": "to_logits.",
}
ATTENTION = {
    "0.": "self_attn_layer_norm.",
    "1.to_q.": "self_attn.q_proj.",
    "1.to_k.": "self_attn.k_proj.",
    "1.to_v.": "self_attn.v_proj.",
    "1.to_out.": "self_attn.out_proj.",
}
FEED_FORWARD = {"0.": "final_layer_norm.", "1.net.0.0.": "fc1.", "1.net.2.": "fc2."}


class BertTextModel(LDMBertModel):  # type: ignore[no-untyped-call]
    """diffusers' model, called in a way that does not make transformers 5 warn."""

    def forward(self, input_ids: torch.Tensor) -> Any:  # type: ignore[override]
        """Token ids (batch, tokens) -> an output whose first field is (batch, tokens, width)."""
        return super().forward(input_ids, return_dict=True)  # type: ignore[no-untyped-call]


def build(config: Mapping[str, Any]) -> BertTextModel:
    """The text encoder with arbitrary weights.

    Args:
        config: arguments of `LDMBertConfig`.
    """
    return BertTextModel(CONFIG(**config))


def name(original: str) -> str:
    """The name in `LDMBertModel` of a tensor that has this name in x-transformers; unknown names are unchanged."""
    layer = re.match(r"attn_layers\.layers\.(\d+)\.", original)
    if layer:
        number = int(layer[1])
        prefix, names = f"model.layers.{number // 2}.", FEED_FORWARD if number % 2 else ATTENTION
        original = original[layer.end() :]
    else:
        prefix, names = "", OUTER
    for old, new in names.items():
        if original.startswith(old):
            return prefix + new + original.removeprefix(old)
    return original


def original_name(name: str) -> str:
    """The name in x-transformers of a tensor in `LDMBertModel`: `name` the other way round."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    if not layer:
        return next((old + name.removeprefix(new) for old, new in OUTER.items() if name.startswith(new)), name)
    rest = name[layer.end() :]
    for step, names in enumerate((ATTENTION, FEED_FORWARD)):
        for old, new in names.items():
            if rest.startswith(new):
                return f"attn_layers.layers.{2 * int(layer[1]) + step}.{old}{rest.removeprefix(new)}"
    return name
