"""Compares the distilled model with the full one: the same prompts and noise, with 20, 4, 2 and 1 steps.

    python training/compare_steps.py --start sdcli/models/builtin --images 64

Uses the student of `distil.py`, and the classifiers of `classifier.py`. Writes `comparison/figures.json`, which
`export.py --fast` adds to the model card, and the contact sheet `comparison/steps.png`: a row for each way, a column
for each prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import new_parser
from classifier import Drawings, load_classifiers
from dataset import load_checkpoint, read_icons, write_atomically
from distil import load_student
from evaluate import classify, share, trials_of
from model import load_exported, pipeline_of
from PIL import Image
from prepare import load_teacher
from sheet import GUIDANCE_SCALE, contact_sheet, generate


@dataclass(frozen=True)
class Way:
    """A way to generate the images: with the full or the distilled model, in so many steps."""

    title: str
    distilled: bool
    steps: int
    scale: float


FULL = Way("full model, 20 steps", False, 20, GUIDANCE_SCALE)
WAYS = (
    FULL,
    *(Way(f"distilled, {steps} step{'s' if steps > 1 else ''}", True, steps, 1.0) for steps in (4, 2, 1)),
    Way("full model, 4 steps", False, 4, GUIDANCE_SCALE),
    Way("full model, 4 steps, no guidance", False, 4, 1.0),
)
SHEET_PROMPTS = {"singles": 5, "held-out": 2, "couples": 3, "grounds": 2}
SHEET_SIZE = 128
"""Edge in pixels of an image on the sheet."""


def psnr(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Mean PSNR in dB of pairs of images."""
    errors = [
        np.square(np.asarray(one, float) - np.asarray(other, float)).mean()
        for one, other in zip(images, others, strict=True)
    ]
    return round(float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-3)))), 1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__, "--seed", "--device")
    parser.add_argument("--start", type=Path, required=True, help="exported full model")
    parser.add_argument("--images", type=int, default=64, help="maximum number of images per kind")
    options = parser.parse_args(arguments)

    folder = options.work / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_icons(options.work)
    classifiers = load_classifiers(options.work, Drawings(icons), torch.device(options.device))
    full, text_encoder, tokenizer = load_exported(options.start)
    vae = load_teacher(options.start)
    pipelines = {}
    for distilled, unet in ((False, full), (True, load_student(options.work, options.start))):
        pipelines[distilled] = pipeline_of(unet, text_encoder, tokenizer, vae).to(options.device)
    ways: dict[str, dict[str, Any]] = {way.title: {} for way in WAYS}
    rows: dict[str, list[Image.Image]] = {way.title: [] for way in WAYS}
    prompts = []
    for kind, trials in trials_of(icons, options.images, np.random.default_rng(options.seed)).items():
        if not trials:
            continue
        texts = [trial.prompt for trial in trials]
        prompts += texts[: SHEET_PROMPTS[kind]]
        reference: list[Image.Image] = []
        for way in WAYS:
            images = generate(pipelines[way.distilled], texts, steps=way.steps, scale=way.scale, seed=options.seed)
            reference = reference or images
            results = classify(classifiers, trials, images)
            figures = {what: share(results, what) for what in ("recognised", "style", "ground")}
            ways[way.title][kind] = figures | ({} if way == FULL else {"psnr": psnr(images, reference)})
            small = [image.resize((SHEET_SIZE, SHEET_SIZE)) for image in images[: SHEET_PROMPTS[kind]]]
            rows[way.title] += small
            print(json.dumps({kind: {way.title: ways[way.title][kind]}}), flush=True)
    labels = [f"{prompt if number == 0 else ''} ({title})" for number, title in enumerate(rows) for prompt in prompts]
    sheet = contact_sheet([image for row in rows.values() for image in row], labels, columns=len(prompts))
    sheet.save(folder / "steps.png")
    step = load_checkpoint(options.work / "distil")["step"]
    content = {"ways": ways, "images": options.images, "seed": options.seed, "step": step}
    write_atomically(
        folder / "figures.json", lambda path: path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    )


if __name__ == "__main__":
    main()
