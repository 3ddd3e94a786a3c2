"""Have the UNet redraw the drawings from deep in noise, for the VAE to learn what they come out like.

    python training/redraw.py --tokenizer CLIP --minutes 10

Killed, it carries on from the last checkpoint. Writes `redrawn/checkpoint.pt`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from arguments import training_parser
from dataset import Latents, Redrawn, read_icons
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from icons import PLAIN_VARIANTS
from model import Vocabulary, new_scheduler, states_of
from scenes import NAME_END, Scene, every_word, sentence_of
from session import Budget, Session, autocast
from sheet import GUIDANCE_SCALE
from torch import Tensor
from train_text import load_text_encoder
from train_unet import load_averaged

STEPS = 20
STARTS = range(5, 10)
"""At which of the steps the UNet sets in: timesteps 749 to 549. Before them it might draw another ground than ours."""


@torch.inference_mode()
def redraw(
    unet: UNet2DConditionModel, clean: Tensor, states: Tensor, nothing: Tensor, scale: float, start: int, noise: Tensor
) -> Tensor:
    """What the UNet makes of drawings `clean`, `(n, 4, edge, edge)`, from step `start` of `STEPS` on.

    Args:
        states: of the sentences, `(n, 77, TEXT_WIDTH)`.
        nothing: of the empty sentence, `(1, 77, TEXT_WIDTH)`.
        scale: of the guidance.
        noise: as `clean`, standard normal.
    """
    scheduler = new_scheduler()
    scheduler.set_timesteps(STEPS, device=clean.device)
    timesteps = scheduler.timesteps[start:]
    drawn: Tensor = scheduler.add_noise(clean, noise, timesteps[:1].expand(len(clean)))  # type: ignore[arg-type]
    both = torch.cat((nothing.expand_as(states), states))
    for timestep in timesteps:
        without, asked = unet(torch.cat((drawn, drawn)), timestep, encoder_hidden_states=both).sample.float().chunk(2)
        guided = without + scale * (asked - without)
        drawn = scheduler.step(guided, timestep, drawn).prev_sample  # type: ignore[union-attr]
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--tokenizer", "--size", batch=32)
    parser.add_argument("--scale", type=float, default=GUIDANCE_SCALE, help="of the guidance")
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    text_encoder = vocabulary.widen(load_text_encoder(options.work, vocabulary))
    text_encoder.to(device)  # type: ignore[arg-type]
    unet = load_averaged(options.work)
    unet.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-arg]
    latents = Latents(options.work, options.size, icons)
    grounds = latents.grounds_of(latents.singles)
    # The UNet has not learnt to draw those of `pair_held_out`: nobody shall put right for it what it does not know.
    allowed = [index for index, icon in enumerate(icons) if not (icon.pair_held_out or icon.vae_held_out)]

    redrawn = Redrawn()
    session = Session(
        options.work / "redrawn", Budget.of(options), {"redrawn": redrawn}, device, save_seconds=180,
        on_save=lambda: session.log(images=len(redrawn)),
    )  # fmt: skip
    for step, _ in session:
        random = np.random.default_rng([options.seed, step])
        chosen = random.choice(allowed, options.batch).tolist()
        variants = random.integers(len(latents.singles), size=options.batch).tolist()
        scenes = [
            Scene((icon,), int(grounds[variant, icon]), (0, 0), variant not in PLAIN_VARIANTS)
            for icon, variant in zip(chosen, variants, strict=True)
        ]
        sentences = [sentence_of(random, scene, icons).replace(NAME_END, "") for scene in scenes]
        clean = latents.singles[variants, chosen].float()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(random.integers(2**62))))
        with autocast(options):
            states = states_of([*sentences, ""], vocabulary.tokenizer, text_encoder).float()
            drawn = redraw(
                unet, clean.to(device), states[:-1], states[-1:],
                scale=options.scale, start=int(random.choice(STARTS)), noise=noise.to(device),
            )  # fmt: skip
        redrawn.add(chosen, variants, drawn)


if __name__ == "__main__":
    main()
