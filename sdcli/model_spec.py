"""What is known of a model before its weights are read: enough to plan and refuse jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class NoiseSchedule(BaseModel):
    """How the model was trained to see noise; the fields and their names are those of diffusers' schedulers.

    `timestep_spacing` "leading" with `steps_offset` 1 stands for the original script's own list of timesteps;
    "trailing" and "linspace" for diffusers'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    rescale_betas_zero_snr: bool = False


class ModelSpec(BaseModel):
    """A model as plans see it. Reading it takes configuration files only, never weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """As records name it: "builtin", a checkpoint's file name, a folder's name or a hub id."""
    kind: Literal["builtin", "original", "diffusers"]
    text: Literal["clip", "bert"]
    latent_channels: int
    """C: channels of the latents."""
    downscale: int
    """f: image pixels per latent pixel, on each side."""
    size_multiple: int
    """Height and width must be multiples of this (64 for Stable Diffusion v1)."""
    default_height: int
    default_width: int
    default_scale: float
    """Guidance: the original's 7.5 for every model but the builtin one, which draws more cleanly with less."""
    schedule: NoiseSchedule
    watermark_method: str
    """The watermark that suits the model: "dwtDct" as the original, "robust" for the builtin model."""
    has_safety_checker: bool = False
    """Whether the model's own folder carries a CLIP safety checker."""
