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
from sdcli.models.hints import Hints
from sdcli.models.original_yaml import ENGINE, OriginalConfig, class_name
from sdcli.settings import LARGEST_SIDE, ORIGINAL_SAMPLER, ORIGINAL_STEPS

MAX_SIZE, MAX_DEPTH, MAX_INTEGER = 100_000, 50, 2**63

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
    "hybrid": "a model of inpainting, upscaling or image editing",
    "concat": "an image-to-image model",
    "adm": "a model with classes",
    "crossattn-adm": "a model of image variations",
    "hybrid-adm": "an upscaling model",
}


NO_HINTS = Hints()


class _Loader(yaml.SafeLoader):
    """Refuses aliases, which make a small file large, nesting beyond Python's stack, and numbers beyond 64 bits."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH or self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"It has aliases, or more than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) > MAX_INTEGER:
            raise yaml.YAMLError("It has a number that is too large")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


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
    problem = "is not a file" if os.path.exists(config) else "does not exist"  # noqa: PTH110
    raise ModelNotFound(
        f"the model configuration {config} {problem}",
        fix="Pass the path of a file with --config, or one of those that ship with sdcli: "
        + ", ".join(f"configs/{path.relative_to(folder).as_posix()}" for path in available)
        + ".",
    )


def is_of_model(path: Path) -> bool:
    """Whether a file is YAML with a model, which is not said to be supported."""
    try:
        content = _content(path)
    except Exception:  # PyYAML raises many types
        return False
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def _content(path: Path) -> Any:
    if path.stat().st_size > MAX_SIZE:
        raise yaml.YAMLError(f"It has {path.stat().st_size:,} bytes")
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def read(path: Path) -> OriginalConfig:
    """Read and check a configuration.

    Raises:
        ModelError: the file is not YAML, not the configuration of a model, or that of a model that is not supported.
    """
    try:
        content = _content(path)
    except OSError as error:
        raise ModelError(f"the model configuration {path} cannot be read", why=f"{error.strerror}.") from error
    except Exception as error:  # PyYAML raises many types for values such as numbers of 5,000 digits
        raise ModelError(
            f"the model configuration {path} is not YAML",
            why=" ".join(str(error).split()) + ".",
            fix="Pass the YAML file of the checkpoint with --config, and the checkpoint with --ckpt.",
        ) from error
    _check_kind(path, content)
    try:
        config = OriginalConfig.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors()[:3]]
        raise ModelError(
            f"{path} is not the configuration of a text-to-image model",
            why="; ".join(wrong) + ".",
            fix="See configs/stable-diffusion/v1-inference.yaml for an example.",
        ) from error
    check(path, config)
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


def spec_of(config: OriginalConfig, name: str, hints: Hints = NO_HINTS) -> ModelSpec:
    """The properties of the model.

    Args:
        config: its configuration.
        name: the checkpoint's file name.
        hints: what the file says about itself.
    """
    params = config.model.params
    unet = params.unet_config.params
    family = family_of(config)
    kind = families.get(family)
    multiple = config.downscale * 2 ** (len(unet.channel_mult) - 1)
    height, width = (side := kind.default_side(config)), side
    if hints.size and all(0 < side <= LARGEST_SIDE and side % multiple == 0 for side in hints.size):
        height, width = hints.size
    few = hints.few_steps
    # Zero signal at the last timestep is of no use unless sampling begins there.
    trailing = params.rescale_betas_zero_snr or (few is not None and few.sampler != "lcm")
    return ModelSpec(
        name=name,
        family=family,
        latent_channels=unet.in_channels,
        downscale=config.downscale,
        size_multiple=multiple,
        default_height=height,
        default_width=width,
        default_scale=1.0 if few else kind.default_scale,
        default_steps=hints.steps if few else ORIGINAL_STEPS,
        default_sampler=(few.sampler if few else "") or kind.own_sampler or ORIGINAL_SAMPLER,
        schedule=NoiseSchedule(
            spacing_is_given=trailing,
            timestep_spacing="trailing" if trailing else "leading",
            num_train_timesteps=params.timesteps,
            beta_start=params.linear_start,
            beta_end=params.linear_end,
            beta_schedule=BETA_SCHEDULES[params.beta_schedule],
            prediction_type=PREDICTION_TYPES[params.parameterization],
            rescale_betas_zero_snr=params.rescale_betas_zero_snr,
        ),
        few_steps_by=few.sampler if few else "",
        latent_scale=params.scale_factor,
        text_width=unet.context_dim,
        watermark_method="dwtDct",
        zero_negative_prompt=bool(kind.sizes),
        notes=tuple(hints.notes(name, kind, trailing=trailing)),
    )


def _check_kind(path: Path, content: Any) -> None:
    """Refuse configurations of other kinds of models, which may have other fields.

    Args:
        path: the file, for errors.
        content: of the file, unchecked.
    """

    def text(*names: str) -> str:
        found = content
        for name in ("model", *names):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) else ""

    key = text("params", "conditioning_key")
    if key in CONDITIONINGS:
        raise ModelError(
            f"{path} is the configuration of {CONDITIONINGS[key]}, which needs more inputs than a prompt",
            why=f"Its conditioning_key is {key}.",
        )
    target = class_name(text("target"))
    if target not in ("", "LatentDiffusion", ENGINE):
        raise ModelError(
            f"{path} is the configuration of the model {target}", why=f"Supported: LatentDiffusion and {ENGINE}."
        )
    if text("params", "cond_stage_config"):  # "__is_unconditional__" or "__is_first_stage__"
        raise ModelError(f"{path} is the configuration of a model without a text encoder")


def check(path: Path, config: OriginalConfig) -> None:
    """Refuse valid configurations of models that are not supported.

    Args:
        path: the file, for errors.
        config: what it has.

    Raises:
        ModelError: fields that are not supported, or that contradict each other.
    """
    params = config.model.params
    unet = params.unet_config.params
    vae = params.first_stage_config
    sizes = vae.params.ddconfig
    if unet.in_channels != unet.out_channels:
        raise ModelError(
            f"{path} is the configuration of a model that takes {unet.in_channels} channels, as for inpainting, which "
            "needs more inputs than a prompt"
        )
    embedders = families.each("embedder")
    if config.embedder not in embedders:
        raise ModelError(f"{path} names the text encoder {config.embedder}", why=f"Supported: {', '.join(embedders)}.")
    for what, target, supported in (
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
    family = families.get(family_of(config))
    if why := family.why_not(config):
        raise ModelError(f"{path} is the configuration of a model that sdcli does not support", why=why)
    refused = [
        *(("", field) for field in params.refused()),
        *(("unet_config.params.", field) for field in unet.refused()),
        *(("first_stage_config.params.", field) for field in vae.params.refused()),
        *(("first_stage_config.params.ddconfig.", field) for field in sizes.refused()),
        *(
            ("cond_stage_config.params.", field)
            for field in params.cond_stage_config.params.refused_by(family.embedder_params)
        ),
    ]
    if refused:
        raise ModelError(
            f"{path} sets fields that may affect images and that sdcli does not support",
            why="; ".join(f"model.params.{section}{name} ({supported})" for section, (name, supported) in refused[:3])
            + ("; ..." if len(refused) > 3 else "."),
            fix="If you know that a field has no influence on the image, delete it from the file.",
        )
