"""The YAML configuration beside an original checkpoint: sizes of its parts, and its noise schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from sdcli.errors import ModelError, ModelNotFound
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.models import shipped

CLIP_LARGE = "openai/clip-vit-large-patch14"
MAX_SIZE = 1_000_000

# The original's names on the left, diffusers' on the right. The original's "linear" is linear in the square roots.
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
# What a conditioning key or a count of input channels other than v1's means.
CONDITIONINGS = {"hybrid": "an inpainting or upscaling model", "concat": "a model that starts from an image"}


class UNetParams(BaseModel):
    in_channels: PositiveInt
    out_channels: PositiveInt
    model_channels: PositiveInt
    attention_resolutions: list[int]
    num_res_blocks: PositiveInt
    channel_mult: list[PositiveInt] = Field(min_length=1)
    num_heads: int = -1
    num_head_channels: int = -1
    use_spatial_transformer: Literal[True]
    use_linear_in_transformer: bool = False
    transformer_depth: PositiveInt = 1
    context_dim: PositiveInt


class VAESizes(BaseModel):
    z_channels: PositiveInt
    in_channels: PositiveInt = 3
    out_ch: PositiveInt = 3
    ch: PositiveInt
    ch_mult: list[PositiveInt] = Field(min_length=1)
    num_res_blocks: PositiveInt


class VAEParams(BaseModel):
    embed_dim: int
    ddconfig: VAESizes


class TextParams(BaseModel):
    version: str = CLIP_LARGE
    """FrozenCLIPEmbedder: a name on the hub, or a folder with the text model's config.json and its vocabulary."""
    n_embed: PositiveInt = 1280
    n_layer: PositiveInt = 32
    max_seq_len: PositiveInt = 77
    vocab_size: PositiveInt = 30522
    """BERTEmbedder: width, layers, tokens, size of the vocabulary."""


class UNetConfig(BaseModel):
    params: UNetParams


class VAEConfig(BaseModel):
    target: str
    params: VAEParams


class TextConfig(BaseModel):
    target: str
    params: TextParams = Field(default_factory=TextParams)


class ModelParams(BaseModel):
    linear_start: float = 1e-4
    linear_end: float = 2e-2
    timesteps: PositiveInt = 1000
    beta_schedule: Literal["linear", "sqrt_linear", "cosine"] = "linear"
    parameterization: Literal["eps", "v", "x0"] = "eps"
    conditioning_key: str = "crossattn"
    image_size: PositiveInt = 64
    scale_factor: float = 1.0
    use_ema: bool = True
    """Where the YAML does not say, the original draws with the averaged weights, if there are any."""
    unet_config: UNetConfig
    first_stage_config: VAEConfig
    cond_stage_config: TextConfig


class ModelSection(BaseModel):
    params: ModelParams


class OriginalConfig(BaseModel):
    """The fields of the YAML that decide what is drawn; all others are ignored, as they concern training."""

    model: ModelSection

    @property
    def text(self) -> Literal["clip", "bert"]:
        return "bert" if _class(self.model.params.cond_stage_config.target) == "BERTEmbedder" else "clip"

    @property
    def downscale(self) -> int:
        """f: how many times smaller latents are than images, on each side."""
        return 1 << (len(self.model.params.first_stage_config.params.ddconfig.ch_mult) - 1)

    def spec(self, name: str) -> ModelSpec:
        params = self.model.params
        unet = params.unet_config.params
        return ModelSpec(
            name=name,
            kind="original",
            text=self.text,
            latent_channels=unet.in_channels,
            downscale=self.downscale,
            size_multiple=self.downscale * 2 ** (len(unet.channel_mult) - 1),
            default_height=512,  # the original's, whatever the model was trained on
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


def _class(target: str) -> str:
    return target.rsplit(".", 1)[-1]


def find(config: str) -> Path:
    """The file of a configuration: where it says, else among those that ship with sdcli.

    Raises:
        ModelNotFound: in neither place.
    """
    folder = shipped.configs()
    asked = Path(config)
    ours = sorted(folder.rglob("*.yaml"))
    relative = Path(*asked.parts[1:]) if asked.parts[:1] == ("configs",) else asked
    for path in (asked, folder / relative, *(path for path in ours if path.name == config)):
        if path.is_file():
            return path
    raise ModelNotFound(
        f"there is no model configuration {config}",
        fix="Give --config a file, or one of those that ship with sdcli: "
        + ", ".join(f"configs/{path.relative_to(folder).as_posix()}" for path in ours)
        + ".",
    )


def read(path: Path) -> OriginalConfig:
    """A configuration read and checked.

    Raises:
        ModelError: not YAML, not a model's configuration, or of a model that sdcli does not draw with.
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
            fix="Give the checkpoint's YAML with --config, the checkpoint itself with --ckpt.",
        ) from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors()[:3]]
        raise ModelError(
            f"{path} is not the configuration of a text-to-image model",
            why="; ".join(wrong) + ".",
            fix="configs/stable-diffusion/v1-inference.yaml is one that works.",
        ) from error
    _check(path, config.model.params)
    return config


def _check(path: Path, params: ModelParams) -> None:
    """Refuse what reads as a configuration but is of another kind of model."""
    unet = params.unet_config.params
    vae = params.first_stage_config
    text = _class(params.cond_stage_config.target)
    sizes = vae.params.ddconfig
    kind = CONDITIONINGS.get(params.conditioning_key, "")
    if not kind and unet.in_channels != unet.out_channels:
        kind = f"a model that takes {unet.in_channels} channels, as for inpainting,"
    if kind:
        raise ModelError(f"{path} is the configuration of {kind}, which draws from more than words")
    if text == "FrozenOpenCLIPEmbedder":
        raise ModelError(
            f"{path} is the configuration of a Stable Diffusion 2 model",
            why="sdcli reads original checkpoints of version 1 only.",
            fix="Give Stable Diffusion 2 as a diffusers folder or hub id with --model.",
        )
    if text not in ("FrozenCLIPEmbedder", "BERTEmbedder"):
        raise ModelError(f"{path} asks for the text encoder {text}", why="sdcli has CLIP and BERT.")
    if _class(vae.target) != "AutoencoderKL":
        raise ModelError(f"{path} asks for the first stage {_class(vae.target)}", why="sdcli has AutoencoderKL.")
    if unet.num_heads < 1 and unet.num_head_channels < 1:
        raise ModelError(f"{path} gives the UNet neither num_heads nor num_head_channels")
    if vae.params.embed_dim != sizes.z_channels or sizes.z_channels != unet.in_channels:
        raise ModelError(
            f"{path} contradicts itself",
            why=f"The UNet takes {unet.in_channels} channels, the VAE has {sizes.z_channels} "
            f"and embeds in {vae.params.embed_dim}.",
        )
