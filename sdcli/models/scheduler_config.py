"""The configuration of a diffusers scheduler, read as the noise schedule that the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sdcli.errors import ModelError
from sdcli.model_spec import CURVES, NoiseSchedule
from sdcli.models import json_files

FIELDS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing",
          "steps_offset", "set_alpha_to_one", "rescale_betas_zero_snr")  # fmt: skip

# Defaults of diffusers for fields that are missing in the file. CHANGED_BETAS lists the schedulers with other ones.
DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": False,
}
SPACINGS: Mapping[str, Literal["leading", "linspace"]] = {
    "DDIMScheduler": "leading",
    "PNDMScheduler": "leading",
    "DDPMScheduler": "leading",
    "LCMScheduler": "leading",
    "TCDScheduler": "leading",
    "LMSDiscreteScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace",
    "KDPM2AncestralDiscreteScheduler": "linspace",
    "DPMSolverMultistepScheduler": "linspace",
    "DPMSolverSinglestepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
    "UniPCMultistepScheduler": "linspace",
    "DPMSolverSDEScheduler": "linspace",
    "SASolverScheduler": "linspace",
}
SAMPLERS: Mapping[str, str] = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DDPMScheduler": "ddpm",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "LMSDiscreteScheduler": "lms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2_a",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "DEISMultistepScheduler": "deis",
    "UniPCMultistepScheduler": "unipc",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "SASolverScheduler": "sa_solver",
}
"""The sampler that does what a scheduler does."""
FEW_STEPS_BY: Mapping[str, str] = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}
"""The samplers of schedulers that only models for a few steps have."""
CHANGED_BETAS: Mapping[str, Mapping[str, Any]] = {
    "LCMScheduler": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "TCDScheduler": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2DiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2AncestralDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "DPMSolverSDEScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "PNDMScheduler": {"set_alpha_to_one": False},
}


def sampler(config: Mapping[str, Any]) -> str:
    """The sampler that does what the scheduler of a `scheduler_config.json` does, which `schedule` has read."""
    if config.get("algorithm_type") == "sde-dpmsolver++":
        return "dpmpp_3m_sde" if config.get("solver_order") == 3 else "dpmpp_2m_sde"
    return SAMPLERS[str(config["_class_name"])]


def schedule(config: Mapping[str, Any], path: Path, pipeline: str) -> NoiseSchedule:
    """The schedule in a `scheduler_config.json`.

    Args:
        config: the file's content.
        path: the file, for errors.
        pipeline: the class name of the model's pipeline, which overrides one field in diffusers.

    Raises:
        ModelError: no sampler of sdcli supports the schedule.
    """
    name = str(config.get("_class_name", ""))
    if name not in SPACINGS:
        raise ModelError(
            f"the scheduler {name or 'without a name'} in {path} is not supported",
            why="sdcli supports models trained with a schedule of betas, as Stable Diffusion 1 and 2 are.",
        )
    if config.get("trained_betas") is not None:
        raise ModelError(f"{path} sets trained_betas", why="sdcli has no samplers for custom betas.")
    defaults = {**DEFAULTS, "timestep_spacing": SPACINGS[name], **CHANGED_BETAS.get(name, {})}
    fields = {field: config.get(field, defaults[field]) for field in FIELDS}
    fields["spacing_is_given"] = "timestep_spacing" in config
    fields["alpha_is_given"] = "set_alpha_to_one" in config
    fields["curve"] = next((curve for curve in CURVES if config.get(f"use_{curve}_sigmas")), "")
    if pipeline.startswith("StableDiffusion") and not pipeline.startswith("StableDiffusionXL"):
        fields["steps_offset"] = 1  # as the pipeline in diffusers does, even if the file has another value
    try:
        schedule = NoiseSchedule.model_validate(fields, strict=True)
    except ValidationError as error:
        raise ModelError(
            f"the noise schedule in {path} is not supported", why=json_files.invalid_fields(error)
        ) from error
    if schedule.steps_offset >= schedule.num_train_timesteps:
        raise ModelError(
            f"the noise schedule in {path} is not supported",
            why=f"num_train_timesteps is {schedule.num_train_timesteps}, and the first timestep is "
            f"{schedule.steps_offset}.",
        )
    return schedule
