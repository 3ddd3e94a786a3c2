"""The YAML beside a checkpoint: where it is found, what it says, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdcli.errors import ModelError, ModelNotFound
from sdcli.models import checkpoint_config, shipped

V1 = "configs/stable-diffusion/v1-inference.yaml"
LAION = "configs/latent-diffusion/txt2img-1p4B-eval.yaml"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", [V1, "stable-diffusion/v1-inference.yaml", "v1-inference.yaml", LAION, "txt2img-1p4B-eval.yaml"]
)
def test_shipped_configurations_are_found_from_anywhere(elsewhere: Path, name: str) -> None:
    found = checkpoint_config.find(name)
    assert found.is_relative_to(shipped.configs()) and found.name == Path(name).name


def test_one_in_the_working_folder_comes_first(elsewhere: Path) -> None:
    ours = elsewhere / V1
    ours.parent.mkdir(parents=True)
    ours.write_text("model: {}")
    assert checkpoint_config.find(V1).read_text() == "model: {}"


def test_a_missing_one_names_those_that_ship(elsewhere: Path) -> None:
    with pytest.raises(ModelNotFound) as raised:
        checkpoint_config.find("v2-inference.yaml")
    assert V1 in raised.value.fix and LAION in raised.value.fix


def test_an_installed_package_has_them_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the wheel is laid out; in a checkout they lie beside the package."""
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "sdcli")
    assert shipped.configs() == tmp_path / "configs"
    (tmp_path / "sdcli" / "configs").mkdir(parents=True)
    assert shipped.configs() == tmp_path / "sdcli" / "configs"


def test_version_1_has_its_real_sizes() -> None:
    config = checkpoint_config.read(checkpoint_config.find(V1))
    unet, vae = config.model.params.unet_config.params, config.model.params.first_stage_config.params.ddconfig
    assert (unet.model_channels, unet.channel_mult, unet.num_res_blocks, unet.num_heads) == (320, [1, 2, 4, 4], 2, 8)
    assert (unet.attention_resolutions, unet.context_dim) == ([4, 2, 1], 768)
    assert (vae.ch, vae.ch_mult, vae.num_res_blocks, vae.z_channels) == (128, [1, 2, 4, 4], 2, 4)
    assert config.model.params.scale_factor == 0.18215
    spec = config.spec("m.ckpt")
    assert (spec.text, spec.latent_channels, spec.downscale, spec.size_multiple) == ("clip", 4, 8, 64)
    assert (spec.default_height, spec.default_width, spec.default_scale) == (512, 512, 7.5)
    assert spec.watermark_method == "dwtDct"
    noise = spec.schedule
    assert (noise.beta_start, noise.beta_end, noise.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (noise.prediction_type, noise.timestep_spacing, noise.steps_offset) == ("epsilon", "leading", 1)
    assert not noise.set_alpha_to_one


def test_laion_has_its_real_sizes() -> None:
    config = checkpoint_config.read(checkpoint_config.find(LAION))
    text = config.model.params.cond_stage_config.params
    assert config.spec("m.ckpt").text == "bert"
    assert (text.n_embed, text.n_layer, text.max_seq_len, text.vocab_size) == (1280, 32, 77, 30522)
    assert config.model.params.unet_config.params.context_dim == 1280


def changed(path: Path, **changes: Any) -> Path:
    """Version 1's YAML with fields of model.params changed, dots for levels; None takes one out."""
    content = yaml.safe_load(checkpoint_config.find(V1).read_text())
    for name, value in changes.items():
        *levels, last = name.split("__")
        at = content["model"]["params"]
        for level in levels:
            at = at[level]
        at[last] = value
        if value is None:
            del at[last]
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_schedule_is_read(tmp_path: Path) -> None:
    config = changed(tmp_path / "m.yaml", parameterization="v", linear_end=0.02, beta_schedule="cosine", timesteps=500)
    noise = checkpoint_config.read(config).spec("m").schedule
    assert (noise.prediction_type, noise.beta_end, noise.num_train_timesteps) == ("v_prediction", 0.02, 500)
    assert noise.beta_schedule == "squaredcos_cap_v2"


def test_numbers_may_be_written_as_yaml_does_not_know_them(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-4 for a word."""
    assert checkpoint_config.read(changed(tmp_path / "m.yaml", linear_start="1e-4")).model.params.linear_start == 1e-4


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no unet": ({"unet_config": None}, "unet_config: Field required"),
    "a size that is none": ({"unet_config__params__model_channels": "wide"}, "model_channels"),
    "a size of nothing": ({"unet_config__params__num_res_blocks": 0}, "num_res_blocks"),
    "no levels": ({"unet_config__params__channel_mult": []}, "channel_mult"),
    "inpainting": ({"conditioning_key": "hybrid"}, "inpainting"),
    "nine channels": ({"unet_config__params__in_channels": 9}, "9 channels"),
    "version 2": ({"cond_stage_config__target": "ldm.encoders.FrozenOpenCLIPEmbedder"}, "Stable Diffusion 2"),
    "another encoder": ({"cond_stage_config__target": "ldm.encoders.SpatialRescaler"}, "SpatialRescaler"),
    "another first stage": ({"first_stage_config__target": "ldm.VQModelInterface"}, "VQModelInterface"),
    "no words": ({"unet_config__params__use_spatial_transformer": False}, "use_spatial_transformer"),
    "no heads": ({"unet_config__params__num_heads": -1}, "num_heads"),
    "channels that differ": ({"first_stage_config__params__ddconfig__z_channels": 3}, "contradicts itself"),
    "another schedule": ({"beta_schedule": "sqrt"}, "beta_schedule"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_configurations_are_refused_by_name(tmp_path: Path, name: str) -> None:
    changes, what = WRONG[name]
    with pytest.raises(ModelError) as raised:
        checkpoint_config.read(changed(tmp_path / "m.yaml", **changes))
    assert what in str(raised.value) and "m.yaml" in raised.value.what


@pytest.mark.parametrize(
    "content", [b"a: [", b"\xff\xfe\x00", b"PK\x03\x04" + bytes(2_000_000), b"a: !!python/name:os.system"]
)
def test_what_is_not_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(ModelError, match="is not YAML"):
        checkpoint_config.read(tmp_path / "m.yaml")


@pytest.mark.parametrize("content", ["", "just words", "- a\n- b", "model: 3"])
def test_yaml_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(ModelError, match="not the configuration of a text-to-image model"):
        checkpoint_config.read(tmp_path / "m.yaml")
