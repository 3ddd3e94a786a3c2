"""Small random Stable Diffusion XL models, for tests against diffusers' `StableDiffusionXLPipeline`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from samplers import SIZE, SmallModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdcli.models.shipped import VOCABULARIES

POOLED, TIMES = 24, 8
"""Width of the pooled embedding, and of the embedding of each size."""
WIDTHS = 16, 32
"""Of the text encoders."""


@dataclass
class SmallXL(SmallModel):
    """As `SmallModel`, with the parts of Stable Diffusion XL.

    Attributes:
        zeros: `force_zeros_for_empty_prompt`.
    """

    zeros: bool = True

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 8, block_out_channels=(32, 32, 64), layers_per_block=1,
            cross_attention_dim=sum(WIDTHS), attention_head_dim=(2, 4, 8), norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=TIMES, projection_class_embeddings_input_dim=6 * TIMES + POOLED, **self.unet,
        ).eval()  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=8, latent_channels=4, scaling_factor=0.13025,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).eval()  # fmt: skip
        one, two = (
            CLIPTextConfig(
                hidden_size=width, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
                projection_dim=POOLED, eos_token_id=2, hidden_act=act,
            )
            for width, act in zip(WIDTHS, ("quick_gelu", "gelu"), strict=True)
        )  # fmt: skip
        text_encoder, text_encoder_2 = CLIPTextModel(one).eval(), CLIPTextModelWithProjection(two).eval()
        # So that the embeddings, which no normalization follows, and the pooled embedding matter.
        for encoder in (text_encoder, text_encoder_2):
            encoder.get_input_embeddings().weight.data *= 50
        text_encoder_2.text_projection.weight.data *= 10
        with torch.inference_mode():
            added = {"text_embeds": torch.randn(4, POOLED), "time_ids": torch.full((4, 6), 64.0)}
            output = unet(
                torch.randn(4, 4, 8, 8), 500, torch.randn(4, 77, sum(WIDTHS)), added_cond_kwargs=added,
                return_dict=False,
            )[0]  # fmt: skip
            unet.conv_out.weight /= output.std()
            decoded = vae.decode(torch.randn(4, 4, 8, 8) / vae.config.scaling_factor, return_dict=False)[0]
            vae.decoder.conv_out.weight /= 2 * decoded.std()
        scheduler = getattr(diffusers, self.scheduler["_class_name"]).from_config(dict(self.scheduler))
        tokenizers = [CLIPTokenizer.from_pretrained(VOCABULARIES / "clip", **pad) for pad in ({}, {"pad_token": "!"})]
        StableDiffusionXLPipeline(
            vae, text_encoder, text_encoder_2, tokenizers[0], tokenizers[1], unet, scheduler,
            force_zeros_for_empty_prompt=self.zeros, add_watermarker=False,
        ).save_pretrained(self.folder)  # fmt: skip
        (self.folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(self.scheduler))

    @cached_property
    def pipeline(self) -> Any:
        """Diffusers' pipeline."""
        made = StableDiffusionXLPipeline.from_pretrained(self.folder, add_watermarker=False)
        made.set_progress_bar_config(disable=True)
        return made
