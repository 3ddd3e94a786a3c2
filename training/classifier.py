"""The judges for `evaluate.py`: one tells which concept an image shows, the other in which style.

    python training/classifier.py --minutes 60

The minutes are those of both. They are trained apart from the model, on the real drawings only: moved, turned, blurred,
on any ground. Killed, they carry on from the last checkpoint. Writes `classifier/concepts/` and `classifier/styles/`,
each with `checkpoint.pt` and `log.jsonl`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from arguments import training_parser
from dataset import load_checkpoint, read_icons
from icons import GROUNDS, Icon, inked, read_icon
from numpy.typing import NDArray
from PIL import Image
from session import Budget, Session, autocast, learning_rate, optimise
from sources import STYLES
from torch import Tensor, nn
from torch.nn import functional

EDGE = 64
"""Edge of the images it looks at; larger ones are made smaller."""

STORED = 96
"""Edge of the drawings in memory."""


STYLE_TIME = 0.55
"""Share of the time that the judge of styles gets."""


class ConceptClassifier(nn.Module):
    """A small residual network: RGB in [-1, 1] `(batch, 3, 64, 64)` -> scores `(batch, concepts)`."""

    def __init__(self, concepts: int, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1)
        self.downs = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for narrow, wide in zip(widths, (*widths[1:], widths[-1]), strict=True):
            self.downs.append(nn.Conv2d(narrow, wide, 3, stride=2, padding=1))
            self.blocks.append(
                nn.Sequential(
                    nn.GroupNorm(8, wide), nn.SiLU(), nn.Conv2d(wide, wide, 3, padding=1),
                    nn.GroupNorm(8, wide), nn.SiLU(), nn.Conv2d(wide, wide, 3, padding=1),
                )
            )  # fmt: skip
        features = widths[-1] * (EDGE >> (1 + len(widths))) ** 2
        self.norm = nn.LayerNorm(features)
        self.concepts = nn.Linear(features, concepts)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for down, block in zip(self.downs, self.blocks, strict=True):
            features = down(functional.silu(features))
            features = features + block(features)
        scores: Tensor = self.concepts(self.norm(features.flatten(1)))
        return scores


class StyleClassifier(nn.Module):
    """Looks for what is anywhere in an image: RGB in [-1, 1] `(batch, 3, 64, 64)` -> scores `(batch, styles)`.

    A network of its own, since a style is told by edges and shades, which the other learns to look past.
    """

    def __init__(self, styles: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in ((16, 1), (32, 2), (64, 2), (64, 1), (96, 2), (96, 1)):
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1)
            layers += [convolution, nn.GroupNorm(8, width), nn.SiLU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.styles = nn.Linear(2 * before, styles)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layers(images)
        scores: Tensor = self.styles(torch.cat((features.mean((2, 3)), features.amax((2, 3))), 1))
        return scores


class Drawings:
    """All drawings in memory, composited in torch: hundreds of images a second."""

    def __init__(self, icons: list[Icon]) -> None:
        grounds = list(GROUNDS)
        light: list[NDArray[np.uint8]] = []
        dark: list[NDArray[np.uint8]] = []
        for icon in icons:
            drawing = read_icon(icon.path)
            for shelf, ground in ((light, "white"), (dark, "black")):
                shown = inked(drawing, ground) if icon.style == "outlined" else drawing
                shelf.append(np.asarray(shown.resize((STORED, STORED), Image.Resampling.BOX)).transpose(2, 0, 1))
        self._inks = torch.from_numpy(np.stack([np.stack(light), np.stack(dark)]))
        self._colours = torch.tensor([GROUNDS[name] for name in grounds]).float()
        self._dark = (self._colours.mean(1) <= 110).long()
        labels = sorted({icon.label for icon in icons})
        self.labels = labels
        self.concept_of = torch.tensor([labels.index(icon.label) for icon in icons])
        self.style_of = torch.tensor([list(STYLES).index(icon.style) for icon in icons])

    def __len__(self) -> int:
        return len(self.concept_of)

    def images(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Random images of these drawings, `(batch, 3, 64, 64)` in [-1, 1]."""
        count = len(chosen)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=random)

        ground = torch.randint(len(self._colours), (count,), generator=random)
        ground[torch.rand(count, generator=random) < 0.5] = 0
        scale = uniform(0.42, 1.0)
        scale = torch.where(torch.rand(count, generator=random) < 0.6, uniform(0.72, 1.0), scale)
        angle = 0.08 * torch.randn(count, generator=random)
        room = (1 - scale).clamp(min=0.05)
        across, down = uniform(-1, 1) * room, uniform(-1, 1) * room
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        rows = torch.stack((cos, sin, -cos * across - sin * down), 1)
        rows = torch.stack((rows, torch.stack((-sin, cos, sin * across - cos * down), 1)), 1)
        grid = functional.affine_grid(rows, [count, 4, EDGE, EDGE], align_corners=False)
        layers = self._inks[self._dark[ground], chosen].float()
        layers = functional.grid_sample(layers, grid, align_corners=False)
        colour = self._colours[ground] * (1 + 0.06 * torch.randn(count, 3, generator=random))
        images = layers[:, :3] + colour[..., None, None] * (1 - layers[:, 3:] / 255)
        # What the model draws is softer than the real thing, and a little off in its colours: judge that kindly.
        soft = functional.interpolate(images, scale_factor=0.5, mode="area")
        soft = functional.interpolate(soft, size=EDGE, mode="bilinear")
        blur = uniform(0, 1)[:, None, None, None]
        images = images * (1 - blur) + soft * blur
        images = images * uniform(0.9, 1.05)[:, None, None, None]
        images = images + 4 * torch.randn(images.shape, generator=random)
        return images.clamp(0, 255) / 127.5 - 1


@dataclass(frozen=True)
class Judge:
    """One of the two: what it is called, its network, the names of its answers, and the right one for each drawing."""

    name: str
    network: nn.Module
    answers: list[str]
    truth: Tensor

    @torch.inference_mode()
    def accuracy(self, drawings: Drawings, seed: int, device: torch.device) -> float:
        """Share told right, over an image of each drawing that training never drew."""
        random = torch.Generator().manual_seed(seed)
        right = 0
        for chosen in torch.split(torch.arange(len(drawings)), 256):
            scores = self.network(drawings.images(chosen, random).to(device))
            right += int((scores.argmax(1).cpu() == self.truth[chosen]).sum())
        return right / len(drawings)


def new_judges(drawings: Drawings) -> list[Judge]:
    """The two, untrained."""
    concepts, styles = ConceptClassifier(len(drawings.labels)), StyleClassifier(len(STYLES))
    return [
        Judge("concepts", concepts, drawings.labels, drawings.concept_of),
        Judge("styles", styles, list(STYLES), drawings.style_of),
    ]


def load_judges(work: Path, drawings: Drawings, device: torch.device) -> list[Judge]:
    """The two as they stand."""
    judges = new_judges(drawings)
    for judge in judges:
        checkpoint = load_checkpoint(work / "classifier" / judge.name)
        judge.network.load_state_dict(checkpoint["network"])
        judge.network.to(device).eval().requires_grad_(False)
    return judges


def train(judge: Judge, drawings: Drawings, options: argparse.Namespace, share: float) -> None:
    """Train one of them for so many minutes, over all runs since the first."""
    device = torch.device(options.device)
    network = judge.network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.02, fused=True)

    def measure() -> None:
        network.eval()
        session.log(accuracy=judge.accuracy(drawings, 2**40, device))
        network.train()

    parts = {"network": network, "optimizer": optimizer}
    folder = options.work / "classifier" / judge.name
    session = Session(folder, Budget.of(options, share=share), parts, device, save_seconds=120, on_save=measure)
    for step, done in session:
        random = torch.Generator().manual_seed(options.seed * 2**32 + step)
        chosen = torch.randint(len(drawings), (options.batch,), generator=random)
        images = drawings.images(chosen, random).to(device, memory_format=torch.channels_last)
        with autocast(options):
            scores = network(images).float()
        loss = functional.cross_entropy(scores, judge.truth[chosen].to(device), label_smoothing=0.05)
        optimise(optimizer, loss, learning_rate(options.lr, step, done, floor=0.01))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, batch=64, lr=2e-3)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    drawings = Drawings(read_icons(options.work))
    concepts, styles = new_judges(drawings)
    train(concepts, drawings, options, 1 - STYLE_TIME)
    train(styles, drawings, options, STYLE_TIME)


if __name__ == "__main__":
    main()
