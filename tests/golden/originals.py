"""Small random models as files of the original layout, against diffusers' pipeline with the same weights.

`python tests/golden/originals.py` prints a table of PSNR by model and sampler.

The models are made with diffusers' classes. Their names are turned into those of the original layout here, from the
two architectures, and not with the conversion of sdcli.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from compare import psnr
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from samplers import NOISE_SCHEDULES, SIZE, SmallModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdcli.models import find
from sdcli.models.model import Model, ModelRequest
from sdcli.models.shipped import VOCABULARIES

Tensors = dict[str, torch.Tensor]

_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def unet_tensors(unet: Any) -> Tensors:
    """A UNet's weights by the names of the original layout."""
    blocks = unet.config.layers_per_block
    with_attention = {
        int(found[1]) for name in unet.state_dict() if (found := re.match(r"up_blocks\.(\d+)\.att", name))
    }

    def module(path: str) -> str:
        for ours, theirs in _UNET_TOP.items():
            if path == ours:
                return theirs
        found = re.fullmatch(
            r"(down|up|mid)_blocks?\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", path
        )
        assert found is not None, path
        way, block, kind, inner, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
        rest = _RESNET.get(rest, rest) if kind == "resnets" else rest
        place = 0 if kind == "resnets" else 1
        if way == "mid":
            return f"middle_block.{2 * inner if kind == 'resnets' else 1}.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (blocks + 1)}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{block * (blocks + 1) + blocks}.{2 if block in with_attention else 1}.conv"
        if way == "down":
            return f"input_blocks.{1 + block * (blocks + 1) + inner}.{place}.{rest}"
        return f"output_blocks.{block * (blocks + 1) + inner}.{place}.{rest}"

    return {f"model.diffusion_model.{_by_module(name, module)}": each for name, each in unet.state_dict().items()}


def vae_tensors(vae: Any) -> Tensors:
    """A VAE's weights by the names of the original layout, in which its attention has convolutions."""
    levels = len(vae.config.block_out_channels)

    def module(path: str) -> str:
        path = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", path)
        path = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", path)
        path = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", path)
        path = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", path
        )
        path = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", path)
        attention = re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)", path)
        if attention:
            return f"{attention[1]}mid.attn_1.{_VAE_ATTENTION[attention[2]]}"
        return path.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")

    found = {}
    for name, each in vae.state_dict().items():
        new = f"first_stage_model.{_by_module(name, module)}"
        found[new] = each[:, :, None, None] if ".attn_1." in new and each.ndim == 2 else each
    return found


def clip_tensors(text_encoder: Any, prefix: str) -> Tensors:
    """The weights of CLIP's text model, whose names in files have a part that transformers dropped."""
    return {
        f"{prefix}{name if name.startswith(('text_model.', 'text_projection')) else f'text_model.{name}'}": each
        for name, each in text_encoder.state_dict().items()
        if not name.endswith("position_ids")
    }


def open_clip_tensors(text_encoder: Any, prefix: str, *, more_layers: int = 0) -> Tensors:
    """The weights of CLIP's text model by OpenCLIP's names.

    Args:
        text_encoder: the model.
        prefix: of all names.
        more_layers: layers after the last one, with the weights of the first.
    """
    state = {name.removeprefix("text_model."): each for name, each in text_encoder.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    layers = text_encoder.config.num_hidden_layers
    for layer in range(layers + more_layers):
        ours = f"encoder.layers.{layer if layer < layers else 0}."
        theirs = f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            parts = [state[f"{ours}self_attn.{which}_proj.{end}"] for which in "qkv"]
            found[f"{theirs}attn.in_proj_{end}"] = torch.cat(parts)
            found |= {f"{theirs}{new}.{end}": state[f"{ours}{old}.{end}"] for old, new in _OPEN_CLIP.items()}
    width = state["final_layer_norm.weight"].shape[0]
    found["text_projection"] = (
        state["text_projection.weight"].T if "text_projection.weight" in state else torch.eye(width)
    )
    return {prefix + name: each for name, each in found.items()}


def _by_module(name: str, module: Any) -> str:
    """A name with its module renamed. The inner names of transformers are the same in both layouts."""
    path, _, end = name.rpartition(".")
    return f"{module(path)}.{end}"


RELEASED_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
RELEASED_UNET: Mapping[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}  # fmt: skip
"""The configurations of the releases v1-4, v2-1 and XL base."""
LARGE = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
HUGE = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
GIANT = CLIPTextConfig(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
)


@cache
def release(family: str) -> Tensors:
    """The tensors of a release, by the names in its file. Each has a value of its own, of four bytes, in all places."""
    with torch.device("meta"):
        tensors = unet_tensors(UNet2DConditionModel(**RELEASED_UNET[family])) | vae_tensors(
            AutoencoderKL(**RELEASED_VAE)
        )
        if family != "sd2":
            prefix = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
            tensors |= clip_tensors(CLIPTextModel(LARGE), prefix)
            tensors[f"{prefix}text_model.embeddings.position_ids"] = torch.empty(1, 77)
        if family == "sd2":
            tensors |= open_clip_tensors(CLIPTextModel(HUGE), "cond_stage_model.model.")
        if family == "sdxl":
            tensors |= open_clip_tensors(CLIPTextModelWithProjection(GIANT), "conditioner.embedders.1.model.")
    return {name: torch.tensor(float(number)).expand(each.shape) for number, (name, each) in enumerate(tensors.items())}


class SmallOriginal(SmallModel):
    """A small model in diffusers' layout, and the same weights in a file of the original layout.

    Attributes:
        kind: "sd1", "sd2" or "sdxl".
        extension: of the file.
        stem: its name.
    """

    kind = "sd1"
    extension = "safetensors"
    stem = "model"

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        linear = self.kind != "sd1"
        unet = UNet2DConditionModel(
            sample_size=SIZE // 8, block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=64,
            attention_head_dim=[1, 2] if linear else 8, use_linear_projection=linear,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **self.unet,
        ).eval()  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32), latent_channels=4, scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).eval()  # fmt: skip
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="gelu" if linear else "quick_gelu",
            )
        ).eval()
        with torch.inference_mode():
            output = unet(torch.randn(4, 4, 8, 8), 500, torch.randn(4, 77, 64), return_dict=False)[0]
            unet.conv_out.weight /= output.std()
            decoded = vae.decode(torch.randn(4, 4, 8, 8) / vae.config.scaling_factor, return_dict=False)[0]
            vae.decoder.conv_out.weight /= 2 * decoded.std()
        scheduler = getattr(diffusers, self.scheduler["_class_name"]).from_config(dict(self.scheduler))
        tokenizer = CLIPTokenizer.from_pretrained(VOCABULARIES / "clip")
        if linear:
            tokenizer.pad_token = "!"
        self._finish(
            StableDiffusionPipeline(
                vae,
                text_encoder,
                tokenizer,
                unet,
                scheduler,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )

    def _finish(self, made: Any) -> None:
        """Keep the pipeline, and write its weights."""
        self.made = made
        self.made.set_progress_bar_config(disable=True)
        prediction = self.scheduler.get("prediction_type", "epsilon")
        self.write(self.tensors, {} if prediction == "epsilon" else {"modelspec.prediction_type": "v"})

    @cached_property
    def tensors(self) -> Tensors:
        """All weights by the names of the original layout."""
        return {
            **unet_tensors(self.made.unet),
            **vae_tensors(self.made.vae),
            **self.text_tensors(),
        }

    def text_tensors(self) -> Tensors:
        """The weights of the text encoders."""
        if self.kind == "sd1":
            return clip_tensors(self.made.text_encoder, "cond_stage_model.transformer.")
        return open_clip_tensors(self.made.text_encoder, "cond_stage_model.model.", more_layers=1)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.stem}.{self.extension}"

    def write(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
        """Write tensors into the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.extension == "safetensors":
            save_file(
                {name: each.clone().contiguous() for name, each in tensors.items()}, self.path, dict(metadata or {})
            )
        else:
            torch.save({"state_dict": dict(tensors)}, self.path)
        return self.path

    @property
    def pipeline(self) -> Any:
        return self.made

    @cached_property
    def model(self) -> Model:
        """The model as sdcli loads it from the file alone."""
        return find(ModelRequest(ckpt=str(self.path))).load(torch.device("cpu"), lambda _: None)


class SmallOriginal2(SmallOriginal):
    """A small Stable Diffusion 2."""

    kind = "sd2"


class SmallOriginalXL(SmallOriginal):
    """A small Stable Diffusion XL."""

    kind = "sdxl"
    zeros = True

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        pooled, times, widths = 24, 8, (64, 128)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 8, block_out_channels=(64, 64, 128), layers_per_block=1,
            cross_attention_dim=sum(widths), attention_head_dim=(1, 1, 2), use_linear_projection=True,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2), addition_embed_type="text_time", addition_time_embed_dim=times,
            projection_class_embeddings_input_dim=6 * times + pooled,
        ).eval()  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32), latent_channels=4, scaling_factor=0.13025,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).eval()  # fmt: skip
        one, two = (
            CLIPTextConfig(
                hidden_size=width, intermediate_size=32, num_hidden_layers=4, num_attention_heads=width // 64,
                projection_dim=pooled, hidden_act=act,
            )
            for width, act in zip(widths, ("quick_gelu", "gelu"), strict=True)
        )  # fmt: skip
        text_encoder, text_encoder_2 = CLIPTextModel(one).eval(), CLIPTextModelWithProjection(two).eval()
        for encoder in (text_encoder, text_encoder_2):
            encoder.get_input_embeddings().weight.data *= 50
        text_encoder_2.text_projection.weight.data *= 10
        with torch.inference_mode():
            added = {"text_embeds": torch.randn(4, pooled), "time_ids": torch.full((4, 6), 64.0)}
            context = torch.randn(4, 77, sum(widths))
            output = unet(torch.randn(4, 4, 8, 8), 500, context, added_cond_kwargs=added, return_dict=False)[0]
            unet.conv_out.weight /= output.std()
            decoded = vae.decode(torch.randn(4, 4, 8, 8) / vae.config.scaling_factor, return_dict=False)[0]
            vae.decoder.conv_out.weight /= 2 * decoded.std()
        scheduler = getattr(diffusers, self.scheduler["_class_name"]).from_config(dict(self.scheduler))
        tokenizers = [CLIPTokenizer.from_pretrained(VOCABULARIES / "clip") for _ in range(2)]
        tokenizers[1].pad_token = "!"
        self._finish(
            StableDiffusionXLPipeline(
                vae,
                text_encoder,
                text_encoder_2,
                tokenizers[0],
                tokenizers[1],
                unet,
                scheduler,
                force_zeros_for_empty_prompt=True,
                add_watermarker=False,
            )
        )

    def text_tensors(self) -> Tensors:
        return {
            **clip_tensors(self.made.text_encoder, "conditioner.embedders.0.transformer."),
            **open_clip_tensors(self.made.text_encoder_2, "conditioner.embedders.1.model."),
        }


V1 = NOISE_SCHEDULES["v1"]
SMALL: Mapping[str, tuple[type[SmallOriginal], Mapping[str, Any]]] = {
    "Stable Diffusion 1": (SmallOriginal, V1),
    "Stable Diffusion 2": (SmallOriginal2, V1),
    "Stable Diffusion 2, v-prediction": (SmallOriginal2, {**V1, "prediction_type": "v_prediction"}),
    "Stable Diffusion XL": (SmallOriginalXL, V1),
    "Stable Diffusion XL, v-prediction": (SmallOriginalXL, {**V1, "prediction_type": "v_prediction"}),
}
"""Models, and `scheduler_config.json` of diffusers for them."""


def main() -> None:
    samplers = ("ddim", "plms", "euler", "euler_a", "dpmpp_2m", "heun", "unipc")
    print(f"| model | {' | '.join(samplers)} |\n| --- |{' --- |' * len(samplers)}")
    for title, (kind, schedule) in SMALL.items():
        with tempfile.TemporaryDirectory() as folder:
            small = kind(Path(folder), schedule)
            found = [psnr(small.by_sdcli(name, "auto"), small.by_diffusers(name, "auto")) for name in samplers]
            print(f"| {title} | {' | '.join('equal' if math.isinf(each) else f'{each:.0f}' for each in found)} |")


if __name__ == "__main__":
    main()
