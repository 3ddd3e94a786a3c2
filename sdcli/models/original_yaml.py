"""The fields of an original checkpoint's YAML configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from sdcli.model_spec import Beta, Timesteps

CLIP_LARGE = "openai/clip-vit-large-patch14"


class UNetParams(BaseModel):
    in_channels: PositiveInt
    out_channels: PositiveInt
    model_channels: PositiveInt
    attention_resolutions: list[int]
    num_res_blocks: PositiveInt
    channel_mult: list[PositiveInt] = Field(min_length=1)
    num_heads: int = -1
    num_head_channels: int = -1
    use_spatial_transformer: Literal[True]
    use_linear_in_transformer: bool = False
    transformer_depth: PositiveInt = 1
    context_dim: PositiveInt


class VAESizes(BaseModel):
    z_channels: PositiveInt
    in_channels: PositiveInt = 3
    out_ch: PositiveInt = 3
    ch: PositiveInt
    ch_mult: list[PositiveInt] = Field(min_length=1)
    num_res_blocks: PositiveInt


class VAEParams(BaseModel):
    embed_dim: int
    ddconfig: VAESizes


class TextParams(BaseModel):
    """The parameters of all text encoders; others than those below are kept in `model_extra`, for families to read."""

    model_config = ConfigDict(extra="allow")

    version: str = CLIP_LARGE
    """FrozenCLIPEmbedder: a hub id, or a folder with the text encoder's config.json and its vocabulary."""
    n_embed: PositiveInt = 1280
    n_layer: PositiveInt = 32
    max_seq_len: PositiveInt = 77
    vocab_size: PositiveInt = 30522
    """BERTEmbedder: width, number of layers, number of tokens, size of the vocabulary."""


class UNetConfig(BaseModel):
    params: UNetParams


class VAEConfig(BaseModel):
    target: str
    params: VAEParams


class TextConfig(BaseModel):
    target: str
    params: TextParams = Field(default_factory=TextParams)


class ModelParams(BaseModel):
    linear_start: Beta = 1e-4
    linear_end: Beta = 2e-2
    timesteps: Timesteps = 1000
    beta_schedule: Literal["linear", "sqrt_linear", "cosine"] = "linear"
    parameterization: Literal["eps", "v", "x0"] = "eps"
    conditioning_key: str = "crossattn"
    image_size: PositiveInt = 64
    scale_factor: float = 1.0
    use_ema: bool = True
    """Use the averaged weights if the checkpoint has them; the original script does so by default."""
    unet_config: UNetConfig
    first_stage_config: VAEConfig
    cond_stage_config: TextConfig


class ModelSection(BaseModel):
    params: ModelParams


class OriginalConfig(BaseModel):
    """The fields of the YAML that affect images; all others are ignored, as they concern training."""

    model: ModelSection

    @property
    def embedder(self) -> str:
        """The class name of the text encoder, such as "FrozenCLIPEmbedder"."""
        return class_name(self.model.params.cond_stage_config.target)

    @property
    def downscale(self) -> int:
        """f: image pixels per latent pixel, on each side."""
        return 1 << (len(self.model.params.first_stage_config.params.ddconfig.ch_mult) - 1)


def class_name(target: str) -> str:
    """The class at the end of a YAML `target`."""
    return target.rsplit(".", 1)[-1]
