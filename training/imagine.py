"""Work out what a concept looks like in a style in which its drawing is held out, from its drawings in other styles.

    python training/imagine.py --teacher TAESD --minutes 15

A small network learns it from the concepts that are whole: of these it is shown some styles, and is to draw the others.
What it makes of the held-out ones, whose drawings it never sees, completes their codes (`codes.py`): how a drawing
changes from style to style is a matter of edges and areas, which convolutions grasp and a linear code does not.

Killed, it carries on from the last checkpoint. Writes `imagined/` with `checkpoint.pt`, `log.jsonl` and an image of
each held-out drawing, and their latents beside those of `prepare.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from arguments import training_parser
from dataset import imagined_file, latent_folder, read_icons, write_latents
from diffusers.models.unets.unet_2d import UNet2DModel
from icons import GROUNDS, OUTLINE_INKS, Icon, inked, read_icon
from PIL import Image
from prepare import latents_of, load_teacher
from session import Budget, Session, autocast, learning_rate, optimise
from sources import STYLES
from torch import Tensor
from torch.nn import functional

EDGE = 128
FOLD = 4
"""Pixels across and down that the network takes as one."""

CONTRAST = 2.0
"""Ink is black or not there; where the network is in doubt, that decides for the likelier."""


def new_network() -> UNet2DModel:
    """Images in all styles, `(batch, 3 * styles * FOLD^2, EDGE/FOLD, EDGE/FOLD)` and back; 0 where one is missing."""
    channels = 3 * len(STYLES) * FOLD**2
    network: UNet2DModel = UNet2DModel(
        sample_size=EDGE // FOLD,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        norm_num_groups=16,
        add_attention=False,
    )
    return network


def on_white(icon: Icon) -> Tensor:
    """The drawing on the default ground, RGB as its difference from it, `(3, EDGE, EDGE)` within [-1, 1]."""
    ground = next(iter(GROUNDS))
    drawing = read_icon(icon.path)
    if icon.style == "outlined":
        drawing = inked(drawing, ground)
    small = drawing.resize((EDGE, EDGE), Image.Resampling.LANCZOS).convert("RGBA")
    image = Image.new("RGB", small.size, GROUNDS[ground])
    image.paste(small, (0, 0), small)
    pixels = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)
    return (pixels - torch.tensor(GROUNDS[ground])[:, None, None]) / 255


def moved(images: Tensor, random: torch.Generator) -> Tensor:
    """Images `(batch, channels, EDGE, EDGE)`, each turned, mirrored, scaled and shifted by chance."""
    count = len(images)
    angle = 0.2 * torch.randn(count, generator=random)
    scale = 0.85 + 0.45 * torch.rand(count, generator=random)
    mirror = torch.where(torch.rand(count, generator=random) < 0.5, -1.0, 1.0)
    shift = 0.2 * (torch.rand(count, 2, generator=random) - 0.5)
    rows = torch.stack(
        (
            torch.stack((mirror * torch.cos(angle), -torch.sin(angle), shift[:, 0]), 1) * scale[:, None],
            torch.stack((mirror * torch.sin(angle), torch.cos(angle), shift[:, 1]), 1) * scale[:, None],
        ),
        1,
    )
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def imagine(network: UNet2DModel, shown: Tensor) -> Tensor:
    """Images in all styles `(batch, styles, 3, EDGE, EDGE)` from those shown, the same with 0 for what is missing."""
    folded = functional.pixel_unshuffle(shown.flatten(1, 2), FOLD).contiguous(memory_format=torch.channels_last)
    drawn = network(folded, 0).sample.float()
    return functional.pixel_shuffle(drawn, FOLD).view_as(shown)


def as_drawing(drawn: Tensor, style: str) -> Image.Image:
    """What the network made `(3, EDGE, EDGE)` as a drawing, as `icons.read_icon` gives it; opaque but for the ink."""
    ground = torch.tensor(next(iter(GROUNDS.values())))[:, None, None]
    if style == "outlined":
        full = (torch.tensor(OUTLINE_INKS[0])[:, None, None] - ground) / 255
        ink = ((drawn / full).mean(0, keepdim=True) - 0.5) * CONTRAST + 0.5
        pixels = torch.cat((torch.zeros_like(drawn), ink.clamp(0, 1)))
    else:
        pixels = torch.cat(((drawn + ground / 255).clamp(0, 1), torch.ones_like(drawn[:1])))
    array = (255 * pixels).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array, "RGBA").convert("RGBa")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, "--teacher", "--size", batch=16, lr=1e-3)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    icons = read_icons(options.work)
    labels, styles = sorted({icon.label for icon in icons}), list(STYLES)
    images = torch.zeros(len(labels), len(styles), 3, EDGE, EDGE)
    known = torch.zeros(len(labels), len(styles), dtype=torch.bool)
    for icon in icons:
        if not icon.pair_held_out:
            at = labels.index(icon.label), styles.index(icon.style)
            images[at], known[at] = on_white(icon), True
    whole = torch.nonzero(known.all(1))[:, 0]

    network = new_network()
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-arg]
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.01, fused=True)
    losses: list[float] = []

    def log() -> None:
        if losses:
            session.log(loss=sum(losses) / len(losses))
            losses.clear()

    parts = {"network": network, "optimizer": optimizer}
    session = Session(options.work / "imagined", Budget.of(options), parts, device, save_seconds=60, on_save=log)
    for step, done in session:
        random = torch.Generator().manual_seed(options.seed * 2**32 + step)
        chosen = whole[torch.randint(len(whole), (options.batch,), generator=random)]
        wanted = moved(images[chosen].flatten(1, 2), random).view(-1, len(styles), 3, EDGE, EDGE).to(device)
        # What is held out is never of the default style, the first: drop one of the others, or all.
        dropped = torch.zeros(options.batch, len(styles), dtype=torch.bool)
        dropped[torch.arange(options.batch), torch.randint(1, len(styles), (options.batch,), generator=random)] = True
        dropped[torch.rand(options.batch, generator=random) < 0.1, 1:] = True
        missing = dropped.to(device)[..., None, None, None]
        with autocast(options):
            drawn = imagine(network, wanted * ~missing)
        loss = ((drawn - wanted).abs() * missing).sum() / (missing.sum() * 3 * EDGE**2)
        optimise(optimizer, loss, learning_rate(options.lr, step, done, floor=0.01))
        losses.append(loss.item())
        if session.step % 10 == 0:
            log()

    network.eval()
    held_out = [icon for icon in icons if icon.pair_held_out]
    drawings = []
    for icon in held_out:
        shown = images[[labels.index(icon.label)]].to(device)
        with torch.inference_mode():
            drawn = imagine(network, shown)[0, styles.index(icon.style)].cpu()
        drawings.append(as_drawing(drawn, icon.style))
        drawings[-1].convert("RGBA").save(session.folder / f"{icon.key.replace('/', '-')}.png")
    teacher = load_teacher(options.teacher)
    teacher.to(device)  # type: ignore[arg-type]
    for kind in ("singles", "tiles"):
        latents = latents_of(teacher, held_out, drawings, kind, 0, options.size, batch=options.batch)
        file = imagined_file(latent_folder(options.work, options.size), kind)
        write_latents(file, latents)


if __name__ == "__main__":
    main()
