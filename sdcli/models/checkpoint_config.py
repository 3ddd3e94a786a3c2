"""Finds and reads the YAML configuration of an original checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from sdcli.errors import ModelError, ModelNotFound
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.models import families, shipped
from sdcli.models.original_yaml import ModelParams, OriginalConfig, class_name

MAX_SIZE = 1_000_000

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
CONDITIONINGS = {"hybrid": "an inpainting or upscaling model", "concat": "an image-to-image model"}


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
        if path.is_file():
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
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = OriginalConfig.model_validate(content)
    except OSError as error:
        raise ModelError(f"the model configuration {path} cannot be read", why=f"{error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the model configuration {path} is not YAML",
            why=" ".join(str(error).split()) + ".",
            fix="Pass the YAML file of the checkpoint with --config, and the checkpoint with --ckpt.",
        ) from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors()[:3]]
        raise ModelError(
            f"{path} is not the configuration of a text-to-image model",
            why="; ".join(wrong) + ".",
            fix="See configs/stable-diffusion/v1-inference.yaml for an example.",
        ) from error
    _check(path, config.model.params)
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
        ),
        watermark_method="dwtDct",
    )


def _check(path: Path, params: ModelParams) -> None:
    """Refuse valid configurations of models that are not supported."""
    unet = params.unet_config.params
    vae = params.first_stage_config
    text = class_name(params.cond_stage_config.target)
    sizes = vae.params.ddconfig
    kind = CONDITIONINGS.get(params.conditioning_key, "")
    if not kind and unet.in_channels != unet.out_channels:
        kind = f"a model that takes {unet.in_channels} channels, as for inpainting,"
    if kind:
        raise ModelError(f"{path} is the configuration of {kind}, which needs more inputs than a prompt")
    if text == "FrozenOpenCLIPEmbedder":
        raise ModelError(
            f"{path} is the configuration of a Stable Diffusion 2 model",
            why="Of Stable Diffusion, sdcli reads original checkpoints of version 1 only.",
            fix="Pass a diffusers folder or a hub id of Stable Diffusion 2 with --model.",
        )
    embedders = families.each("embedder")
    if text not in embedders:
        raise ModelError(f"{path} names the text encoder {text}", why=f"Supported: {', '.join(embedders)}.")
    if class_name(vae.target) != "AutoencoderKL":
        raise ModelError(f"{path} names the first stage {class_name(vae.target)}", why="Supported: AutoencoderKL.")
    if unet.num_heads < 1 and unet.num_head_channels < 1:
        raise ModelError(f"{path} sets neither num_heads nor num_head_channels of the UNet")
    if vae.params.embed_dim != sizes.z_channels or sizes.z_channels != unet.in_channels:
        raise ModelError(
            f"{path} contradicts itself",
            why=f"The UNet takes {unet.in_channels} channels, but the VAE's z_channels is {sizes.z_channels} "
            f"and its embed_dim {vae.params.embed_dim}.",
        )
