"""Regenerates the drawings from noisy latents with the UNet (SDEdit), as training data for the VAE.

    python training/redraw.py --tokenizer CLIP --minutes 10
    python training/redraw.py --start sdcli/models/builtin --minutes 10   # with the UNet of an exported model

After an interruption, the same command continues from the last checkpoint. Writes `redrawn/checkpoint.pt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from arguments import ARGUMENTS, training_parser
from dataset import Latents, Redrawn, read_icons
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from icons import PLAIN_VARIANTS
from model import Vocabulary, load_exported, new_scheduler, states_of
from scenes import NAME_END, Scene, caption_of, every_word
from session import Budget, Session, autocast
from sheet import GUIDANCE_SCALE
from torch import Tensor
from train_text import load_text_encoder
from train_unet import load_averaged

STEPS = 20
STARTS = range(5, 10)
"""Range of the first step: timesteps 749 to 549. From earlier steps the UNet might change the background."""


@torch.inference_mode()
def redraw(
    unet: UNet2DConditionModel, clean: Tensor, states: Tensor, empty: Tensor, scale: float, start: int, noise: Tensor
) -> Tensor:
    """Denoises noisy drawings from step `start` of `STEPS` on.

    Args:
        clean: latents of the drawings, `(n, 4, edge, edge)`.
        states: text states of the captions, `(n, 77, TEXT_WIDTH)`.
        empty: text states of the empty caption, `(1, 77, TEXT_WIDTH)`.
        scale: guidance scale.
        noise: standard normal, same shape as `clean`.

    Returns:
        Latents of the same shape.
    """
    scheduler = new_scheduler()
    scheduler.set_timesteps(STEPS, device=clean.device)
    first = scheduler.timesteps[start : start + 1]
    noisy: Tensor = scheduler.add_noise(clean, noise, first.expand(len(clean)))  # type: ignore[arg-type]
    return denoise(unet, noisy, states, empty, scale, scheduler, start)


@torch.inference_mode()
def denoise(
    unet: UNet2DConditionModel,
    latents: Tensor,
    states: Tensor,
    empty: Tensor,
    scale: float,
    scheduler: DDIMScheduler,
    start: int = 0,
) -> Tensor:
    """Denoises latents `(n, 4, edge, edge)` from step `start` of the scheduler on. See `redraw` for the arguments."""
    both = torch.cat((empty.expand_as(states), states))
    for timestep in scheduler.timesteps[start:]:
        unconditional, conditional = (
            unet(torch.cat((latents, latents)), timestep, encoder_hidden_states=both).sample.float().chunk(2)
        )
        guided = unconditional + scale * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents).prev_sample  # type: ignore[union-attr]
    return latents


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--size", batch=32)
    parser.add_argument("--tokenizer", type=Path, help=ARGUMENTS["--tokenizer"]["help"])
    parser.add_argument("--start", type=Path, help="exported model, whose UNet and text encoder are used")
    parser.add_argument("--scale", type=float, default=GUIDANCE_SCALE, help="guidance scale")
    options = parser.parse_args(arguments)
    if not (options.tokenizer or options.start):
        parser.error("give --tokenizer, or --start")

    device = torch.device(options.device)
    icons = read_icons(options.work)
    if options.start:
        unet, text_encoder, tokenizer = load_exported(options.start)
    else:
        vocabulary = Vocabulary(options.tokenizer, every_word(icons))
        unet, tokenizer = load_averaged(options.work), vocabulary.tokenizer
        text_encoder = vocabulary.widen(load_text_encoder(options.work, vocabulary))
    text_encoder.to(device)  # type: ignore[arg-type]
    unet.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-arg]
    cached = Latents(options.work, options.size, icons)
    backgrounds = cached.backgrounds_of(cached.singles)
    # The UNet is not trained on held-out combinations: the VAE must not learn to correct them.
    allowed = [index for index, icon in enumerate(icons) if not (icon.style_held_out or icon.vae_held_out)]

    redrawn = Redrawn()
    session = Session(
        options.work / "redrawn", Budget.of(options), {"redrawn": redrawn}, device, save_seconds=180,
        on_save=lambda: session.log(images=len(redrawn)),
    )  # fmt: skip
    for step, _ in session:
        random = np.random.default_rng([options.seed, step])
        chosen = random.choice(allowed, options.batch).tolist()
        variants = random.integers(len(cached.singles), size=options.batch).tolist()
        scenes = [
            Scene((icon,), int(backgrounds[variant, icon]), (0, 0), variant not in PLAIN_VARIANTS)
            for icon, variant in zip(chosen, variants, strict=True)
        ]
        sentences = [caption_of(random, scene, icons).replace(NAME_END, "") for scene in scenes]
        clean = cached.singles[variants, chosen].float()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(random.integers(2**62))))
        with autocast(options):
            states = states_of([*sentences, ""], tokenizer, text_encoder).float()
            latents = redraw(
                unet, clean.to(device), states[:-1], states[-1:],
                scale=options.scale, start=int(random.choice(STARTS)), noise=noise.to(device),
            )  # fmt: skip
        redrawn.add(chosen, variants, latents)


if __name__ == "__main__":
    main()
