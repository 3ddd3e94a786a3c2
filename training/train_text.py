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
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset import Latents, read_icons, write_atomically
from model import REGIONS, TEXT_WIDTH, Captions, Vocabulary
from scenes import NOTHING_SHARE, Painter, Scenes, every_word, sentence_of
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.clip.modeling_clip import CLIPTextModel

HERE = Path(__file__).parent
SKETCH_EDGE = 16
REGION_SIZE = 4 * SKETCH_EDGE**2 // REGIONS
FILLER_SHARE = 0.15
"""Share of the captions with words that say nothing, such as unknown words are at drawing time."""


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


def regions_of(sketches: Tensor) -> Tensor:
    """Latents `(batch, 4, edge, edge)`, 16 x 16 or coarsened to it -> `(batch, REGIONS, REGION_SIZE)`, row by row."""
    coarse = functional.adaptive_avg_pool2d(sketches, SKETCH_EDGE)
    return functional.unfold(coarse, SKETCH_EDGE // 4, stride=SKETCH_EDGE // 4).transpose(1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time, over all runs since the first")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of CLIP's vocab.json and merges.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=256, help="edge of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    folder = options.work / "text"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    scenes, painter = Scenes(icons), Painter(Latents(options.work, options.size, icons), icons)
    device = torch.device(options.device)
    encoder, head = vocabulary.new_text_encoder(), nn.Linear(TEXT_WIDTH, REGION_SIZE).to(device)
    encoder.to(device)  # type: ignore[arg-type]
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    step, seconds = 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]

    def save() -> None:
        state = {"encoder": encoder.state_dict(), "head": head.state_dict(), "optimizer": optimizer.state_dict()}
        write_atomically(checkpoint, lambda path: torch.save({**state, "step": step, "seconds": seconds}, path))

    started, before, saved = time.monotonic(), seconds, time.monotonic()
    losses: list[float] = []
    while (done := seconds / 60 / options.minutes) < 1:
        random = np.random.default_rng([options.seed, step, 1])
        drawn = [scenes.draw(random) for _ in range(options.batch)]
        rows, empty = caption_rows(random, [sentence_of(random, scene, icons) for scene in drawn], vocabulary)
        captions = Captions.of(rows, vocabulary.end, random).to(device)
        sketches = torch.stack([painter.sketch(scene) for scene in drawn])
        sketches[torch.from_numpy(empty)] = 0
        wanted = captions.regions(regions_of(sketches).to(device))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * done)))
        said = head(captions.encode(encoder)[:, -REGIONS:])
        loss = functional.mse_loss(said, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step += 1
        now = time.monotonic()
        seconds = before + now - started
        if step % 50 == 0:
            row = {
                "step": step,
                "captions": step * options.batch,
                "seconds": seconds,
                "loss": sum(losses) / len(losses),
            }
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            losses.clear()
        if now - saved > 60:
            save()
            saved = now
    save()


def load_text_encoder(work: Path, vocabulary: Vocabulary) -> CLIPTextModel:
    """The text encoder as it stands, float32 on the CPU."""
    encoder = vocabulary.new_text_encoder()
    state = torch.load(work / "text" / "checkpoint.pt", map_location="cpu", weights_only=True)
    encoder.load_state_dict(state["encoder"])
    return encoder


if __name__ == "__main__":
    main()
