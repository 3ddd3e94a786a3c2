"""The fields of an original checkpoint's YAML configuration.

Each section lists the fields that sdcli obeys, `TRAINING`, those that affect training only and are ignored, and
`ONLY`, those that sdcli supports with their default only. `refused` finds everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sdcli.model_spec import Beta, Timesteps

CLIP_LARGE = "openai/clip-vit-large-patch14"
CONDITIONER = "GeneralConditioner"
"""The class of Stable Diffusion XL's text encoders."""
ENGINE = "DiffusionEngine"
ENGINE_SPEED = frozenset({
    "disable_first_stage_autocast", "input_key", "log_keys", "loss_fn_config", "optimizer_config", "sampler_config",
    "compile_model", "no_cond_log", "en_and_decode_n_samples_a_time", "network_wrapper",
})  # fmt: skip
"""Fields of `DiffusionEngine` that do not belong to the model: a sampler is chosen with --sampler."""
SCALINGS = {"EpsScaling": "eps", "VScaling": "v"}
SAME_EMBEDDERS = {"WeightedFrozenCLIPEmbedder": "FrozenCLIPEmbedder"}
"""Names of other programs for a text encoder: InvokeAI's also weights parts of the prompt."""

# Far more than any model has: a mistake or an attack must not make a model that takes all memory or time.
Size = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=1, le=100)]
Multipliers = Annotated[list[Count], Field(min_length=1, max_length=10)]


class Section(BaseModel):
    model_config = ConfigDict(extra="allow")

    TRAINING: ClassVar[frozenset[str]] = frozenset()
    """Fields that affect training only, or the speed."""
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields that affect images, and the values that sdcli supports."""

    def refused(self) -> Iterator[tuple[str, str]]:
        """The fields that may affect images and that sdcli does not obey: name and value, and what is supported."""
        for name, value in (self.model_extra or {}).items():
            if name not in self.TRAINING and value not in self.ONLY.get(name, ()):
                supported = " or ".join(map(repr, self.ONLY.get(name, ())))
                yield f"{name}: {value!r:.80}", f"supported: {supported}" if supported else "unknown"


class UNetParams(Section):
    # Those of attention are for the UNet without text, those of types for the speed.
    TRAINING = frozenset({
        "image_size", "dropout", "use_checkpoint", "use_fp16", "use_bf16", "legacy", "num_heads_upsample",
        "use_new_attention_order", "use_fairscale_checkpoint", "offload_to_cpu", "spatial_transformer_attn_type",
    })  # fmt: skip
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "dims": (2,), "conv_resample": (True,), "resblock_updown": (False,), "n_embed": (None,),
        "disable_self_attentions": (None,), "disable_middle_self_attn": (False,), "num_attention_blocks": (None,),
    }  # fmt: skip

    in_channels: Size
    out_channels: Size
    model_channels: Size
    attention_resolutions: list[int]
    num_res_blocks: Count
    channel_mult: Multipliers
    num_heads: int = -1
    num_head_channels: int = -1
    use_spatial_transformer: Literal[True]
    use_linear_in_transformer: bool = False
    use_scale_shift_norm: bool = False
    transformer_depth: Count | Annotated[list[Count | list[Count]], Field(max_length=10)] = 1
    """Transformer blocks in each attention, or for each level, or for each block of each level."""
    transformer_depth_middle: Annotated[int, Field(ge=0, le=100)] | None = None
    """That of the middle block; None: as of the last level."""
    transformer_depth_output: Annotated[list[Count | list[Count]], Field(max_length=10)] | None = None
    """Those of the upper half, from its first level; None: as of the lower half. No YAML has it."""
    context_dim: Size
    num_classes: Literal["sequential"] | None = None
    adm_in_channels: Size | None = None
    """Numbers beside the prompt, which Stable Diffusion XL takes."""

    @field_validator("context_dim", mode="before")
    @classmethod
    def _same(cls, value: Any) -> Any:
        """Some files write it for each level."""
        return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value

    @field_validator("num_classes", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value not in (None, "sequential"):
            raise ValueError("sdcli supports null, and 'sequential' for Stable Diffusion XL")
        return value


class VAESizes(Section):
    TRAINING = frozenset({"dropout"})
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "double_z": (True,), "resamp_with_conv": (True,), "tanh_out": (False,), "give_pre_end": (False,),
        "use_linear_attn": (False,), "attn_type": ("vanilla", "vanilla-xformers"),
    }  # fmt: skip

    z_channels: Size
    in_channels: Size = 3
    out_ch: Size = 3
    ch: Size
    ch_mult: Multipliers
    num_res_blocks: Count
    resolution: Size = 256
    attn_resolutions: list[int] = Field(default_factory=list)
    """Resolutions with attention, for images of `resolution`; sdcli supports none besides that in the middle."""

    def refused(self) -> Iterator[tuple[str, str]]:
        yield from super().refused()
        if any(self.resolution >> level in self.attn_resolutions for level in range(len(self.ch_mult))):
            yield f"attn_resolutions: {self.attn_resolutions}", "supported: []"


class VAEParams(Section):
    TRAINING = frozenset({
        "lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor", "ema_decay",
        "learn_logvar",
    })  # fmt: skip

    embed_dim: int
    ddconfig: VAESizes


class TextParams(Section):
    """The parameters of all text encoders; `Family.embedder_params` lists those that a text encoder has."""

    TRAINING = frozenset({"device", "freeze", "embedding_dropout"})

    version: str = CLIP_LARGE
    """FrozenCLIPEmbedder: a hub id, or a folder with the text encoder's config.json and its vocabulary."""
    max_length: Size | None = None
    """FrozenCLIPEmbedder: number of tokens; None: as many as the text encoder takes."""
    arch: Literal["ViT-H-14"] = "ViT-H-14"
    """FrozenOpenCLIPEmbedder."""
    layer: Literal["last", "hidden", "penultimate"] = "last"
    layer_idx: int | None = None
    """For "hidden", of FrozenCLIPEmbedder: the layer that gives the embeddings; -1, or their number, for the last one.
    As in ComfyUI, from where such files come, and in diffusers' clip_skip, the final normalization follows it."""
    n_embed: Size = 1280
    n_layer: Count = 32
    max_seq_len: Size = 77
    vocab_size: Size = 30522
    """BERTEmbedder: width, number of layers, number of tokens, size of the vocabulary."""
    use_tokenizer: Literal[True] = True
    """BERTEmbedder."""

    emb_models: list[Any] | None = None
    """GeneralConditioner: the text encoders and the sizes that Stable Diffusion XL takes."""

    @property
    def size_width(self) -> int:
        """Width of the embedding of each size."""
        found = (_inner(each, "params").get("outdim") for each in self.emb_models or ())
        return next((width for width in found if isinstance(width, int)), 256)

    def refused_by(self, embedder_params: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """As `refused`, for a text encoder with these parameters."""
        for name in sorted(self.model_fields_set - set(embedder_params) - self.TRAINING):
            yield f"{name}: {getattr(self, name)!r:.80}", "unknown"


class UNetConfig(BaseModel):
    target: str = "UNetModel"
    params: UNetParams


class VAEConfig(BaseModel):
    target: str
    params: VAEParams


class TextConfig(BaseModel):
    target: str
    params: TextParams = Field(default_factory=TextParams)


class ModelParams(Section):
    TRAINING = frozenset({
        "loss_type", "ckpt_path", "ignore_keys", "load_only_unet", "monitor", "first_stage_key", "cond_stage_key",
        "channels", "log_every_t", "clip_denoised", "original_elbo_weight", "v_posterior", "l_simple_weight",
        "scheduler_config", "learn_logvar", "logvar_init", "make_it_fit", "ucg_training", "reset_ema",
        "reset_num_ema_updates", "num_timesteps_cond", "cond_stage_trainable", "unet_trainable", "concat_mode",
        "force_null_conditioning", "ema_decay", "use_fp16", "personalization_config", "reg_weight",
        "embedding_reg_weight", "unfreeze_model", "model_lr", "finetune_keys", "trainable",
    })  # fmt: skip
    ONLY: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "cosine_s": (8e-3,), "given_betas": (None,), "use_positional_encodings": (False,), "scale_by_std": (False,),
        "cond_stage_forward": (None,),
    }  # fmt: skip

    linear_start: Beta = 1e-4
    linear_end: Beta = 2e-2
    timesteps: Timesteps = 1000
    beta_schedule: Literal["linear", "sqrt_linear", "cosine"] = "linear"
    parameterization: Literal["eps", "v", "x0"] = "eps"
    rescale_betas_zero_snr: bool = False
    conditioning_key: str = "crossattn"
    image_size: Size = 64
    scale_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    use_ema: bool = True
    """Use the averaged weights if the checkpoint has them; the original script does so by default."""
    unet_config: UNetConfig
    first_stage_config: VAEConfig
    cond_stage_config: TextConfig


class ModelSection(BaseModel):
    target: str = "LatentDiffusion"
    params: ModelParams

    @model_validator(mode="before")
    @classmethod
    def _of_engine(cls, value: Any) -> Any:
        """The fields of `DiffusionEngine`, as Stable Diffusion XL has them, by the names of `LatentDiffusion`."""
        if not isinstance(value, dict) or class_name(str(value.get("target", ""))) != ENGINE:
            return value
        fields = value.get("params")
        params = (
            {name: each for name, each in fields.items() if name not in ENGINE_SPEED}
            if isinstance(fields, dict)
            else {}
        )
        for old, new in (("network_config", "unet_config"), ("conditioner_config", "cond_stage_config")):
            params[new] = params.pop(old, None)
        denoiser = _inner(params.pop("denoiser_config", None), "params")
        betas = _inner(denoiser, "discretization_config", "params")
        scaling = _inner(denoiser, "scaling_config").get("target")
        return {
            "params": {
                "linear_start": betas.get("linear_start", 0.00085),
                "linear_end": betas.get("linear_end", 0.012),
                "timesteps": denoiser.get("num_idx", 1000),
                "parameterization": SCALINGS.get(class_name(str(scaling)), scaling) if scaling else "eps",
                "use_ema": False,
                **params,
            }
        }


def _inner(value: Any, *names: str) -> dict[str, Any]:
    """A section within sections; empty if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


class OriginalConfig(BaseModel):
    """The part of the YAML that builds the model."""

    model: ModelSection

    @property
    def embedder(self) -> str:
        """The class name of the text encoder, such as "FrozenCLIPEmbedder"."""
        name = class_name(self.model.params.cond_stage_config.target)
        return SAME_EMBEDDERS.get(name, name)

    @property
    def downscale(self) -> int:
        """f: image pixels per latent pixel, on each side."""
        return 1 << (len(self.model.params.first_stage_config.params.ddconfig.ch_mult) - 1)


def class_name(target: str) -> str:
    """The class at the end of a YAML `target`."""
    return target.rsplit(".", 1)[-1]
