"""Predicts the held-out drawings of concepts from their drawings in other styles.

    python training/imagine.py --teacher TAESD --minutes 15

A small convolutional network learns this from the concepts that have all styles: some are input, the others are the
target. Its predictions replace the held-out drawings, which it never sees, in the computation of the codes
(`codes.py`): styles differ in edges and areas, which convolutions can predict and a linear code cannot.

After an interruption, the same command continues from the last checkpoint. Writes `imagined/` with `checkpoint.pt`,
`log.jsonl` and an image of each held-out drawing, and the latents of these to the folder of the cached latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from arguments import training_parser
from dataset import imagined_file, latent_folder, read_icons, write_latents
from diffusers.models.unets.unet_2d import UNet2DModel
from icons import BACKGROUNDS, OUTLINE_INKS, Icon, inked, read_icon
from PIL import Image
from prepare import latents_of, load_teacher
from session import Budget, Session, autocast, learning_rate, optimise
from sources import STYLES
from torch import Tensor
from torch.nn import functional

EDGE = 128
FOLD = 4
"""Edge in pixels of the blocks that pixel unshuffle moves to channels."""

CONTRAST = 2.0
"""Contrast of predicted ink: ink is present or absent, so uncertain values move towards the more probable one."""


def new_network() -> UNet2DModel:
    """Images in all styles, `(batch, 3 * styles * FOLD^2, EDGE/FOLD, EDGE/FOLD)`, to the same; missing ones are 0."""
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


def on_default_background(icon: Icon) -> Tensor:
    """The drawing on the default background, as RGB differences from it, `(3, EDGE, EDGE)` in [-1, 1]."""
    background = next(iter(BACKGROUNDS))
    drawing = read_icon(icon.path)
    if icon.style == "outlined":
        drawing = inked(drawing, background)
    small = drawing.resize((EDGE, EDGE), Image.Resampling.LANCZOS).convert("RGBA")
    image = Image.new("RGB", small.size, BACKGROUNDS[background])
    image.paste(small, (0, 0), small)
    pixels = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)
    return (pixels - torch.tensor(BACKGROUNDS[background])[:, None, None]) / 255


def augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """Rotates, flips, scales and shifts each of the images `(batch, channels, EDGE, EDGE)` randomly."""
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


def predict(network: UNet2DModel, shown: Tensor) -> Tensor:
    """Predicts images in all styles `(batch, styles, 3, EDGE, EDGE)` from those given; missing ones are 0."""
    folded = functional.pixel_unshuffle(shown.flatten(1, 2), FOLD).contiguous(memory_format=torch.channels_last)
    predicted = network(folded, 0).sample.float()
    return functional.pixel_shuffle(predicted, FOLD).view_as(shown)


def as_drawing(predicted: Tensor, style: str) -> Image.Image:
    """Converts a prediction `(3, EDGE, EDGE)` to the format of `icons.read_icon`; opaque, except for ink."""
    background = torch.tensor(next(iter(BACKGROUNDS.values())))[:, None, None]
    if style == "outlined":
        full = (torch.tensor(OUTLINE_INKS[0])[:, None, None] - background) / 255
        ink = ((predicted / full).mean(0, keepdim=True) - 0.5) * CONTRAST + 0.5
        pixels = torch.cat((torch.zeros_like(predicted), ink.clamp(0, 1)))
    else:
        pixels = torch.cat(((predicted + background / 255).clamp(0, 1), torch.ones_like(predicted[:1])))
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
        if not icon.style_held_out:
            at = labels.index(icon.label), styles.index(icon.style)
            images[at], known[at] = on_default_background(icon), True
    complete = torch.nonzero(known.all(1))[:, 0]

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
        chosen = complete[torch.randint(len(complete), (options.batch,), generator=random)]
        target = augmented(images[chosen].flatten(1, 2), random).view(-1, len(styles), 3, EDGE, EDGE).to(device)
        # Held-out drawings are never of the default style, the first: drop one of the others, or all of them.
        dropped = torch.zeros(options.batch, len(styles), dtype=torch.bool)
        dropped[torch.arange(options.batch), torch.randint(1, len(styles), (options.batch,), generator=random)] = True
        dropped[torch.rand(options.batch, generator=random) < 0.1, 1:] = True
        missing = dropped.to(device)[..., None, None, None]
        with autocast(options):
            predicted = predict(network, target * ~missing)
        loss = ((predicted - target).abs() * missing).sum() / (missing.sum() * 3 * EDGE**2)
        optimise(optimizer, loss, learning_rate(options.lr, step, done, floor=0.01))
        losses.append(loss.item())
        if session.step % 10 == 0:
            log()

    network.eval()
    held_out = [icon for icon in icons if icon.style_held_out]
    drawings = []
    for icon in held_out:
        shown = images[[labels.index(icon.label)]].to(device)
        with torch.inference_mode():
            predicted = predict(network, shown)[0, styles.index(icon.style)].cpu()
        drawings.append(as_drawing(predicted, icon.style))
        drawings[-1].convert("RGBA").save(session.folder / f"{icon.key.replace('/', '-')}.png")
    teacher = load_teacher(options.teacher)
    teacher.to(device)  # type: ignore[arg-type]
    for kind in ("singles", "tiles"):
        latents = latents_of(teacher, held_out, drawings, kind, 0, options.size, batch=options.batch)
        file = imagined_file(latent_folder(options.work, options.size), kind)
        write_latents(file, latents)


if __name__ == "__main__":
    main()
