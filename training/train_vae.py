"""Trains the VAE on drawings, starting from its teacher: the decoder improves for the teacher's latents.

    python training/train_vae.py --teacher TAESD --minutes 25
    python training/train_vae.py --teacher TAESD --minutes 45 --redrawn   # second phase: with drawings of `redraw.py`
    python training/train_vae.py --double --minutes 120   # then: images of twice the size, from the same latents

Batches consist of crops, and later of whole images, of which they contain fewer. After an interruption, the same
command continues from the last checkpoint. Writes `vae/` (a diffusers folder with the averaged weights),
`vae/checkpoint.pt` and `vae/log.jsonl`; with `--double` the same in `vae-double/`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from arguments import ARGUMENTS, training_parser
from dataset import CELL, Latents, LatentStats, Redrawn, read_icons
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock  # type: ignore[attr-defined]
from diffusers.training_utils import EMAModel
from icons import read_icon, render
from model import cell_of, new_double_vae, new_vae
from prepare import load_teacher
from session import Budget, Session, autocast, learning_rate, optimise
from torch import Tensor, nn
from torch.nn import functional

LATENT_NOISE = 0.05
"""Standard deviation of the noise added to the latents in training, since the latents of the UNet are inexact."""

CROP = 8
"""Edge of the training crops in latents, until the fraction `WHOLE_FROM` of the budget; then whole images, with their
borders. Redrawn images are never cropped: what a blotch hides follows from its surroundings."""

WHOLE_FROM = 0.8

CACHED_BYTES = 2**30
"""Size of the cache of rendered drawings: rendering takes a third as long as training at 128 pixels."""

MEASURED = 48
"""Number of validation drawings for the PSNR during training, a quarter of them at twice the size; `evaluate.py` uses
all."""

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


def levels_of(decoder: nn.Module) -> list[tuple[list[AutoencoderTinyBlock], nn.Conv2d]]:
    """The levels of a decoder of AutoencoderTiny: the blocks of each, and the convolution after them."""
    levels: list[tuple[list[AutoencoderTinyBlock], nn.Conv2d]] = []
    blocks: list[AutoencoderTinyBlock] = []
    for layer in list(cast("nn.Sequential", decoder.layers))[1:]:
        if isinstance(layer, AutoencoderTinyBlock):
            blocks.append(layer)
        elif isinstance(layer, nn.Conv2d):
            levels.append((blocks, layer))
            blocks = []
    return levels


@torch.no_grad()
def _copy_decoder(source: nn.Module, target: nn.Module) -> None:
    """Copies a decoder to one with more blocks or levels. Additional blocks are identities; additional levels, and the
    convolution after the last level of the source, keep their weights if their shape differs.
    """
    first, ours = (cast("nn.Sequential", decoder.layers)[0] for decoder in (source, target))
    ours.load_state_dict(first.state_dict())
    for (blocks, last), (more, following) in zip(levels_of(source), levels_of(target), strict=False):
        for block, copy in zip(blocks, more, strict=False):
            copy.load_state_dict(block.state_dict())
        for block in more[len(blocks) :]:
            for zero in cast("nn.Sequential", block.conv)[-1].parameters():
                zero.zero_()
        if last.weight.shape == following.weight.shape:
            following.load_state_dict(last.state_dict())


def deepened(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Inserts our additional decoder blocks into a VAE of TAESD's shape or ours, so that its output does not change."""
    deep = new_vae()
    deep.encoder.load_state_dict(vae.encoder.state_dict())
    _copy_decoder(vae.decoder, deep.decoder)
    return deep


@torch.no_grad()
def doubled(vae: AutoencoderTiny) -> AutoencoderTiny:
    """A VAE of images of twice the size from the same latents: it decodes to the image of `vae` with each pixel
    repeated, and encodes the average of four pixels, but for a fifth of them approximately, as `vae` does.
    """
    double = new_double_vae()
    _copy_decoder(vae.decoder, double.decoder)
    last, (wide, final) = levels_of(vae.decoder)[-1][1], (level[1] for level in levels_of(double.decoder)[-2:])
    # The last convolution, with its taps two pixels apart, as two: taps in the first, equal shifts in the second.
    final.weight.zero_()
    assert last.bias is not None and final.bias is not None
    final.bias.copy_(last.bias)
    for number, (colour, down, across) in enumerate(itertools.product(range(3), repeat=3)):
        wide.weight[number] = 0
        wide.weight[number, :, down, across] = last.weight[colour, :, down, across]
        final.weight[colour, number, down, across] = 1
    layers, deeper = (list(cast("Iterable[nn.Conv2d]", part.encoder.layers)) for part in (vae, double))
    for layer, copy in zip(layers[1:], deeper[2:], strict=True):
        copy.load_state_dict(layer.state_dict())
    # The first convolution on averages of two by two pixels, as two: shifts, a constant, and taps with a stride of two.
    # The taps reach from -2 to 2, and those of an average to 3: the last pixel is replaced by the one before it.
    single, shifts, taps = layers[0], deeper[0], deeper[1]
    assert single.bias is not None and shifts.bias is not None
    for weight in (shifts.weight, shifts.bias, taps.weight):
        weight.zero_()
    for number, (colour, down, across) in enumerate(itertools.product(range(3), repeat=3)):
        shifts.weight[number, colour, down, across] = 1
        for row, column in itertools.product(range(6), repeat=2):
            (shift, tap), (beside, tap_beside) = (_split(min(place, 4) - 2) for place in (row, column))
            if (shift + 1, beside + 1) == (down, across):
                taps.weight[:, number, tap + 1, tap_beside + 1] += single.weight[:, colour, row // 2, column // 2] / 4
    shifts.bias[27] = 1
    taps.weight[:, 27, 1, 1] = single.bias
    return double


def decode_double(vae: AutoencoderTiny, latents: Tensor) -> Tensor:
    """What a VAE of twice the size decodes to, but for the outermost pixels, in less time and memory.

    The last two convolutions are computed as one at half the size, whose channels are the four pixels of each.
    """
    layers = list(cast("Iterable[nn.Conv2d]", vae.decoder.layers))
    features = torch.tanh(latents / 3) * 3
    for layer in layers[:-3]:
        features = layer(features)
    wide, final = layers[-2:]
    bias = cast("Tensor", final.bias)
    # Both as one convolution of 5 x 5 on the enlarged features: (3, 64, 5, 5).
    kernel = functional.conv2d(wide.weight.transpose(0, 1), final.weight.flip(2, 3), padding=2).transpose(0, 1)
    # Of the taps -2 to 2, the first pixel of a pair has (-2, -1), (0, 1), (2) in the pixels -1, 0, 1 of the features,
    # and the second one (-2), (-1, 0), (1, 2).
    both = kernel.new_tensor([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
                              [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]])  # fmt: skip
    four = torch.einsum("pai,qbj,ocij->opqcab", both, both, kernel).flatten(0, 2)
    pixels = functional.conv2d(features, four, bias.repeat_interleave(4), padding=1)
    return functional.pixel_shuffle(pixels, 2).mul(2).sub(1)


def _split(offset: int) -> tuple[int, int]:
    """An offset of -2 to 2 pixels as the sum of two of -1 to 1."""
    shift = max(-1, min(1, offset))
    return shift, offset - shift


def vae_folder(work: Path, *, double: bool | None = None) -> Path:
    """Folder of the VAE, or of the one of twice the size; if it is not said which, of the latter if it exists."""
    folder = work / "vae-double"
    return folder if double or (double is None and folder.exists()) else work / "vae"


def load_vae(work: Path, *, double: bool | None = None) -> AutoencoderTiny:
    """The VAE with the averaged weights of the last checkpoint, float32. See `vae_folder`."""
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(vae_folder(work, double=double), local_files_only=True)
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
    parser = training_parser(__doc__, "--size", batch=16, lr=3e-4)
    parser.add_argument("--teacher", type=Path, help=ARGUMENTS["--teacher"]["help"])
    parser.add_argument("--double", action="store_true", help="decode to images of twice --size")
    parser.add_argument("--start", type=Path, help="exported model, whose VAE is the start")
    parser.add_argument("--redrawn", action="store_true", help="replace half of the drawings by those of redraw.py")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    if not (options.teacher or options.start or options.double):
        parser.error("give --teacher, or --start")

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    folder = vae_folder(options.work, double=options.double)
    cell = 2 * CELL if options.double else CELL
    whole: int = options.size // CELL
    icons = read_icons(options.work)
    drawings = [read_icon(icon.path) for icon in icons]
    latents = Latents(options.work, options.size, icons).singles
    redrawn = Redrawn.load(options.work) if options.redrawn else None

    @functools.lru_cache(maxsize=CACHED_BYTES // (3 * (whole * cell) ** 2))
    def rendered(icon: int, variant: int) -> Tensor:
        image = render(icons[icon], drawings[icon], variant, whole * cell)
        return torch.from_numpy(image.copy()).permute(2, 0, 1)

    def pixels(icon: int, variant: int) -> Tensor:
        return rendered(icon, variant).float() / 127.5 - 1

    seen = np.array([index for index, icon in enumerate(icons) if not icon.vae_held_out])
    unseen = [index for index, icon in enumerate(icons) if icon.vae_held_out][: MEASURED * CELL**2 // cell**2]
    unseen_latents = latents[0, unseen].float().to(device)
    unseen_images = torch.stack([pixels(icon, 0) for icon in unseen]).to(device)

    if options.start or options.double:
        start = load_teacher(options.start) if options.start else load_vae(options.work, double=False)
        if cell_of(start) == 2 * CELL:
            vae = start.requires_grad_(True)
        else:
            vae = doubled(start) if options.double else deepened(start)
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
    session = Session(folder, Budget.of(options), parts, device, save_seconds=300, on_save=measure)
    for step, done in session:
        random = np.random.default_rng([options.seed, step])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        crop = whole if redrawn or done > WHOLE_FROM else CROP
        target_list, codes_list, given_list = [], [], []
        for number in range(max(1, options.batch * CROP**2 // crop**2)):
            if redrawn and number % 2:
                icon, variant, given = redrawn[int(random.integers(len(redrawn)))]
            else:
                icon, variant = int(random.choice(seen)), int(random.integers(len(latents)))
                given = latents[variant, icon]
            down, across = random.integers(whole - crop + 1, size=2)
            codes_list.append(latents[variant, icon][:, down : down + crop, across : across + crop])
            given_list.append(given[:, down : down + crop, across : across + crop])
            top, left, edge = cell * down, cell * across, cell * crop
            target_list.append(pixels(icon, variant)[:, top : top + edge, left : left + edge])
        codes = torch.stack(codes_list).float()
        noise = LATENT_NOISE * torch.randn(codes.shape, generator=generator)
        noisy = (torch.stack(given_list).float() + noise).to(device, memory_format=torch.channels_last)
        target = torch.stack(target_list).to(device, memory_format=torch.channels_last)

        with autocast(options):
            # At the end with the true edges of images.
            fast = options.double and done <= WHOLE_FROM
            decoded = decode_double(vae, noisy) if fast else vae.decode(noisy).sample
            loss = image_loss(decoded.float(), target)
            if step % ENCODER_EVERY == 0:
                own = vae.encode(target).latents
                if not options.double:
                    loss = loss + image_loss(vae.decode(own).sample.float(), target)
                loss = loss + functional.mse_loss(own.float(), codes.to(device))
        optimise(optimizer, loss, learning_rate(options.lr, step, done, warmup=20, floor=0.01))
        ema.step(vae.parameters())


if __name__ == "__main__":
    main()
