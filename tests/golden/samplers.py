"""Every sampler and schedule against diffusers' `StableDiffusionPipeline`.

`python tests/golden/samplers.py` prints a table of PSNR by sampler and schedule for each kind of model.

Each scheduler of diffusers is made by `from_config` from that of the model, as diffusers' documentation shows, and
draws from `torch.Generator("cpu")`. The model is small and random, with a UNet whose output has a standard deviation of
about 1: with a smaller one, samplers hardly differ. Images are cut off to 8 bits, as the original saves them.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from compare import Pixels, psnr
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdcli.errors import UsageError
from sdcli.jobs import Job
from sdcli.model_spec import CURVES
from sdcli.models import find
from sdcli.models.model import Model, ModelRequest
from sdcli.models.shipped import VOCABULARIES
from sdcli.pipeline import generate
from sdcli.pipeline.samplers import Plan
from sdcli.pipeline.schedules import SPACINGS
from sdcli.registry import SAMPLERS

STEPS, SEED, SCALE, SIZE = 8, 3, 5.0, 64
PROMPT, NEGATIVE = "a photograph of an astronaut", "blurry"

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "ddpm": ("DDPMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {"noise_sampler_seed": SEED}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "sa_solver": ("SASolverScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
"""diffusers' scheduler of each sampler, and its arguments. Left out are `dpm_solver`, which is the original's with
timesteps of its own, and `ipndm`, whose scheduler in diffusers has a noise schedule for another kind of model."""

OF_V1 = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False,
}  # fmt: skip
NOISE_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "v1": {"_class_name": "PNDMScheduler", **OF_V1, "set_alpha_to_one": False, "skip_prk_steps": True},
    "v-prediction": {
        "_class_name": "DDIMScheduler", **OF_V1, "prediction_type": "v_prediction",
        "set_alpha_to_one": False, "timestep_spacing": "leading",
    },
    "zero terminal SNR": {
        "_class_name": "EulerDiscreteScheduler", **OF_V1, "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    },
    "karras": {
        "_class_name": "DPMSolverMultistepScheduler", **OF_V1, "use_karras_sigmas": True,
        "timestep_spacing": "linspace",
    },
}  # fmt: skip
"""`scheduler_config.json` of models."""


@dataclass
class SmallModel:
    """A small Stable Diffusion 1 model with random weights, the same on any machine, in diffusers' layout.

    Attributes:
        folder: where it is written.
        scheduler: the content of its `scheduler_config.json`.
        unet: further arguments of the UNet.
    """

    folder: Path
    scheduler: Mapping[str, Any]
    unet: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=16,
            attention_head_dim=4, norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **self.unet,
        ).eval()  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=8, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).eval()  # fmt: skip
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
        ).eval()
        with torch.inference_mode():
            output = unet(torch.randn(4, 4, 8, 8), 500, torch.randn(4, 77, 16), return_dict=False)[0]
            unet.conv_out.weight /= output.std()
            # As wide a range of colours as an image has.
            decoded = vae.decode(torch.randn(4, 4, 8, 8) / vae.config.scaling_factor, return_dict=False)[0]
            vae.decoder.conv_out.weight /= 2 * decoded.std()
        scheduler = getattr(diffusers, self.scheduler["_class_name"]).from_config(dict(self.scheduler))
        tokenizer = CLIPTokenizer.from_pretrained(VOCABULARIES / "clip")
        StableDiffusionPipeline(
            vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(self.folder)  # fmt: skip
        (self.folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(self.scheduler))

    @cached_property
    def pipeline(self) -> Any:
        """Diffusers' pipeline."""
        made = StableDiffusionPipeline.from_pretrained(self.folder)
        made.set_progress_bar_config(disable=True)
        return made

    @cached_property
    def model(self) -> Model:
        """The model as sdcli loads it."""
        return find(ModelRequest(model=str(self.folder))).load(torch.device("cpu"), lambda _: None)

    def by_diffusers(self, sampler: str, schedule: str, **arguments: Any) -> Pixels:
        """The image by diffusers' pipeline, (height, width, 3)."""
        name, options = SCHEDULERS[sampler]
        changes = dict(options)
        if schedule != "auto":
            # A schedule that is named replaces the one of the model's files.
            changes |= {f"use_{curve}_sigmas": curve == schedule for curve in CURVES}
        if schedule in SPACINGS:
            changes["timestep_spacing"] = schedule
        before = self.pipeline.scheduler
        self.pipeline.scheduler = getattr(diffusers, name).from_config(before.config, **changes)
        try:
            arguments = {
                "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": SCALE,
                **arguments,
            }  # fmt: skip
            images = self.pipeline(
                **{"height": SIZE, "width": SIZE, **arguments}, output_type="np",
                generator=torch.Generator("cpu").manual_seed(SEED),
            ).images  # fmt: skip
        finally:
            self.pipeline.scheduler = before
        pixels: Pixels = (images[0] * 255).astype(np.uint8)
        return pixels

    def by_sdcli(self, sampler: str, schedule: str, **settings: Any) -> Pixels:
        """The image by sdcli, (height, width, 3)."""
        (image,), _ = generate(self.model, [self.job(sampler, schedule, **settings)], lambda step: None)
        return self.pixels(image)

    def job(self, sampler: str, schedule: str, **settings: Any) -> Job:
        """The job of an image, alone in its batch."""
        values = {
            "prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "rng": "cpu", "noise": {}, "height": SIZE,
            "width": SIZE, "steps": STEPS, "sampler": sampler, "schedule": schedule, "scale": SCALE,
            "precision": "full", "model": self.folder.name, "model_hash": "0" * 64, "index": 0,
        }  # fmt: skip
        return Job.model_validate(values | settings)

    @staticmethod
    def pixels(image: torch.Tensor) -> Pixels:
        """An image of `generate`, in 8 bits."""
        pixels: Pixels = (((image + 1) / 2).clamp(0, 1) * 255).permute(1, 2, 0).numpy().astype(np.uint8)
        return pixels

    def able(self) -> Iterator[tuple[str, str]]:
        """The samplers, and the schedules, that both sides can do."""
        noise = self.model.spec.schedule
        for name in SCHEDULERS:
            try:
                SAMPLERS[name].check(Plan(STEPS), noise)
            except UsageError:
                continue
            yield from ((name, schedule) for schedule in schedules_of(name))


def schedules_of(sampler: str) -> list[str]:
    """The schedules that diffusers' scheduler of a sampler has, too."""
    known = ("auto", *SAMPLERS[sampler].schedules)
    if sampler == "euler_a":
        known = ("auto", *SPACINGS)
    return [name for name in known if name in ("auto", *SPACINGS, *CURVES)]


def main() -> None:
    for title, scheduler in NOISE_SCHEDULES.items():
        with tempfile.TemporaryDirectory() as folder:
            small = SmallModel(Path(folder), scheduler)
            found: dict[str, dict[str, float]] = {}
            for name, schedule in small.able():
                try:
                    theirs = small.by_diffusers(name, schedule)
                except (IndexError, AssertionError):  # with two steps at the same timestep
                    continue
                decibels = psnr(small.by_sdcli(name, schedule), theirs)
                found.setdefault(name, {})[schedule] = decibels
        columns = ("auto", *SPACINGS, *CURVES)
        print(f"\n{title}, PSNR in dB:\n\n| sampler | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
        for name, row in found.items():
            cells = (
                "" if each not in row else "equal" if math.isinf(row[each]) else f"{row[each]:.0f}" for each in columns
            )
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
