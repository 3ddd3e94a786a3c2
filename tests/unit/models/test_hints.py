"""What a checkpoint says about itself beside its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdcli.models import checkpoint_config, families, hints
from sdcli.models.hints import Hints
from sdcli.registry import FAMILIES


def read(
    name: str = "model.safetensors",
    metadata: dict[str, str] | None = None,
    *tensors: str,
    spread: float | None = None,
    second: bool = False,
) -> Hints:
    return hints.read(Path(name), dict.fromkeys(tensors, ()), metadata or {}, lambda _: spread, second=second)


FEW: dict[str, tuple[str, int, str]] = {
    "sd_xl_turbo_1.0_fp16": ("Turbo", 4, ""),
    "DreamShaperXL_Turbo_v2": ("Turbo", 4, ""),
    "sdxl_lightning_4step": ("Lightning", 4, ""),
    "sdxl_lightning_8step": ("Lightning", 8, ""),
    "juggernautXL_v9Rdphoto2Lightning": ("Lightning", 4, ""),
    "LCM_Dreamshaper_v7_4k": ("LCM", 4, "lcm"),
    "realisticVisionV60B1_v51HyperVAE": ("Hyper-SD", 8, ""),
    "Hyper-SDXL-1step": ("Hyper-SD", 1, ""),
    "dmd2_sdxl_4step": ("DMD2", 4, "lcm"),
    "splashedMixDMD_v4": ("DMD", 4, "lcm"),
}


@pytest.mark.parametrize("name", FEW)
def test_a_name_that_says_few_steps(name: str) -> None:
    found = read(f"{name}.safetensors")
    assert found.few_steps is not None
    assert (found.few_steps.label, found.steps, found.few_steps.sampler) == FEW[name]


@pytest.mark.parametrize(
    "name", ["hyperrealism_v3", "HyperRealisticMix", "turbovision", "lcmtest", "sd_xl_base_1.0", "v1-5-pruned", "4step"]
)
def test_a_name_that_does_not(name: str) -> None:
    assert read(f"{name}.safetensors").few_steps is None


def test_the_title_in_the_metadata_says_it_too() -> None:
    found = read(metadata={"modelspec.title": "Coast Lightning 8 steps"})
    assert found.few_steps is not None and found.steps == 8


def test_a_model_for_a_few_steps_has_other_defaults() -> None:
    config = checkpoint_config.read(checkpoint_config.find("sd_xl_base.yaml"))
    spec = checkpoint_config.spec_of(
        config, "sdxl_lightning_8step.safetensors", read("sdxl_lightning_8step.safetensors")
    )
    assert (spec.default_steps, spec.default_scale, spec.few_steps_by) == (8, 1.0, "")
    assert (spec.schedule.timestep_spacing, spec.schedule.spacing_is_given) == ("trailing", True)
    (note,) = spec.notes
    assert all(part in note for part in ("Lightning", "by its name", "--steps 8", "--scale 1", "trailing"))
    plain = checkpoint_config.spec_of(config, "m", read())
    assert (plain.default_steps, plain.default_scale, plain.schedule.timestep_spacing) == (50, 5.0, "leading")
    lcm = checkpoint_config.spec_of(config, "m", read("x_lcm.safetensors"))
    assert (lcm.few_steps_by, lcm.default_steps, lcm.schedule.timestep_spacing) == ("lcm", 4, "leading")


PREDICTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...], str | None, str]] = {
    "a tensor": ({}, ("v_pred",), "v", "by its tensor v_pred"),
    "its metadata": ({"metadata": {"modelspec.prediction_type": "v"}}, (), "v", "by its metadata"),
    "its metadata, the usual": ({"metadata": {"modelspec.prediction_type": "epsilon"}}, (), "eps", "by its metadata"),
    "its name": ({"name": "NoobAI-XL-Vpred-v1.0.safetensors"}, (), "v", "by its name"),
    "another spelling": ({"name": "mix_v-pred.ckpt"}, (), "v", "by its name"),
    "no name": ({"name": "vprediction-of-weather.ckpt"}, (), "v", "by its name"),
    "values of 2.1": ({"spread": 0.12, "second": True}, (), "v", "by the values"),
    "values of 2.1-base": ({"spread": 0.05, "second": True}, (), "eps", "by the values"),
    "nothing, in version 2": ({"second": True}, (), "eps", "because nothing"),
    "values of another version": ({"spread": 0.12}, (), None, ""),
    "the first epsilon step of lightning": ({"name": "sdxl_lightning_1step_x0.safetensors"}, (), "x0", "by its name"),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_what_the_unet_predicts(case: str) -> None:
    given, tensors, expected, because = PREDICTIONS[case]
    options = dict(given)
    found = read(options.pop("name", "m.ckpt"), options.pop("metadata", None), *tensors, **options)
    assert found.prediction == expected and found.because.startswith(because)


def test_what_is_assumed_is_said_with_the_way_to_override_it() -> None:
    (note,) = read(spread=0.12, second=True).notes("x.ckpt", families.get("sd2"))
    assert "v-prediction" in note and "not certain" in note and "--config v2-inference.yaml" in note
    (note,) = read(spread=0.01, second=True).notes("x.ckpt", families.get("sd2"))
    assert "epsilon" in note and "--config v2-inference-v.yaml" in note
    notes = list(read("m.ckpt", {}, "v_pred", "ztsnr").notes("x.ckpt", families.get("sdxl")))
    assert "--config sd_xl_base.yaml" in notes[0] and "zero terminal" in notes[1]
    # The usual prediction, clearly said, is no news.
    assert not list(read(metadata={"modelspec.prediction_type": "epsilon"}).notes("x.ckpt", families.get("sd1")))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.configs])
def test_the_configurations_that_notes_name_ship(name: str) -> None:
    for prediction, config in families.get(name).configs.items():
        assert checkpoint_config.read(checkpoint_config.find(config)).model.params.parameterization == prediction


def test_zero_terminal_snr_begins_at_the_last_timestep() -> None:
    config = checkpoint_config.read(checkpoint_config.find("sd_xl_v.yaml"))
    zero = config.model_copy(deep=True)
    zero.model.params.rescale_betas_zero_snr = True
    assert checkpoint_config.spec_of(zero, "m").schedule.timestep_spacing == "trailing"
    assert checkpoint_config.spec_of(config, "m").schedule.timestep_spacing == "leading"


@pytest.mark.parametrize(
    ("name", "resolution", "expected"),
    [
        ("m", "768x1152", (1152, 768)), ("m", "", (1024, 1024)), ("m", "abcxdef", (1024, 1024)),
        ("m", "99999x64", (1024, 1024)), ("m", "1000x1000", (1024, 1024)), ("sd_xl_turbo_1.0", "", (512, 512)),
    ],
)  # fmt: skip
def test_the_size_of_images(name: str, resolution: str, expected: tuple[int, int]) -> None:
    config = checkpoint_config.read(checkpoint_config.find("sd_xl_base.yaml"))
    found = read(f"{name}.safetensors", {"modelspec.resolution": resolution} if resolution else {})
    spec = checkpoint_config.spec_of(config, name, found)
    assert (spec.default_height, spec.default_width) == expected
