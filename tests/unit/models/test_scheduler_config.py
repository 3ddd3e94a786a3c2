"""Reading the configuration of a scheduler, with the defaults of diffusers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from diffusers import schedulers

from sdcli.errors import ModelError
from sdcli.models import scheduler_config
from sdcli.registry import SAMPLERS

PATH = Path("scheduler_config.json")
V1: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def test_the_schedule_of_stable_diffusion_1() -> None:
    noise = scheduler_config.schedule(V1, PATH, "StableDiffusionPipeline")
    assert (noise.beta_start, noise.beta_end, noise.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (noise.timestep_spacing, noise.steps_offset, noise.set_alpha_to_one) == ("leading", 1, False)
    assert (noise.prediction_type, noise.num_train_timesteps) == ("epsilon", 1000)


def test_fields_of_the_file_are_used() -> None:
    given = V1 | {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": True,
    }
    noise = scheduler_config.schedule(given, PATH, "StableDiffusionPipeline")
    assert (noise.prediction_type, noise.timestep_spacing) == ("v_prediction", "trailing")
    assert noise.rescale_betas_zero_snr and noise.set_alpha_to_one


@pytest.mark.parametrize("name", scheduler_config.SPACINGS)
def test_missing_fields_have_the_defaults_of_diffusers(name: str) -> None:
    noise = scheduler_config.schedule({"_class_name": name}, PATH, "LDMTextToImagePipeline")
    actual = noise.model_dump()
    parameters = inspect.signature(getattr(schedulers, name).__init__).parameters
    for field in scheduler_config.FIELDS:
        if field in parameters:
            assert actual[field] == parameters[field].default, field


def test_the_spacing_and_the_curve_are_those_that_the_file_names() -> None:
    default = {"_class_name": "DPMSolverMultistepScheduler"}
    by_default = scheduler_config.schedule(default, PATH, "StableDiffusionPipeline")
    assert (by_default.timestep_spacing, by_default.spacing_is_given, by_default.curve) == ("linspace", False, "")
    named = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "use_karras_sigmas": True}
    noise = scheduler_config.schedule(named, PATH, "StableDiffusionPipeline")
    assert (noise.timestep_spacing, noise.spacing_is_given, noise.curve) == ("trailing", True, "karras")


def test_the_pipeline_overrides_the_offset() -> None:
    given = {name: value for name, value in V1.items() if name != "steps_offset"}
    assert scheduler_config.schedule(given, PATH, "StableDiffusionPipeline").steps_offset == 1
    assert scheduler_config.schedule(given, PATH, "LDMTextToImagePipeline").steps_offset == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": None}, "scheduler"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
        ({"beta_start": "much"}, "beta_start is 'much'"),
    ],
)
def test_unsupported_schedules_are_refused_with_the_reason(change: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelError) as raised:
        scheduler_config.schedule(V1 | change, PATH, "StableDiffusionPipeline")
    assert what in str(raised.value)


def test_the_pipeline_of_xl_changes_no_field() -> None:
    config = V1 | {"steps_offset": 0}
    assert scheduler_config.schedule(config, PATH, "StableDiffusionXLPipeline").steps_offset == 0
    assert scheduler_config.schedule(config, PATH, "StableDiffusionPipeline").steps_offset == 1


def test_every_scheduler_has_a_sampler_that_does_the_same() -> None:
    assert scheduler_config.SAMPLERS.keys() == scheduler_config.SPACINGS.keys()
    assert set(scheduler_config.SAMPLERS.values()) <= SAMPLERS.keys()
    multistep = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2}
    found = [scheduler_config.sampler(multistep | more) for more in (
        {}, {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    )]  # fmt: skip
    assert found == ["dpmpp_2m", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde"]
