"""The parts of the builtin model: their shapes, and how they are put together."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

TEXT_WIDTH = 128
MAX_TOKENS = 77

NEUTRAL_WORD = "picture"
"""A word of many captions that says nothing about what is drawn: unknown words are read as it."""


def new_unet(size: int) -> UNet2DConditionModel:
    """The denoiser of `size`-pixel pictures: latents `(batch, 4, size/8, size/8)`, text `(batch, 77, 128)`."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=size // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        attention_head_dim=(2, 3, 5),  # diffusers means the number of heads
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )
    return unet


def new_text_encoder(vocabulary: int, bos: int, eos: int) -> CLIPTextModel:
    """A CLIP text encoder for `vocabulary` tokens, of which `bos` and `eos` (also the padding) frame every text."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def new_vae() -> AutoencoderTiny:
    """Pictures RGB in [-1, 1] `(batch, 3, height, width)` <-> normalised latents `(batch, 4, height/8, width/8)`."""
    vae: AutoencoderTiny = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(4, 4, 3, 1),
    )
    return vae


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas with v-prediction; steps counted from the very last timestep."""
    scheduler: DDIMScheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    return scheduler


class Denoiser(nn.Module):
    """UNet and text encoder in one module: they are trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Noisy latents `(batch, 4, h, w)`, timesteps `(batch,)`, tokens `(batch, 77)` -> v, shaped as the latents."""
        embeddings = self.text_encoder(input_ids=tokens).last_hidden_state
        prediction: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=embeddings).sample
        return prediction


class Vocabulary:
    """The tokens that occur in the captions, numbered from 0, with a tokenizer that knows all of CLIP's.

    Training a row for each of CLIP's 49,408 tokens would spend most of the time on rows that no caption touches.
    """

    def __init__(self, tokenizer_folder: Path, captions: Iterable[str]) -> None:
        # Not CLIPTokenizer(vocab_file=..., merges_file=...): transformers 5 then takes every token for an unknown one.
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        texts = sorted({"", *captions})
        full = self._full(texts)
        self.known: Tensor = torch.unique(full)
        """CLIP's number of each of our tokens, ascending `(vocabulary,)`."""
        self._rows = dict(zip(texts, torch.searchsorted(self.known, full), strict=True))

    def _full(self, texts: Sequence[str]) -> Tensor:
        encoded = self.tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True)
        return torch.tensor(encoded["input_ids"])

    def __len__(self) -> int:
        return len(self.known)

    def own(self, token: int) -> int:
        """Our number of CLIP's token."""
        return int(torch.searchsorted(self.known, token))

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Our tokens of captions that were given at the start: `(texts, 77)`."""
        return torch.stack([self._rows[text] for text in texts])

    def new_text_encoder(self) -> CLIPTextModel:
        """An untrained text encoder with one row a known token."""
        return new_text_encoder(len(self), self.own(self.tokenizer.bos_token_id), self.own(self.tokenizer.eos_token_id))

    @torch.no_grad()
    def widen(self, trained: CLIPTextModel) -> CLIPTextModel:
        """The same text encoder over all of CLIP's tokens; those never trained get the row of `NEUTRAL_WORD`.

        Rows of zeros are no silence: a single one turned "a photograph of a red apple" into something brown.
        """
        full = new_text_encoder(len(self.tokenizer), self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        weights = copy.copy(trained.state_dict())
        name = next(key for key in weights if key.endswith("token_embedding.weight"))
        own = weights[name].cpu().float()
        neutral = self.own(self.tokenizer.encode(NEUTRAL_WORD, add_special_tokens=False)[0])
        rows = own[neutral].repeat(len(self.tokenizer), 1)
        rows[self.known] = own
        weights[name] = rows
        full.load_state_dict(weights)
        return full


def new_pipeline(denoiser: Denoiser, vocabulary: Vocabulary, vae: AutoencoderTiny) -> StableDiffusionPipeline:
    """All parts as one pipeline, which draws and which saves itself as a diffusers folder."""
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": vocabulary.widen(denoiser.text_encoder),
        "tokenizer": vocabulary.tokenizer,
        "unet": denoiser.unet,
        "scheduler": new_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    for part in ("vae", "text_encoder", "unet"):
        parts[part].eval()
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    return pipeline
