"""Small models with random weights that pipelines of diffusers generate, by sdcli and by the pipeline alone.

`python tests/golden/pipelines.py` prints a table of PSNR by pipeline.

The pipeline alone draws its noise from `torch.Generator("cpu")`, which `--rng cpu` reproduces. Vocabularies of T5,
Gemma and Qwen are made here, with a token for each character; that of CLIP is the one that sdcli has.
"""

from __future__ import annotations

import inspect
import json
import math
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from compare import Pixels, psnr
from tokenizers.pre_tokenizers import ByteLevel

from sdcli.jobs import Job
from sdcli.models import find
from sdcli.models.model import Model, ModelRequest, PipelineModel
from sdcli.models.shipped import VOCABULARIES
from sdcli.pipeline import generate

STEPS, SEED, SIZE = 4, 3, 64
PROMPT, NEGATIVE = "a photograph of an astronaut", "blurry"
CHARACTERS = [*string.ascii_letters, *string.digits, *string.punctuation]
WIDTH = 32


def clip(*, projection: bool) -> tuple[Any, Any]:
    """A CLIP text encoder and its tokenizer."""
    config = transformers.CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, projection_dim=WIDTH
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval(), transformers.CLIPTokenizer.from_pretrained(VOCABULARIES / "clip")


def t5() -> tuple[Any, Any]:
    """A T5 text encoder and its tokenizer."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((each, -3.0) for each in CHARACTERS)]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=2, num_heads=4
    )
    return transformers.T5EncoderModel(config).eval(), tokenizer


def gemma() -> tuple[Any, Any]:
    """A Gemma 2 text encoder and its tokenizer."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    words = {each: number for number, each in enumerate([*special, "▁", *CHARACTERS])}
    tokenizer = transformers.GemmaTokenizer(vocab=words, merges=[])
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    return transformers.Gemma2Model(config).eval(), tokenizer


def qwen() -> tuple[Any, Any]:
    """A Qwen 2.5 VL text encoder and its tokenizer."""
    letters = sorted(ByteLevel.alphabet())
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={each: number for number, each in enumerate(["<|endoftext|>", *letters])},
        merges=[],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [2, 2, 4], "rope_type": "default", "type": "default"},
        },
        vision_config={
            "depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH,
        },
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer


def kl(channels: int) -> Any:
    """A VAE that enlarges 8 times, with as wide a range of colours as an image has."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=8, latent_channels=channels, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=1.5,
    ).eval()  # fmt: skip
    with torch.inference_mode():
        decoded = vae.decode(torch.randn(4, channels, 8, 8), return_dict=False)[0]
        vae.decoder.conv_out.weight /= 2 * decoded.std()
    return vae


def stable_diffusion_3(*, with_t5: bool = True) -> Any:
    one, two = clip(projection=True), clip(projection=True)
    three = t5() if with_t5 else (None, None)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16,
    ).eval()  # fmt: skip
    encoder = three[0]
    if encoder is not None:  # as wide as both CLIPs together
        config = transformers.T5Config(**{**encoder.config.to_dict(), "d_model": 2 * WIDTH})
        encoder = transformers.T5EncoderModel(config).eval()
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(4),
        text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1],
        text_encoder_3=encoder, tokenizer_3=three[1],
    )  # fmt: skip


def without_t5() -> Any:
    return stable_diffusion_3(with_t5=False)


def flux(*, guidance: bool = True) -> Any:
    one, two = clip(projection=False), t5()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance,
    ).eval()  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=kl(4),
        text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1], transformer=transformer,
    )  # fmt: skip


def flux_without_guidance() -> Any:
    return flux(guidance=False)


def pixart() -> Any:
    encoder, tokenizer = t5()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=SIZE // 8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4,
        caption_channels=WIDTH, in_channels=4, cross_attention_dim=32, out_channels=8,
    ).eval()  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    return diffusers.PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=kl(4), transformer=transformer, scheduler=scheduler
    )


def sana() -> Any:
    encoder, tokenizer = gemma()
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=SIZE // 2,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.41407,
    ).eval()  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.SanaPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )


def sana_sprint() -> Any:
    """Few steps, each of which adds noise."""
    parts = sana().components
    parts["transformer"] = diffusers.SanaTransformer2DModel.from_config(
        parts["transformer"].config, guidance_embeds=True, qk_norm="rms_norm_across_heads"
    ).eval()
    return diffusers.SanaSprintPipeline(**parts | {"scheduler": diffusers.SCMScheduler()})


def aura_flow() -> Any:
    tokenizer = t5()[1]
    encoder = transformers.UMT5EncoderModel(
        transformers.UMT5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=2, num_heads=4)
    ).eval()
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=SIZE // 8, patch_size=2, in_channels=4, out_channels=4, num_mmdit_layers=1,
        num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=WIDTH,
        caption_projection_dim=32, pos_embed_max_size=64,
    ).eval()  # fmt: skip
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=kl(4), transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def deep_floyd() -> Any:
    """Pixels instead of latents, no `latents=`, and noise in each step."""
    encoder, tokenizer = t5()
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE, in_channels=3, out_channels=6, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), norm_num_groups=8,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", attention_head_dim=8, act_fn="gelu",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj", addition_embed_type="text",
        addition_embed_type_num_heads=2, resnet_time_scale_shift="scale_shift",
    ).eval()  # fmt: skip
    return diffusers.IFPipeline(
        tokenizer=tokenizer, text_encoder=encoder, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=diffusers.DDPMScheduler(variance_type="learned_range", thresholding=True), watermarker=None,
        requires_safety_checker=False,
    )  # fmt: skip


def lumina() -> Any:
    encoder, tokenizer = gemma()
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=SIZE // 8, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
        num_attention_heads=1, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 4, 8), axes_lens=(300, 64, 64),
        cap_feat_dim=WIDTH,
    ).eval()  # fmt: skip
    return diffusers.Lumina2Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=kl(4),
        text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip


def qwen_image() -> Any:
    encoder, tokenizer = qwen()
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(8, 4, 4),
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=encoder, tokenizer=tokenizer,
        transformer=transformer,
    )  # fmt: skip


MADE: Mapping[str, Callable[[], Any]] = {
    "Stable Diffusion 3": stable_diffusion_3, "Stable Diffusion 3 without T5": without_t5, "Flux": flux,
    "Flux without guidance": flux_without_guidance, "PixArt Sigma": pixart, "Sana": sana, "Lumina 2": lumina,
    "Qwen-Image": qwen_image, "Sana Sprint": sana_sprint, "AuraFlow": aura_flow, "DeepFloyd IF": deep_floyd,
}  # fmt: skip


@dataclass
class SmallPipeline:
    """A small model in diffusers' layout, the same on any machine.

    Attributes:
        kind: a key of `MADE`.
        folder: where it is written.
    """

    kind: str
    folder: Path

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.pipeline = MADE[self.kind]()
        self.pipeline.set_progress_bar_config(disable=True)
        # Without changes by its name alone, as in the files that people have.
        self.pipeline.save_pretrained(self.folder)

    @property
    def index(self) -> dict[str, Any]:
        """The content of `model_index.json`."""
        content: dict[str, Any] = json.loads((self.folder / "model_index.json").read_text())
        return content

    @cached_property
    def model(self) -> Model | PipelineModel:
        """The model as sdcli loads it."""
        return find(ModelRequest(model=str(self.folder))).load(torch.device("cpu"), lambda _: None)

    @property
    def takes_negative(self) -> bool:
        pipeline = self.model.spec.pipeline
        return pipeline is not None and pipeline.takes_negative_prompt

    def by_diffusers(self, *, height: int = SIZE, width: int = SIZE, scale: float | None = None) -> Pixels:
        """The image by the pipeline alone, with its own scale by default, (height, width, 3)."""
        arguments: dict[str, Any] = {"negative_prompt": NEGATIVE} if self.takes_negative else {}
        exact = {"use_resolution_binning": False, "clean_caption": False, "intermediate_timesteps": None}
        taken = inspect.signature(self.pipeline.__call__).parameters
        arguments |= {name: value for name, value in exact.items() if name in taken}
        if scale is not None:
            arguments["true_cfg_scale" if self.kind == "Qwen-Image" else "guidance_scale"] = scale
        images = self.pipeline(
            PROMPT, height=height, width=width, num_inference_steps=STEPS, output_type="np",
            generator=torch.Generator("cpu").manual_seed(SEED), **arguments,
        ).images  # fmt: skip
        pixels: Pixels = (images[0] * 255).astype(np.uint8)
        return pixels

    def job(self, **settings: Any) -> Job:
        """The job of an image, alone in its batch, with the scale of the model."""
        values = {
            "prompt": PROMPT, "negative_prompt": NEGATIVE if self.takes_negative else "", "seed": SEED, "rng": "cpu",
            "noise": {}, "height": SIZE, "width": SIZE, "steps": STEPS, "scale": self.model.spec.default_scale,
            "precision": "full", "model": self.folder.name, "model_hash": "0" * 64, "index": 0,
        }  # fmt: skip
        return Job.model_validate(values | settings)

    def by_sdcli(self, **settings: Any) -> Pixels:
        """The image by sdcli, (height, width, 3)."""
        (image,), _ = generate(self.model, [self.job(**settings)], lambda step: None)
        return self.pixels(image)

    @staticmethod
    def pixels(image: torch.Tensor) -> Pixels:
        """An image of `generate`, in 8 bits."""
        pixels: Pixels = (((image + 1) / 2).clamp(0, 1) * 255).permute(1, 2, 0).numpy().astype(np.uint8)
        return pixels


def main() -> None:
    print("| model | pipeline | PSNR in dB |\n| --- | --- | --- |")
    for kind in MADE:
        with tempfile.TemporaryDirectory() as folder:
            small = SmallPipeline(kind, Path(folder) / "model")
            decibels = psnr(small.by_sdcli(), small.by_diffusers())
            shown = "equal" if math.isinf(decibels) else f"{decibels:.0f}"
            print(f"| {kind} | {small.index['_class_name']} | {shown} |")


if __name__ == "__main__":
    main()
