"""Train the VAE on drawings, starting from its teacher: the decoder draws better what the teacher's latents hold.

    python training/train_vae.py --teacher TAESD --minutes 25
    python training/train_vae.py --teacher TAESD --minutes 45 --redrawn   # then on what `redraw.py` made, too

A batch is of crops; of whole images, which come last, it holds fewer. Killed, it carries on from the last checkpoint.
Writes `vae/` (a diffusers folder with the averaged weights), `vae/checkpoint.pt` and `vae/log.jsonl`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from arguments import training_parser
from dataset import CELL, Latents, LatentStats, Redrawn, read_icons
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.training_utils import EMAModel
from icons import read_icon, render
from model import new_vae
from prepare import load_teacher
from session import Budget, Session, autocast, learning_rate, optimise
from torch import Tensor, nn
from torch.nn import functional

LATENT_NOISE = 0.05
"""Standard deviation of the noise on the decoder's latents in training: the UNet's are never quite right either."""

CROP = 64
"""Edge of the training crops in pixels, until `WHOLE_FROM` of the time; then whole images, with their borders.
What was redrawn is seen whole always: what a blotch hides is told by what is around it."""

WHOLE_FROM = 0.8

MEASURED = 48
"""Held-out drawings that the PSNR is measured on while training; `evaluate.py` takes all."""

ENCODER_EVERY = 8
"""The encoder learns on one step in so many: drawing needs only the decoder."""


def from_teacher(teacher: AutoencoderTiny, stats: LatentStats) -> AutoencoderTiny:
    """A VAE that starts as the teacher, with latents of mean 0 and standard deviation 1 by channel.

    The encoder's last convolution takes the change in exactly. The decoder squeezes its latents through a tanh first,
    so there it is right only for those near the mean, until training has dealt with the rest.
    """
    vae = deepened(teacher)
    mean, std = torch.tensor(stats.mean), torch.tensor(stats.std)
    last, first = cast("nn.Conv2d", vae.encoder.layers[-1]), cast("nn.Conv2d", vae.decoder.layers[0])
    assert last.bias is not None and first.bias is not None
    with torch.no_grad():
        last.weight /= std[:, None, None, None]
        last.bias.copy_((last.bias - mean) / std)
        # A convolution pads with zeros, which are no longer the teacher's zeros: right inside, near enough at the rim.
        first.bias += first.weight.sum((2, 3)) @ mean
        first.weight *= std[None, :, None, None]
    return vae


def deepened(vae: AutoencoderTiny) -> AutoencoderTiny:
    """A VAE of our shape that does the same as this one of TAESD's shape or ours: its further blocks change nothing."""
    deep = new_vae()
    first, ours = (2 + model.config["num_decoder_blocks"][0] for model in (vae, deep))
    weights = {}
    for name, weight in vae.state_dict().items():
        part, layers, layer, rest = name.split(".", 3)
        if part == "decoder" and int(layer) >= first:
            layer = str(int(layer) + ours - first)
        weights[".".join((part, layers, layer, rest))] = weight
    deep.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for block in list(deep.decoder.layers)[first:ours]:
            for zero in cast("nn.Sequential", block.conv)[-1].parameters():
                zero.zero_()
    return deep


def load_vae(work: Path) -> AutoencoderTiny:
    """The VAE as it stands, averaged weights, float32."""
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(work / "vae", local_files_only=True)
    vae.requires_grad_(False)
    return vae


def slopes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, down and across: an error in them is a blurred edge."""
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def image_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1 + L2 + L1 of the slopes, RGB in [-1, 1]."""
    loss = functional.l1_loss(drawn, wanted) + functional.mse_loss(drawn, wanted)
    for ours, theirs in zip(slopes(drawn), slopes(wanted), strict=True):
        loss = loss + functional.l1_loss(ours, theirs)
    return loss


@torch.inference_mode()
def psnr(vae: AutoencoderTiny, latents: Tensor, images: Tensor) -> tuple[float, float]:
    """Decibels over whole images: from the teacher's latents, and there and back through our own encoder."""
    values = []
    for codes in (latents, vae.encode(images).latents):
        error = (vae.decode(codes).sample.clamp(-1, 1) - images) / 2
        values.append(float(-10 * error.square().mean((1, 2, 3)).log10().mean()))
    return values[0], values[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--teacher", "--size", batch=16, lr=3e-4)
    parser.add_argument("--start", type=Path, help="exported model, whose VAE is trained further")
    parser.add_argument("--redrawn", action="store_true", help="half of the drawings are as the UNet redrew them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    folder = options.work / "vae"
    icons = read_icons(options.work)
    drawings = [read_icon(icon.path) for icon in icons]
    latents = Latents(options.work, options.size, icons).singles
    redrawn = Redrawn.load(options.work) if options.redrawn else None

    @functools.cache  # drawing one takes a third as long as learning from it; 20,000 of 128 x 128 are a gigabyte
    def rendered(icon: int, variant: int) -> Tensor:
        image = render(icons[icon], drawings[icon], variant, options.size)
        return torch.from_numpy(image.copy()).permute(2, 0, 1)

    def pixels(icon: int, variant: int) -> Tensor:
        return rendered(icon, variant).float() / 127.5 - 1

    seen = np.array([index for index, icon in enumerate(icons) if not icon.vae_held_out])
    unseen = [index for index, icon in enumerate(icons) if icon.vae_held_out][:MEASURED]
    unseen_latents = latents[0, unseen].float().to(device)
    unseen_images = torch.stack([pixels(icon, 0) for icon in unseen]).to(device)

    if options.start:
        vae = deepened(
            AutoencoderTiny.from_pretrained(options.start / "vae", torch_dtype=torch.float32, local_files_only=True)
        )
    else:
        vae = from_teacher(load_teacher(options.teacher), LatentStats.load(options.work))
    vae.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-arg]
    optimizer = torch.optim.AdamW(vae.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    ema = EMAModel(vae.parameters(), decay=0.998, foreach=True)
    ema.to(device)

    def measure() -> None:
        ema.store(vae.parameters())
        ema.copy_to(vae.parameters())
        vae.save_pretrained(folder)
        taught, own = psnr(vae, unseen_latents, unseen_images)
        ema.restore(vae.parameters())
        session.log(psnr=taught, psnr_round_trip=own)

    parts = {"vae": vae, "optimizer": optimizer, "ema": ema}
    session = Session(folder, Budget.of(options), parts, device, save_seconds=180, on_save=measure)
    for step, done in session:
        random = np.random.default_rng([options.seed, step])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        crop = options.size if redrawn or done > WHOLE_FROM else CROP
        wanted_list, codes_list, given_list = [], [], []
        for number in range(options.batch * CROP**2 // crop**2):
            if redrawn and number % 2:
                icon, variant, given = redrawn[int(random.integers(len(redrawn)))]
            else:
                icon, variant = int(random.choice(seen)), int(random.integers(len(latents)))
                given = latents[variant, icon]
            down, across = random.integers((options.size - crop) // CELL + 1, size=2)
            window = (..., slice(down, down + crop // CELL), slice(across, across + crop // CELL))
            codes_list.append(latents[variant, icon][window])
            given_list.append(given[window])
            window = (..., slice(CELL * down, CELL * down + crop), slice(CELL * across, CELL * across + crop))
            wanted_list.append(pixels(icon, variant)[window])
        codes = torch.stack(codes_list).float()
        noise = LATENT_NOISE * torch.randn(codes.shape, generator=generator)
        noisy = (torch.stack(given_list).float() + noise).to(device, memory_format=torch.channels_last)
        wanted = torch.stack(wanted_list).to(device, memory_format=torch.channels_last)

        with autocast(options):
            loss = image_loss(vae.decode(noisy).sample.float(), wanted)
            if step % ENCODER_EVERY == 0:
                own = vae.encode(wanted).latents
                loss = loss + image_loss(vae.decode(own).sample.float(), wanted)
                loss = loss + functional.mse_loss(own.float(), codes.to(device))
        optimise(optimizer, loss, learning_rate(options.lr, step, done, warmup=20, floor=0.01))
        ema.step(vae.parameters())


if __name__ == "__main__":
    main()
