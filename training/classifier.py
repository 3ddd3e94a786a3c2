"""Trains the classifiers for `evaluate.py`: one for the concept that an image shows, one for its style.

    python training/classifier.py --minutes 60

The minutes are those of both. The classifiers are trained independently of the model, on the original drawings
only, with augmentation: shifted, rotated, blurred, on any background. After an interruption, the same command
continues from the last checkpoint. Writes `classifier/concepts/` and `classifier/styles/`, each with
`checkpoint.pt` and `log.jsonl`.
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
from icons import BACKGROUNDS, Icon, inked, read_icon
from numpy.typing import NDArray
from PIL import Image
from session import Budget, Session, autocast, learning_rate, optimise
from sources import STYLES
from torch import Tensor, nn
from torch.nn import functional

EDGE = 64
"""Edge of the input images in pixels; larger images are downsampled."""

STORED = 96
"""Edge of the drawings in memory, in pixels."""


STYLE_TIME = 0.55
"""Fraction of the minutes that the style classifier gets."""


class ConceptClassifier(nn.Module):
    """A small residual network: RGB in [-1, 1] `(batch, 3, 64, 64)` -> logits `(batch, concepts)`."""

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
    """A convolutional network with global pooling: RGB in [-1, 1] `(batch, 3, 64, 64)` -> logits `(batch, styles)`.

    It shares no layers with the other network, since style is visible in edges and shading, to which that one
    becomes invariant.
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
    """All drawings in memory, composited with torch: hundreds of images per second."""

    def __init__(self, icons: list[Icon]) -> None:
        backgrounds = list(BACKGROUNDS)
        light: list[NDArray[np.uint8]] = []
        dark: list[NDArray[np.uint8]] = []
        for icon in icons:
            drawing = read_icon(icon.path)
            for layers, background in ((light, "white"), (dark, "black")):
                shown = inked(drawing, background) if icon.style == "outlined" else drawing
                layers.append(np.asarray(shown.resize((STORED, STORED), Image.Resampling.BOX)).transpose(2, 0, 1))
        self._inks = torch.from_numpy(np.stack([np.stack(light), np.stack(dark)]))
        self._colours = torch.tensor([BACKGROUNDS[name] for name in backgrounds]).float()
        self._dark = (self._colours.mean(1) <= 110).long()
        labels = sorted({icon.label for icon in icons})
        self.labels = labels
        self.concept_of = torch.tensor([labels.index(icon.label) for icon in icons])
        self.style_of = torch.tensor([list(STYLES).index(icon.style) for icon in icons])

    def __len__(self) -> int:
        return len(self.concept_of)

    def images(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Augmented images of these drawings, `(batch, 3, 64, 64)` in [-1, 1]."""
        count = len(chosen)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=random)

        background = torch.randint(len(self._colours), (count,), generator=random)
        background[torch.rand(count, generator=random) < 0.5] = 0
        scale = uniform(0.42, 1.0)
        scale = torch.where(torch.rand(count, generator=random) < 0.6, uniform(0.72, 1.0), scale)
        angle = 0.08 * torch.randn(count, generator=random)
        room = (1 - scale).clamp(min=0.05)
        across, down = uniform(-1, 1) * room, uniform(-1, 1) * room
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        rows = torch.stack((cos, sin, -cos * across - sin * down), 1)
        rows = torch.stack((rows, torch.stack((-sin, cos, sin * across - cos * down), 1)), 1)
        grid = functional.affine_grid(rows, [count, 4, EDGE, EDGE], align_corners=False)
        layers = self._inks[self._dark[background], chosen].float()
        layers = functional.grid_sample(layers, grid, align_corners=False)
        colour = self._colours[background] * (1 + 0.06 * torch.randn(count, 3, generator=random))
        images = layers[:, :3] + colour[..., None, None] * (1 - layers[:, 3:] / 255)
        # Generated images are softer than the drawings, and their colours deviate a little: be robust to both.
        soft = functional.interpolate(images, scale_factor=0.5, mode="area")
        soft = functional.interpolate(soft, size=EDGE, mode="bilinear")
        blur = uniform(0, 1)[:, None, None, None]
        images = images * (1 - blur) + soft * blur
        images = images * uniform(0.9, 1.05)[:, None, None, None]
        images = images + 4 * torch.randn(images.shape, generator=random)
        return images.clamp(0, 255) / 127.5 - 1


@dataclass(frozen=True)
class Classifier:
    """A classifier: its name, network, class names, and the true class of each drawing."""

    name: str
    network: nn.Module
    answers: list[str]
    truth: Tensor

    @torch.inference_mode()
    def accuracy(self, drawings: Drawings, seed: int, device: torch.device) -> float:
        """Fraction of correct predictions, for one image of each drawing with augmentation not seen in training."""
        random = torch.Generator().manual_seed(seed)
        right = 0
        for chosen in torch.split(torch.arange(len(drawings)), 256):
            scores = self.network(drawings.images(chosen, random).to(device))
            right += int((scores.argmax(1).cpu() == self.truth[chosen]).sum())
        return right / len(drawings)


def new_classifiers(drawings: Drawings) -> list[Classifier]:
    """Both classifiers, untrained."""
    concepts, styles = ConceptClassifier(len(drawings.labels)), StyleClassifier(len(STYLES))
    return [
        Classifier("concepts", concepts, drawings.labels, drawings.concept_of),
        Classifier("styles", styles, list(STYLES), drawings.style_of),
    ]


def load_classifiers(work: Path, drawings: Drawings, device: torch.device) -> list[Classifier]:
    """Both classifiers, from their last checkpoints."""
    classifiers = new_classifiers(drawings)
    for classifier in classifiers:
        checkpoint = load_checkpoint(work / "classifier" / classifier.name)
        classifier.network.load_state_dict(checkpoint["network"])
        classifier.network.to(device).eval().requires_grad_(False)
    return classifiers


def train(classifier: Classifier, drawings: Drawings, options: argparse.Namespace, share: float) -> None:
    """Trains a classifier; of a budget in minutes, it gets a `share`."""
    device = torch.device(options.device)
    network = classifier.network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.02, fused=True)

    def measure() -> None:
        network.eval()
        session.log(accuracy=classifier.accuracy(drawings, 2**40, device))
        network.train()

    parts = {"network": network, "optimizer": optimizer}
    folder = options.work / "classifier" / classifier.name
    session = Session(folder, Budget.of(options, share=share), parts, device, save_seconds=120, on_save=measure)
    for step, done in session:
        random = torch.Generator().manual_seed(options.seed * 2**32 + step)
        chosen = torch.randint(len(drawings), (options.batch,), generator=random)
        images = drawings.images(chosen, random).to(device, memory_format=torch.channels_last)
        with autocast(options):
            scores = network(images).float()
        loss = functional.cross_entropy(scores, classifier.truth[chosen].to(device), label_smoothing=0.05)
        optimise(optimizer, loss, learning_rate(options.lr, step, done, floor=0.01))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, batch=64, lr=2e-3)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    drawings = Drawings(read_icons(options.work))
    concepts, styles = new_classifiers(drawings)
    train(concepts, drawings, options, 1 - STYLE_TIME)
    train(styles, drawings, options, STYLE_TIME)


if __name__ == "__main__":
    main()
