"""Trains the VAE on drawings, starting from its teacher: the decoder improves for the teacher's latents.

    python training/train_vae.py --teacher TAESD --minutes 25
    python training/train_vae.py --teacher TAESD --minutes 45 --redrawn   # second phase: with drawings of `redraw.py`

Batches consist of crops, and later of whole images, of which they contain fewer. After an interruption, the same
command continues from the last checkpoint. Writes `vae/` (a diffusers folder with the averaged weights),
`vae/checkpoint.pt` and `vae/log.jsonl`.
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
"""Standard deviation of the noise added to the latents in training, since the latents of the UNet are inexact."""

CROP = 64
"""Edge of the training crops in pixels, until the fraction `WHOLE_FROM` of the budget; then whole images, with their
borders. Redrawn images are never cropped: what a blotch hides follows from its surroundings."""

WHOLE_FROM = 0.8

MEASURED = 48
"""Number of validation drawings for the PSNR during training; `evaluate.py` uses all."""

ENCODER_EVERY = 8
"""Number of steps per step of the encoder: image generation needs the decoder only."""


def from_teacher(teacher: AutoencoderTiny, stats: LatentStats) -> AutoencoderTiny:
    """A VAE with the weights of the teacher, for latents of mean 0 and standard deviation 1 per channel.

    The change is exact in the last convolution of the encoder. The decoder first applies a tanh to its latents, so
    the change is approximate for latents far from the mean, until training corrects it.
    """
    vae = deepened(teacher)
    mean, std = torch.tensor(stats.mean), torch.tensor(stats.std)
    last, first = cast("nn.Conv2d", vae.encoder.layers[-1]), cast("nn.Conv2d", vae.decoder.layers[0])
    assert last.bias is not None and first.bias is not None
    with torch.no_grad():
        last.weight /= std[:, None, None, None]
        last.bias.copy_((last.bias - mean) / std)
        # A convolution pads with zeros, which now mean something else: exact inside, approximate at the border.
        first.bias += first.weight.sum((2, 3)) @ mean
        first.weight *= std[None, :, None, None]
    return vae


def deepened(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Inserts our additional decoder blocks into a VAE of TAESD's shape or ours, so that its output does not change."""
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
    """The VAE with the averaged weights of the last checkpoint, float32."""
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(work / "vae", local_files_only=True)
    vae.requires_grad_(False)
    return vae


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of adjacent pixels, vertical and horizontal: they penalise blurred edges."""
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def image_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """L1 + L2 + L1 of the gradients, for RGB in [-1, 1]."""
    loss = functional.l1_loss(decoded, target) + functional.mse_loss(decoded, target)
    for ours, theirs in zip(gradients(decoded), gradients(target), strict=True):
        loss = loss + functional.l1_loss(ours, theirs)
    return loss


@torch.inference_mode()
def psnr(vae: AutoencoderTiny, latents: Tensor, images: Tensor) -> tuple[float, float]:
    """PSNR in dB over whole images, decoded from the teacher's latents, and from those of our encoder."""
    values = []
    for codes in (latents, vae.encode(images).latents):
        error = (vae.decode(codes).sample.clamp(-1, 1) - images) / 2
        values.append(float(-10 * error.square().mean((1, 2, 3)).log10().mean()))
    return values[0], values[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--teacher", "--size", batch=16, lr=3e-4)
    parser.add_argument("--start", type=Path, help="exported model, whose VAE is the start")
    parser.add_argument("--redrawn", action="store_true", help="replace half of the drawings by those of redraw.py")
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

    @functools.cache  # rendering takes a third as long as training on it; 20,000 images of 128 x 128 are a gigabyte
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
        decoder, round_trip = psnr(vae, unseen_latents, unseen_images)
        ema.restore(vae.parameters())
        session.log(psnr=decoder, psnr_round_trip=round_trip)

    parts = {"vae": vae, "optimizer": optimizer, "ema": ema}
    session = Session(folder, Budget.of(options), parts, device, save_seconds=180, on_save=measure)
    for step, done in session:
        random = np.random.default_rng([options.seed, step])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        crop = options.size if redrawn or done > WHOLE_FROM else CROP
        target_list, codes_list, given_list = [], [], []
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
            target_list.append(pixels(icon, variant)[window])
        codes = torch.stack(codes_list).float()
        noise = LATENT_NOISE * torch.randn(codes.shape, generator=generator)
        noisy = (torch.stack(given_list).float() + noise).to(device, memory_format=torch.channels_last)
        target = torch.stack(target_list).to(device, memory_format=torch.channels_last)

        with autocast(options):
            loss = image_loss(vae.decode(noisy).sample.float(), target)
            if step % ENCODER_EVERY == 0:
                own = vae.encode(target).latents
                loss = loss + image_loss(vae.decode(own).sample.float(), target)
                loss = loss + functional.mse_loss(own.float(), codes.to(device))
        optimise(optimizer, loss, learning_rate(options.lr, step, done, warmup=20, floor=0.01))
        ema.step(vae.parameters())


if __name__ == "__main__":
    main()
