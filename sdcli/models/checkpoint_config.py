"""Finds and reads the YAML configuration of an original checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from sdcli.errors import ModelError, ModelNotFound
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.models import families, shipped
from sdcli.models.original_yaml import OriginalConfig, class_name

MAX_SIZE, MAX_DEPTH = 100_000, 50

# Names in the original script, and in diffusers. The original's "linear" is linear in the square roots of the betas.
BETA_SCHEDULES: dict[str, Literal["linear", "scaled_linear", "squaredcos_cap_v2"]] = {
    "linear": "scaled_linear",
    "sqrt_linear": "linear",
    "cosine": "squaredcos_cap_v2",
}
PREDICTION_TYPES: dict[str, Literal["epsilon", "v_prediction", "sample"]] = {
    "eps": "epsilon",
    "v": "v_prediction",
    "x0": "sample",
}
# Kinds of models that have another conditioning key than text-to-image models.
CONDITIONINGS = {
    "hybrid": "an inpainting or upscaling model",
    "concat": "an image-to-image model",
    "adm": "a model with classes",
    "crossattn-adm": "a model of image variations",
    "hybrid-adm": "an upscaling model",
}


class _Loader(yaml.SafeLoader):
    """Refuses what makes a small file large (aliases) and deep nesting, which exceeds Python's stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH or self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"It has aliases, or more than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def find(config: str) -> Path:
    """The file of a configuration: a path, or one that ships with sdcli.

    Args:
        config: a path; the path of a shipped configuration, with or without "configs/"; or its file name.

    Raises:
        ModelNotFound: there is no such file.
    """
    folder = shipped.configs()
    given = Path(config)
    available = sorted(folder.rglob("*.yaml"))
    relative = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    for path in (given, folder / relative, *(path for path in available if path.name == config)):
        if os.path.isfile(path):  # noqa: PTH113 - also for names that are too long
            return path
    raise ModelNotFound(
        f"the model configuration {config} does not exist",
        fix="Pass the path of a file with --config, or one of those that ship with sdcli: "
        + ", ".join(f"configs/{path.relative_to(folder).as_posix()}" for path in available)
        + ".",
    )


def read(path: Path) -> OriginalConfig:
    """Read and check a configuration.

    Raises:
        ModelError: the file is not YAML, not the configuration of a model, or that of a model that is not supported.
    """
    try:
        if path.stat().st_size > MAX_SIZE:
            raise yaml.YAMLError(f"It has {path.stat().st_size:,} bytes")
        content: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        config = OriginalConfig.model_validate(content)
    except ValidationError as error:
        _check_kind(path, content)  # whose configurations have other fields
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors()[:3]]
        raise ModelError(
            f"{path} is not the configuration of a text-to-image model",
            why="; ".join(wrong) + ".",
            fix="See configs/stable-diffusion/v1-inference.yaml for an example.",
        ) from error
    except OSError as error:
        raise ModelError(f"the model configuration {path} cannot be read", why=f"{error.strerror}.") from error
    except Exception as error:  # PyYAML raises many types for values such as numbers of 5,000 digits
        raise ModelError(
            f"the model configuration {path} is not YAML",
            why=" ".join(str(error).split()) + ".",
            fix="Pass the YAML file of the checkpoint with --config, and the checkpoint with --ckpt.",
        ) from error
    _check_kind(path, content)
    _check(path, config)
    return config


def family_of(config: OriginalConfig) -> str:
    """The name of the model's family.

    Raises:
        LookupError: no family has this text encoder; `read` refuses such configurations.
    """
    name = families.first(lambda family: family.embedder == config.embedder)
    if name is None:
        raise LookupError(config.embedder)
    return name


def spec_of(config: OriginalConfig, name: str) -> ModelSpec:
    """The properties of the model; `name` is the checkpoint's file name."""
    params = config.model.params
    unet = params.unet_config.params
    return ModelSpec(
        name=name,
        family=family_of(config),
        latent_channels=unet.in_channels,
        downscale=config.downscale,
        size_multiple=config.downscale * 2 ** (len(unet.channel_mult) - 1),
        default_height=512,  # as in the original script, for all models
        default_width=512,
        default_scale=7.5,
        schedule=NoiseSchedule(
            num_train_timesteps=params.timesteps,
            beta_start=params.linear_start,
            beta_end=params.linear_end,
            beta_schedule=BETA_SCHEDULES[params.beta_schedule],
            prediction_type=PREDICTION_TYPES[params.parameterization],
            rescale_betas_zero_snr=params.rescale_betas_zero_snr,
        ),
        watermark_method="dwtDct",
    )


def _check_kind(path: Path, content: Any) -> None:
    """Refuse configurations of models that need more inputs than a prompt.

    Args:
        path: the file, for errors.
        content: of the file, unchecked.
    """
    model = content.get("model") if isinstance(content, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    key = params.get("conditioning_key") if isinstance(params, dict) else None
    if isinstance(key, str) and key in CONDITIONINGS:
        raise ModelError(
            f"{path} is the configuration of {CONDITIONINGS[key]}, which needs more inputs than a prompt",
            why=f"Its conditioning_key is {key}.",
        )


def _check(path: Path, config: OriginalConfig) -> None:
    """Refuse valid configurations of models that are not supported."""
    params = config.model.params
    unet = params.unet_config.params
    vae = params.first_stage_config
    text = class_name(params.cond_stage_config.target)
    sizes = vae.params.ddconfig
    if unet.in_channels != unet.out_channels:
        raise ModelError(
            f"{path} is the configuration of a model that takes {unet.in_channels} channels, as for inpainting, which "
            "needs more inputs than a prompt"
        )
    if text == "FrozenOpenCLIPEmbedder":
        raise ModelError(
            f"{path} is the configuration of a Stable Diffusion 2 model",
            why="Of Stable Diffusion, sdcli reads original checkpoints of version 1 only.",
            fix="Pass a diffusers folder or a hub id of Stable Diffusion 2 with --model.",
        )
    embedders = families.each("embedder")
    if text not in embedders:
        raise ModelError(f"{path} names the text encoder {text}", why=f"Supported: {', '.join(embedders)}.")
    for what, target, supported in (
        ("model", config.model.target, "LatentDiffusion"),
        ("UNet", params.unet_config.target, "UNetModel"),
        ("first stage", vae.target, "AutoencoderKL"),
    ):
        if class_name(target) != supported:
            raise ModelError(f"{path} names the {what} {class_name(target)}", why=f"Supported: {supported}.")
    if params.conditioning_key != "crossattn":
        raise ModelError(f"{path} sets conditioning_key to {params.conditioning_key}", why="Supported: crossattn.")
    if unet.num_heads < 1 and unet.num_head_channels < 1:
        raise ModelError(f"{path} sets neither num_heads nor num_head_channels of the UNet")
    if vae.params.embed_dim != sizes.z_channels or sizes.z_channels != unet.in_channels:
        raise ModelError(
            f"{path} contradicts itself",
            why=f"The UNet takes {unet.in_channels} channels, but the VAE's z_channels is {sizes.z_channels} "
            f"and its embed_dim {vae.params.embed_dim}.",
        )
    embedder_params = families.get(family_of(config)).embedder_params
    refused = [
        *(("", field) for field in params.refused()),
        *(("unet_config.params.", field) for field in unet.refused()),
        *(("first_stage_config.params.", field) for field in vae.params.refused()),
        *(("first_stage_config.params.ddconfig.", field) for field in sizes.refused()),
        *(
            ("cond_stage_config.params.", field)
            for field in params.cond_stage_config.params.refused_by(embedder_params)
        ),
    ]
    if refused:
        raise ModelError(
            f"{path} sets fields that may affect images and that sdcli does not support",
            why="; ".join(f"model.params.{section}{name} ({supported})" for section, (name, supported) in refused[:3])
            + ("; ..." if len(refused) > 3 else "."),
            fix="If you know that a field has no influence on the image, delete it from the file.",
        )
