"""Teach the text encoder what things look like, before any picture is drawn.

    python training/train_text.py --tokenizer CLIP --minutes 20

A UNet that starts with an untrained text encoder spends most of a short training on finding out which words matter, and
where in a picture they do. Here the encoder learns by plain regression, hundreds of captions a second, to sketch: each
of its padding tokens tells from the caption what a region of the picture holds (`scenes.Painter.sketch`). The UNet that
is trained on its states (`train_unet.py`) then looks into the sketch, region by region, and learns to draw it.

Killed, it carries on from the last checkpoint. Writes `text/checkpoint.pt` and `text/log.jsonl`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset import Latents, read_icons
from model import SKETCH_EDGE, Captions, Sketcher, Vocabulary
from scenes import NOTHING_SHARE, Painter, Scene, Scenes, every_word, sentence_of
from session import Session
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).parent
FILLER_SHARE = 0.15
"""Share of the captions with words that say nothing, such as unknown words are at drawing time."""

CAPTION_PAIR_SHARE = 0.5
"""Share of the captions that name two things: a thing has a sketch of its own in each of the places it can have."""

PART = 64
"""Captions that are computed together: a few of like length, or the longest would make all of them long."""


def caption_rows(
    random: np.random.Generator, sentences: list[str], vocabulary: Vocabulary
) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Token rows of sentences, some with filler words, some emptied; and which of them are empty."""
    empty = random.random(len(sentences)) < NOTHING_SHARE
    rows = vocabulary.rows(["" if nothing else text for text, nothing in zip(sentences, empty, strict=True)])
    for row, nothing in zip(rows, empty, strict=True):
        if not nothing and random.random() < FILLER_SHARE:
            for _ in range(int(random.integers(1, 5))):
                row.insert(int(random.choice((1, len(row) - 1))), vocabulary.neutral)
    return rows, empty


def sketched_regions(painter: Painter, scenes: Sequence[Scene], empty: np.ndarray[Any, Any]) -> Tensor:
    """What each region of these scenes' sketches holds, `(batch, REGIONS, REGION_SIZE)`; zeros for an empty caption."""
    sketches = torch.stack([painter.sketch(scene) for scene in scenes])
    sketches[torch.from_numpy(empty)] = 0
    coarse = functional.adaptive_avg_pool2d(sketches, SKETCH_EDGE)
    return functional.unfold(coarse, SKETCH_EDGE // 4, stride=SKETCH_EDGE // 4).transpose(1, 2)


def lessons(
    random: np.random.Generator,
    scenes: Scenes,
    painter: Painter,
    vocabulary: Vocabulary,
    count: int,
) -> list[tuple[Captions, Tensor]]:
    """Random captions and what the head is to say to each, `(captions, REGIONS, REGION_SIZE)`, in parts."""
    drawn = [scenes.draw(random) for _ in range(count)]
    rows, empty = caption_rows(random, [sentence_of(random, scene, scenes.icons) for scene in drawn], vocabulary)
    sketches = sketched_regions(painter, drawn, empty)
    order = np.argsort([len(row) for row in rows], kind="stable")
    parts = []
    for chosen in np.array_split(order, max(1, round(count / PART))):
        captions = Captions.of([rows[index] for index in chosen], vocabulary.end, random)
        parts.append((captions, captions.regions(sketches[chosen])))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time, over all runs since the first")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of CLIP's vocab.json and merges.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=256, help="edge of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=PART)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    scenes, painter = Scenes(icons, CAPTION_PAIR_SHARE), Painter(Latents(options.work, options.size, icons), icons)
    device = torch.device(options.device)
    sketcher = Sketcher(vocabulary.new_text_encoder()).to(device)
    parameters = list(sketcher.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    losses: list[float] = []

    def log() -> None:
        if losses:
            session.log(captions=session.step * options.batch, loss=sum(losses) / len(losses))
            losses.clear()

    parts = {"sketcher": sketcher, "optimizer": optimizer}
    session = Session(options.work / "text", options.minutes, parts, device, save_seconds=60, on_save=log)
    for step, done in session:
        random = np.random.default_rng([options.seed, step, 1])
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * done)))
        learned = lessons(random, scenes, painter, vocabulary, options.batch)
        sketches = torch.cat([sketcher(captions.to(device))[1] for captions, _ in learned])
        loss = functional.mse_loss(sketches, torch.cat([wanted for _, wanted in learned]).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if session.step % 25 == 0:
            log()


def load_sketcher(work: Path, vocabulary: Vocabulary) -> Sketcher:
    """The text encoder and its head as they stand, float32 on the CPU."""
    sketcher = Sketcher(vocabulary.new_text_encoder())
    state = torch.load(work / "text" / "checkpoint.pt", map_location="cpu", weights_only=True)
    sketcher.load_state_dict(state["sketcher"])
    return sketcher


if __name__ == "__main__":
    main()
