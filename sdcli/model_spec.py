"""What is known about a model before its weights are read: enough to plan jobs and to refuse them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Timesteps = Annotated[int, Field(ge=1, le=100_000)]
"""Timesteps of the training. All known models have 1000; a sampler's tables have an entry for each."""
Beta = Annotated[float, Field(gt=0, lt=1)]


CURVES = ("karras", "exponential", "beta")
"""Schedules that diffusers computes from the largest and the smallest sigma of a spacing."""


class NoiseSchedule(BaseModel):
    """The noise schedule that the model was trained with. Fields have the names that diffusers' schedulers use.

    `timestep_spacing` "leading" with `steps_offset` 1 gives the timesteps of the original script; "trailing" and
    "linspace" give those of diffusers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_train_timesteps: Timesteps = 1000
    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    spacing_is_given: bool = True
    """Whether the model's files name the spacing. If not, each sampler that the original lacks has one of its own."""
    curve: Literal["", "karras", "exponential", "beta"] = ""
    """The schedule of noise levels that the model's files name, for samplers that take it."""
    steps_offset: int = Field(default=1, ge=0)
    set_alpha_to_one: bool = False
    alpha_is_given: bool = True
    """The same for `set_alpha_to_one`."""
    rescale_betas_zero_snr: bool = False


class ModelSpec(BaseModel):
    """The properties of a model that planning needs. They come from configuration files only, never from weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The name in records: "builtin", the file name of a checkpoint, the name of a folder, or a hub id."""
    family: str
    """A name in `sdcli.registry.FAMILIES`."""
    latent_channels: int
    """C: number of channels of the latents."""
    downscale: int
    """f: image pixels per latent pixel, on each side."""
    size_multiple: int
    """Height and width must be multiples of this (64 for Stable Diffusion v1)."""
    default_height: int
    default_width: int
    only_default_size: bool = False
    """Whether the model generates images of its default size only, as the builtin models."""
    default_scale: float
    """Guidance scale: the family's, 7.5 for Stable Diffusion 1 as in the original script; lower for the builtin model,
    which gives it cleaner images; 1 for a model that was distilled with guidance and needs none."""
    default_steps: int
    """Sampling steps: 50 as in the original script; fewer for the builtin models, whose images do not change after."""
    default_sampler: str = "ddim"
    """A name in `sdcli.registry.SAMPLERS`, ddim as in the original script; "auto" for the scheduler of a pipeline of
    diffusers, which sdcli does not replace."""
    schedule: NoiseSchedule
    few_steps_by: str = ""
    """The sampler that a model needs that was distilled for a few steps of it, if its files say so: "lcm" or "tcd"."""
    guidance_embedding: int = 0
    """Width of the embedding of the guidance scale that the UNet takes, for models that have learned guidance and so
    need no evaluations without the prompt (LCM); 0 for all others."""
    latent_scale: float = 0.0
    """What latents are multiplied by before they are denoised; 0 if it is not known."""
    text_width: int = 0
    """Width of the text embeddings that the UNet takes; 0 if it is not known."""
    zero_negative_prompt: bool = False
    """Whether zeros stand for the embeddings of an empty negative prompt (`force_zeros_for_empty_prompt`)."""
    watermark_method: str
    """The watermark method for the model: "dwtDct" as in the original script, "robust" for the builtin models."""
    nsfw_threshold: float = 0.5
    """Score in [0, 1] from which opennsfw flags an image of the model."""
    notes: tuple[str, ...] = ()
    """What is assumed of the model, because its files do not say it clearly; shown before a run."""
    has_safety_checker: bool = False
    """Whether the model's folder contains a CLIP safety checker."""
