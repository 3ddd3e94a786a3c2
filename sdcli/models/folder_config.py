"""The fields of the configuration files in a model folder, with the values that a model can have.

The libraries that load the parts read these files again and check little: a wrong type fails in the first step of a
sampler, and a large number takes all memory. So every field that decides shapes or arithmetic has its type and range
here, and all other numbers have a limit.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from sdcli.settings import LARGEST_SIDE

MAX_NUMBER = 2**24
"""Of any number in a configuration; the largest that models have is the size of a vocabulary."""
MAX_DOWNSCALE = 128
MAX_CLIP_SIDE, MAX_PATCHES = 1024, 64
"""Of the images that CLIP checks: pixels, and patches on each side. The largest CLIP has 336 and 24."""

Channels = Annotated[int, Field(ge=1, le=2**16)]
Layers = Annotated[int, Field(ge=1, le=128)]
TinyBlocks = list[Annotated[int, Field(ge=0, le=128)]]
"""Blocks of AutoencoderTiny; a level may have none beside its convolution."""
Blocks = Annotated[list[Channels], Field(min_length=1, max_length=12)]
Heads = Annotated[int, Field(ge=1, le=4096)]
Kernel = Annotated[int, Field(ge=1, le=31)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Positive = Annotated[FiniteFloat, Field(gt=0)]


class PartFile(BaseModel):
    """The `config.json` of a part."""

    MOST: ClassVar[int] = MAX_NUMBER

    @model_validator(mode="before")
    @classmethod
    def _limit(cls, values: Any) -> Any:
        _require_reasonable(values, cls.MOST)
        return values


def _require_reasonable(value: Any, most: int, name: str = "the file") -> None:
    """Raise `ValueError` for a number that no model has."""
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= most):
        raise ValueError(f"{name} is {str(value)[:20]}, out of range")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        _require_reasonable(entry, most, name if isinstance(key, int) else str(key)[:80])


class UNetFile(PartFile):
    """The UNet's file, with the fields of inputs other than a prompt."""

    in_channels: Channels
    out_channels: Channels
    block_out_channels: Blocks
    sample_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    layers_per_block: Layers | list[Layers] = 2
    transformer_layers_per_block: Layers | list[Layers | list[Layers]] = 1
    reverse_transformer_layers_per_block: list[Layers | list[Layers]] | None = None
    attention_head_dim: Heads | list[Heads] | None = 8
    num_attention_heads: Heads | list[Heads] | None = None
    norm_num_groups: Channels | None = 32
    norm_eps: Annotated[FiniteFloat, Field(ge=0)] = 1e-5
    downsample_padding: Annotated[int, Field(ge=0, le=16)] = 1
    conv_in_kernel: Kernel = 3
    conv_out_kernel: Kernel = 3
    mid_block_scale_factor: Positive = 1.0
    resnet_out_scale_factor: Positive = 1.0
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: Channels | None = None
    projection_class_embeddings_input_dim: Channels | None = None
    encoder_hid_dim_type: str | None = None
    time_cond_proj_dim: Channels | None = None
    cross_attention_dim: Channels | list[Channels] | None = 1280


class VAEFile(PartFile):
    """The VAE's file."""

    latent_channels: Channels = 4
    block_out_channels: Blocks | None = None
    encoder_block_out_channels: Blocks | None = None
    decoder_block_out_channels: Blocks | None = None
    layers_per_block: Layers = 1
    num_encoder_blocks: TinyBlocks | None = None
    num_decoder_blocks: TinyBlocks | None = None
    norm_num_groups: Channels = 32
    upsampling_scaling_factor: Annotated[int, Field(ge=1, le=MAX_DOWNSCALE)] = 2
    scaling_factor: Positive = 1.0
    shift_factor: FiniteFloat | None = None
    latents_mean: list[FiniteFloat] | None = None
    latents_std: list[FiniteFloat] | None = None

    @property
    def downscale(self) -> int:
        """f: image pixels per latent pixel, on each side."""
        blocks = self.decoder_block_out_channels or self.block_out_channels or [64] * 4
        return int(self.upsampling_scaling_factor ** (len(blocks) - 1))


class TextEncoderFile(PartFile):
    """The file of a text encoder: the fields of CLIP and those of BERT."""

    max_position_embeddings: Annotated[int, Field(ge=3, le=100_000)] = 77
    vocab_size: Annotated[int, Field(ge=1)] | None = None
    num_hidden_layers: Layers | None = None
    encoder_layers: Layers | None = None
    num_attention_heads: Heads | None = None
    encoder_attention_heads: Heads | None = None
    head_dim: Channels | None = None
    hidden_size: Channels | None = None
    d_model: Channels | None = None
    projection_dim: Channels = 512
    text_config: TextEncoderFile | None = None
    """Files of a whole CLIP model have the fields here."""


class VisionFile(BaseModel):
    """The image encoder's fields in the file of a CLIP."""

    hidden_size: Channels = 768
    intermediate_size: Channels = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    num_channels: Literal[3] = 3
    image_size: Annotated[int, Field(ge=1, le=MAX_CLIP_SIDE)] = 224
    patch_size: Annotated[int, Field(ge=1, le=MAX_CLIP_SIDE)] = 32

    @model_validator(mode="after")
    def _limit_patches(self) -> VisionFile:
        if not 1 <= self.image_size // self.patch_size <= MAX_PATCHES:
            raise ValueError(f"image_size is {self.image_size} and patch_size {self.patch_size}")
        return self


class SafetyCheckerFile(PartFile):
    """The file of a CLIP safety checker."""

    projection_dim: Channels = 512
    vision_config: VisionFile = VisionFile()
    vision_config_dict: VisionFile | None = None
    """Fields of old files, which replace those of `vision_config`."""


class ProcessorFile(PartFile):
    """The `preprocessor_config.json` of CLIP, whose largest number is the side of an image."""

    MOST = MAX_CLIP_SIDE
