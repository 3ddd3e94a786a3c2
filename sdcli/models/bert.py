"""LAION-400M's text encoder: a transformer with norms first, 8 heads of 64 at any width, and no attention mask."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

from sdcli.models.checkpoint_config import TextParams

CONFIG: Any = LDMBertConfig  # bears no types

# x-transformers' names and diffusers', layer by layer: x-transformers' even layers attend, its odd ones feed forward.
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
    """diffusers' model, asked for its output in a way that transformers 5 does not warn of."""

    def forward(self, input_ids: torch.Tensor) -> Any:  # type: ignore[override]
        """Tokens (batch, tokens) -> an output whose first field is (batch, tokens, width)."""
        return super().forward(input_ids, return_dict=True)  # type: ignore[no-untyped-call]


def build(params: TextParams) -> BertTextModel:
    """The text encoder in the sizes of an original configuration, with weights still to come."""
    return BertTextModel(
        CONFIG(
            vocab_size=params.vocab_size,
            max_position_embeddings=params.max_seq_len,
            encoder_layers=params.n_layer,
            d_model=params.n_embed,
            encoder_ffn_dim=4 * params.n_embed,
            encoder_attention_heads=8,
            head_dim=64,
        )
    )


def name(theirs: str) -> str:
    """LDMBertModel's name for one of x-transformers'; the name itself if there is none."""
    layer = re.match(r"attn_layers\.layers\.(\d+)\.", theirs)
    if layer:
        number = int(layer[1])
        prefix, names = f"model.layers.{number // 2}.", FEED_FORWARD if number % 2 else ATTENTION
        theirs = theirs[layer.end() :]
    else:
        prefix, names = "", OUTER
    for old, new in names.items():
        if theirs.startswith(old):
            return prefix + new + theirs.removeprefix(old)
    return theirs
