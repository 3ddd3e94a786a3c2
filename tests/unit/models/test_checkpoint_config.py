"""The YAML configuration of a checkpoint: where it is found, what is read, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdcli.errors import ModelError, ModelNotFound
from sdcli.models import checkpoint_config, shipped

V1 = "configs/stable-diffusion/v1-inference.yaml"
LAION = "configs/latent-diffusion/txt2img-1p4B-eval.yaml"


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", [V1, "stable-diffusion/v1-inference.yaml", "v1-inference.yaml", LAION, "txt2img-1p4B-eval.yaml"]
)
def test_shipped_configurations_are_found_from_anywhere(empty_folder: Path, name: str) -> None:
    found = checkpoint_config.find(name)
    assert found.is_relative_to(shipped.configs()) and found.name == Path(name).name


def test_a_file_in_the_working_directory_has_precedence(empty_folder: Path) -> None:
    local = empty_folder / V1
    local.parent.mkdir(parents=True)
    local.write_text("model: {}")
    assert checkpoint_config.find(V1).read_text() == "model: {}"


def test_the_error_for_a_missing_file_lists_the_shipped_ones(empty_folder: Path) -> None:
    with pytest.raises(ModelNotFound) as raised:
        checkpoint_config.find("v3-inference.yaml")
    assert V1 in raised.value.fix and LAION in raised.value.fix


def test_an_installed_package_contains_the_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel contains them in the package; in a checkout they are next to it."""
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "sdcli")
    assert shipped.configs() == tmp_path / "configs"
    (tmp_path / "sdcli" / "configs").mkdir(parents=True)
    assert shipped.configs() == tmp_path / "sdcli" / "configs"


def test_the_sizes_of_stable_diffusion_1() -> None:
    config = checkpoint_config.read(checkpoint_config.find(V1))
    unet, vae = config.model.params.unet_config.params, config.model.params.first_stage_config.params.ddconfig
    assert (unet.model_channels, unet.channel_mult, unet.num_res_blocks, unet.num_heads) == (320, [1, 2, 4, 4], 2, 8)
    assert (unet.attention_resolutions, unet.context_dim) == ([4, 2, 1], 768)
    assert (vae.ch, vae.ch_mult, vae.num_res_blocks, vae.z_channels) == (128, [1, 2, 4, 4], 2, 4)
    assert config.model.params.scale_factor == 0.18215
    spec = checkpoint_config.spec_of(config, "m.ckpt")
    assert (spec.family, spec.latent_channels, spec.downscale, spec.size_multiple) == ("sd1", 4, 8, 64)
    assert (spec.default_height, spec.default_width, spec.default_scale) == (512, 512, 7.5)
    assert spec.watermark_method == "dwtDct"
    noise = spec.schedule
    assert (noise.beta_start, noise.beta_end, noise.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (noise.prediction_type, noise.timestep_spacing, noise.steps_offset) == ("epsilon", "leading", 1)
    assert not noise.set_alpha_to_one


def test_the_sizes_of_laion_400m() -> None:
    config = checkpoint_config.read(checkpoint_config.find(LAION))
    text = config.model.params.cond_stage_config.params
    assert checkpoint_config.spec_of(config, "m.ckpt").family == "ldm"
    assert (text.n_embed, text.n_layer, text.max_seq_len, text.vocab_size) == (1280, 32, 77, 30522)
    assert config.model.params.unet_config.params.context_dim == 1280


def changed(path: Path, **changes: Any) -> Path:
    """The YAML of Stable Diffusion 1 with other fields in model.params; "__" separates levels, None removes a field."""
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


def test_the_noise_schedule_is_read(tmp_path: Path) -> None:
    config = changed(tmp_path / "m.yaml", parameterization="v", linear_end=0.02, beta_schedule="cosine", timesteps=500)
    noise = checkpoint_config.spec_of(checkpoint_config.read(config), "m").schedule
    assert (noise.prediction_type, noise.beta_end, noise.num_train_timesteps) == ("v_prediction", 0.02, 500)
    assert noise.beta_schedule == "squaredcos_cap_v2"


def test_numbers_that_yaml_reads_as_strings_are_accepted(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as a string."""
    assert checkpoint_config.read(changed(tmp_path / "m.yaml", linear_start="1e-4")).model.params.linear_start == 1e-4


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no unet": ({"unet_config": None}, "unet_config: Field required"),
    "a size that is not a number": ({"unet_config__params__model_channels": "wide"}, "model_channels"),
    "a size of zero": ({"unet_config__params__num_res_blocks": 0}, "num_res_blocks"),
    "no levels": ({"unet_config__params__channel_mult": []}, "channel_mult"),
    "inpainting": ({"conditioning_key": "hybrid"}, "inpainting"),
    "nine channels": ({"unet_config__params__in_channels": 9}, "9 channels"),
    "a layer of another text encoder": ({"cond_stage_config__params__layer": "penultimate"}, "to penultimate"),
    "another OpenCLIP": (
        {
            "cond_stage_config__target": "ldm.encoders.FrozenOpenCLIPEmbedder",
            "cond_stage_config__params": {"arch": "ViT-g-14"},
        },
        "cond_stage_config.params.arch",
    ),
    "sizes beside the prompt": ({"unet_config__params__num_classes": "sequential"}, "num_classes to sequential"),
    "another encoder": ({"cond_stage_config__target": "ldm.encoders.SpatialRescaler"}, "SpatialRescaler"),
    "another first stage": ({"first_stage_config__target": "ldm.VQModelInterface"}, "VQModelInterface"),
    "no cross-attention": ({"unet_config__params__use_spatial_transformer": False}, "use_spatial_transformer"),
    "no attention heads": ({"unet_config__params__num_heads": -1}, "num_heads"),
    "different numbers of channels": ({"first_stage_config__params__ddconfig__z_channels": 3}, "contradicts itself"),
    "another schedule": ({"beta_schedule": "sqrt"}, "beta_schedule"),
    "another model": ({"unet_config__target": "cldm.cldm.ControlledUnetModel"}, "ControlledUnetModel"),
    "image variations": ({"conditioning_key": "crossattn-adm"}, "image variations"),
    "an upscaler with fields of its own": ({"conditioning_key": "hybrid-adm", "unet_config": None}, "upscaling"),
    "the pooled embedding": ({"cond_stage_config__params__layer": "pooled"}, "layer"),
    "a field of another text encoder": (
        {"cond_stage_config__params__n_embed": 768},
        "model.params.cond_stage_config.params.n_embed: 768 (unknown)",
    ),
    "an unknown field of the text encoder": ({"cond_stage_config__params__mask": True}, "params.mask: True"),
    "an unknown field": ({"noise_offset_at_inference": 0.1}, "model.params.noise_offset_at_inference: 0.1 (unknown)"),
    "betas of its own": ({"given_betas": [0.1]}, "model.params.given_betas: [0.1] (supported: None)"),
    "a scale from training": ({"scale_by_std": True}, "scale_by_std: True (supported: False)"),
    "blocks that resample": ({"unet_config__params__resblock_updown": True}, "resblock_updown: True"),
    "classes": ({"unet_config__params__num_classes": 1000}, "num_classes: Value error"),
    "a bounded decoder": ({"first_stage_config__params__ddconfig__tanh_out": True}, "ddconfig.tanh_out: True"),
    "too many blocks": ({"unet_config__params__num_res_blocks": 10**9}, "num_res_blocks"),
    "too many timesteps": ({"timesteps": 10**12}, "timesteps"),
    "a beta that is no number": ({"linear_end": float("nan")}, "linear_end"),
    "attention in the VAE": ({"first_stage_config__params__ddconfig__attn_resolutions": [64]}, "attn_resolutions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_unsupported_configurations_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    changes, what = WRONG[name]
    with pytest.raises(ModelError) as raised:
        checkpoint_config.read(changed(tmp_path / "m.yaml", **changes))
    assert what in str(raised.value) and "m.yaml" in raised.value.what


TRAINING: dict[str, Any] = {
    "monitor": "val/loss", "ckpt_path": "x.ckpt", "ignore_keys": [], "cond_stage_trainable": True,
    "first_stage_key": "jpg", "cond_stage_key": "txt", "num_timesteps_cond": 1, "log_every_t": 200,
    "scheduler_config": {"target": "ldm.lr_scheduler.LambdaLinearScheduler", "params": {"f_max": [1.0]}},
    "unet_config__params__use_checkpoint": True, "unet_config__params__legacy": True,
    "unet_config__params__use_fp16": True,
    "first_stage_config__params__lossconfig": {"target": "torch.nn.Identity"},
    "first_stage_config__params__ddconfig__attn_resolutions": [16],  # none of 256, 128, 64 and 32
    "first_stage_config__params__ddconfig__attn_type": "vanilla-xformers", "cond_stage_config__params__freeze": False,
}  # fmt: skip


def test_fields_of_training_are_ignored(tmp_path: Path) -> None:
    config = checkpoint_config.read(changed(tmp_path / "m.yaml", **TRAINING))
    given = checkpoint_config.read(checkpoint_config.find(V1))
    assert checkpoint_config.spec_of(config, "m") == checkpoint_config.spec_of(given, "m")


def with_fields(path: Path, fields: str) -> Path:
    """The YAML of Stable Diffusion 1 with the fields in another YAML over its own."""

    def over(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        return old | {name: over(old.get(name), value) for name, value in new.items()}

    content = yaml.safe_load(checkpoint_config.find(V1).read_text())
    path.write_text(yaml.safe_dump(over(content, yaml.safe_load(fields))))
    return path


# What widespread files contain besides the fields of the shipped one.
WIDESPREAD = {
    "the original": """
        model:
          base_learning_rate: 1.0e-04
          params: {num_timesteps_cond: 1, log_every_t: 200, first_stage_key: jpg, cond_stage_key: txt,
                   cond_stage_trainable: false, monitor: val/loss_simple_ema,
                   scheduler_config: {target: ldm.lr_scheduler.LambdaLinearScheduler, params: {warm_up_steps: [1000]}}}
        """,
    "the original's textual inversion, and Dreambooth": """
        model:
          params:
            reg_weight: 1.0
            embedding_reg_weight: 0.0
            unfreeze_model: True
            model_lr: 1.0e-06
            personalization_config:
              target: ldm.modules.embedding_manager.EmbeddingManager
              params: {placeholder_strings: ["*"], initializer_words: [drawing], num_vectors_per_token: 1}
        data:
          target: main.DataModuleFromConfig
          params: {batch_size: 1, wrap: false, train: {params: {size: 512, repeats: 100}}}
        lightning:
          modelcheckpoint: {params: {every_n_train_steps: 500}}
          trainer: {benchmark: True, max_steps: 6100}
        """,
    "InvokeAI": """
        model:
          params:
            personalization_config: {target: ldm.modules.embedding_manager.EmbeddingManager}
            cond_stage_config: {target: ldm.modules.encoders.modules.WeightedFrozenCLIPEmbedder}
        """,
    "ComfyUI's clip skip": """
        model: {params: {cond_stage_config: {params: {layer: hidden, layer_idx: -2}}}}
        """,
    "Waifu Diffusion": """
        model: {params: {ucg_training: {txt: {p: 0.1, val: ""}}, unet_config: {params: {use_fp16: True}}}}
        """,
}


@pytest.mark.parametrize("name", WIDESPREAD)
def test_widespread_configurations_are_read(tmp_path: Path, name: str) -> None:
    config = checkpoint_config.read(with_fields(tmp_path / "m.yaml", WIDESPREAD[name]))
    given = checkpoint_config.read(checkpoint_config.find(V1))
    assert config.embedder == "FrozenCLIPEmbedder"
    assert checkpoint_config.spec_of(config, "m") == checkpoint_config.spec_of(given, "m")


SD2 = """
        model:
          params:
            parameterization: v
            unet_config: {params: {num_head_channels: 64, use_linear_in_transformer: True, context_dim: 1024}}
            cond_stage_config: {target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder,
                                params: {freeze: True, layer: penultimate}}
        """


def test_the_original_configuration_of_stable_diffusion_2(tmp_path: Path) -> None:
    spec = checkpoint_config.spec_of(checkpoint_config.read(with_fields(tmp_path / "m.yaml", SD2)), "m")
    assert (spec.family, spec.schedule.prediction_type, spec.text_width) == ("sd2", "v_prediction", 1024)
    assert (spec.default_height, spec.default_width, spec.notes) == (768, 768, ())
    shipped_spec = checkpoint_config.spec_of(checkpoint_config.read(checkpoint_config.find("v2-inference-v.yaml")), "m")
    assert spec == shipped_spec


OTHER_KINDS = {
    "inpainting": (
        "model: {target: ldm.ddpm.LatentInpaintDiffusion, params: {conditioning_key: hybrid, finetune_keys: null}}",
        "configuration of a model of inpainting, upscaling or image editing, which needs more inputs",
    ),
    "InstructPix2Pix": (
        "model: {target: m.ddpm_edit.LatentDiffusion, params: {conditioning_key: hybrid,"
        " unet_config: {params: {in_channels: 8}}}}",
        "configuration of a model of inpainting, upscaling or image editing, which needs more inputs",
    ),
    "ControlNet": ("model: {target: cldm.cldm.ControlLDM, params: {control_key: hint}}", "of the model ControlLDM"),
    "a VAE alone": ("model: {target: ldm.AutoencoderKL, params: {unet_config: null}}", "of the model AutoencoderKL"),
    "AltDiffusion": (
        "model: {params: {cond_stage_config: {target: modules.xlmr.BertSeriesModelWithTransformation,"
        " params: {name: XLMR-Large}}}}",
        "names the text encoder BertSeriesModelWithTransformation",
    ),
    "no text encoder": (
        "model: {params: {cond_stage_config: __is_unconditional__, first_stage_config: {target: ldm.VQModel}}}",
        "configuration of a model without a text encoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_configurations_of_other_kinds_are_refused_by_name(tmp_path: Path, name: str) -> None:
    fields, what = OTHER_KINDS[name]
    with pytest.raises(ModelError) as raised:
        checkpoint_config.read(with_fields(tmp_path / "m.yaml", fields))
    assert what in raised.value.what


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", ".", "/dev/zero", "pipe", ""])
def test_names_that_are_not_files_are_refused_at_once(empty_folder: Path, name: str) -> None:
    os.mkfifo("pipe")
    with pytest.raises(ModelNotFound):
        checkpoint_config.find(name)


def test_zero_terminal_snr_is_obeyed(tmp_path: Path) -> None:
    config = checkpoint_config.read(changed(tmp_path / "m.yaml", rescale_betas_zero_snr=True, parameterization="v"))
    assert checkpoint_config.spec_of(config, "m").schedule.rescale_betas_zero_snr


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 5000,
        b"a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]",
        b"a: " + b"1" * 5000,
        b"a: " + b"x\n  " * 20_000,
        b"? " * 5000,
        b"model: {params: {cosine_s: 0x" + b"f" * 5000 + b"}}",
    ],
)
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(ModelError):
        checkpoint_config.read(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    "content", [b"a: [", b"\xff\xfe\x00", b"PK\x03\x04" + bytes(2_000_000), b"a: !!python/name:os.system"]
)
def test_files_other_than_yaml_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(ModelError, match="is not YAML"):
        checkpoint_config.read(tmp_path / "m.yaml")


@pytest.mark.parametrize("content", ["", "just words", "- a\n- b", "model: 3"])
def test_other_yaml_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(ModelError, match="not the configuration of a text-to-image model"):
        checkpoint_config.read(tmp_path / "m.yaml")
