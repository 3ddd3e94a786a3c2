"""A judge for `evaluate.py`: tells which concept a picture shows, and in which style.

    python training/classifier.py --minutes 20

It is trained apart from the model, on the real drawings only: moved, turned, blurred, on any ground. Killed, it carries
on from the last checkpoint. Writes `classifier/checkpoint.pt` and `classifier/log.jsonl`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset import read_icons
from icons import GROUNDS, Icon, inked, read_icon
from numpy.typing import NDArray
from PIL import Image
from session import Session
from sources import STYLES
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
EDGE = 64
"""Edge of the pictures it looks at; larger ones are made smaller."""

STORED = 96
"""Edge of the drawings in memory."""


class Classifier(nn.Module):
    """A small residual network: RGB in [-1, 1] `(batch, 3, 64, 64)` -> scores of concepts and of styles."""

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
        self.styles = nn.Linear(features, len(STYLES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(pictures)
        for down, block in zip(self.downs, self.blocks, strict=True):
            features = down(functional.silu(features))
            features = features + block(features)
        flat = self.norm(features.flatten(1))
        return self.concepts(flat), self.styles(flat)


class Drawings:
    """All drawings in memory, composited in torch: hundreds of pictures a second."""

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

    def pictures(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Random pictures of these drawings, `(batch, 3, 64, 64)` in [-1, 1]."""
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
        pictures = layers[:, :3] + colour[..., None, None] * (1 - layers[:, 3:] / 255)
        # What the model draws is softer than the real thing, and a little off in its colours: judge that kindly.
        soft = functional.interpolate(pictures, scale_factor=0.5, mode="area")
        soft = functional.interpolate(soft, size=EDGE, mode="bilinear")
        blur = uniform(0, 1)[:, None, None, None]
        pictures = pictures * (1 - blur) + soft * blur
        pictures = pictures * uniform(0.9, 1.05)[:, None, None, None]
        pictures = pictures + 4 * torch.randn(pictures.shape, generator=random)
        return pictures.clamp(0, 255) / 127.5 - 1


def load_classifier(work: Path) -> tuple[Classifier, list[str]]:
    """The judge as it stands, and the concepts by number."""
    state: dict[str, Any] = torch.load(work / "classifier" / "checkpoint.pt", map_location="cpu", weights_only=True)
    classifier = Classifier(len(state["labels"]))
    classifier.load_state_dict(state["classifier"])
    return classifier.eval().requires_grad_(False), state["labels"]


@torch.inference_mode()
def accuracy(classifier: Classifier, drawings: Drawings, seed: int, device: torch.device) -> tuple[float, float]:
    """Share of concepts and of styles told right, over a picture of each drawing that training never drew."""
    random = torch.Generator().manual_seed(seed)
    right = torch.zeros(2)
    for chosen in torch.split(torch.arange(len(drawings)), 256):
        concepts, styles = classifier(drawings.pictures(chosen, random).to(device))
        right[0] += (concepts.argmax(1).cpu() == drawings.concept_of[chosen]).sum()
        right[1] += (styles.argmax(1).cpu() == drawings.style_of[chosen]).sum()
    concept, style = (right / len(drawings)).tolist()
    return concept, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time, over all runs since the first")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    drawings = Drawings(read_icons(options.work))
    classifier = Classifier(len(drawings.labels)).to(device)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=options.lr, weight_decay=0.02, fused=True)

    def measure() -> None:
        classifier.eval()
        concept, style = accuracy(classifier, drawings, 2**40, device)
        classifier.train()
        session.log(accuracy=concept, style_accuracy=style)

    session = Session(
        options.work / "classifier",
        options.minutes,
        {"classifier": classifier, "optimizer": optimizer},
        device,
        save_seconds=120,
        beside={"labels": drawings.labels},
        on_save=measure,
    )
    for step, done in session:
        random = torch.Generator().manual_seed(options.seed * 2**32 + step)
        chosen = torch.randint(len(drawings), (options.batch,), generator=random)
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (step + 1) / 100) * max(0.01, 0.5 * (1 + math.cos(math.pi * done)))
        concepts, styles = classifier(drawings.pictures(chosen, random).to(device, memory_format=torch.channels_last))
        loss = functional.cross_entropy(concepts, drawings.concept_of[chosen].to(device), label_smoothing=0.05)
        loss = loss + 0.3 * functional.cross_entropy(styles, drawings.style_of[chosen].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
