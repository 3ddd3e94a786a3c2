"""Scores all that the model is asked for with the safety checker of sdcli: the scores of harmless images.

    python training/safety.py --start sdcli/models/builtin

Generates, with the noise of sdcli, an image of each drawing's concept and style with each of `SEEDS`, the most doubtful
drawings first, and scores them. Writes `safety/latents-*.safetensors`, `safety/scores.jsonl` (one image per line) and
`safety/scores.txt` (a histogram). After an interruption, the same command continues with the first missing file. For
another VAE the images are decoded and scored again from the same latents.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from arguments import new_parser
from dataset import read_icons, write_latents
from evaluate import STYLE_WORDS
from icons import Icon, read_icon, render
from model import load_exported, new_scheduler, states_of
from prepare import load_teacher
from redraw import STEPS, denoise
from safetensors.torch import load_file
from scenes import with_article
from sheet import GUIDANCE_SCALE
from torch import Tensor

from sdcli.pipeline.noise import cuda_randn
from sdcli.stages.safety import SafetyChecker, find_checker

SEEDS = (42, 43)
"""The default of sdcli, and another."""

BATCH = 48
"""Number of images per file of latents."""

AT_ONCE = 16
"""Number of images that are denoised at once: with fewer, and with more, each takes longer."""

DRAWING_SIZE = 224
"""Edge in pixels of the drawings that are scored before: the checker's."""


def opennsfw() -> SafetyChecker:
    """The checker that sdcli uses for the builtin model."""
    checker = find_checker(
        "opennsfw", model_folder=None, safety_model="", offline=True, device="cpu", nsfw_threshold=0.5
    )
    assert checker is not None
    return checker


def scores_of(checker: SafetyChecker, images: Sequence[np.ndarray]) -> list[float]:
    """Scores of images `(height, width, 3)`, RGB 0-255, in [0, 1]."""
    verdicts = checker.check([image.astype(np.float32) / np.float32(255) for image in images])
    return [verdict.scores["nsfw"] for verdict in verdicts]


@torch.inference_mode()
def decoded(vae: torch.nn.Module, latents: Tensor) -> list[np.ndarray]:
    """Images `(height, width, 3)`, RGB 0-255, of latents `(n, 4, edge, edge)`, as sdcli saves them."""
    images = torch.cat([vae.decode(some.float()).sample for some in torch.split(latents, 8)])  # type: ignore[operator]
    pixels = ((images.clamp(-1, 1) + 1) / 2 * 255).byte().permute(0, 2, 3, 1)
    return list(pixels.numpy())


def prompt_of(icon: Icon) -> str:
    """The prompt of a drawing's concept and style."""
    return with_article(icon.words[0]) + STYLE_WORDS[icon.style]


def histogram(scores: Sequence[float], bins: int = 10) -> str:
    """Number of scores per tenth of [0, 1], as a Markdown table."""
    counts, _ = np.histogram(scores, bins=bins, range=(0, 1))
    rows = [f"| {low / bins:.1f} to {(low + 1) / bins:.1f} | {count:,} |" for low, count in enumerate(counts)]
    return "\n".join(["| score | images |", "| --- | --- |", *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--start", type=Path, required=True, help="exported model")
    parser.add_argument("--vae", type=Path, help="model whose VAE decodes; the same by default")
    parser.add_argument("--scale", type=float, default=GUIDANCE_SCALE, help="guidance scale")
    options = parser.parse_args(arguments)

    folder = options.work / "safety"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_icons(options.work)
    checker = opennsfw()
    order = folder / "order.json"
    if not order.exists():
        drawings = ([render(icon, read_icon(icon.path), 0, DRAWING_SIZE)] for icon in icons)
        before = np.array([scores_of(checker, drawing)[0] for drawing in drawings])
        order.write_text(json.dumps([[int(index), before[index]] for index in np.argsort(-before)]), "utf-8")
    wanted = [(index, seed) for index, _ in json.loads(order.read_text("utf-8")) for seed in SEEDS]
    unet, text_encoder, tokenizer = load_exported(options.start)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    vae = load_teacher(options.vae or options.start)
    empty = states_of([""], tokenizer, text_encoder)
    edge = int(unet.config["sample_size"])
    rows: list[dict[str, object]] = []
    for number, start in enumerate(range(0, len(wanted), BATCH)):
        some = wanted[start : start + BATCH]
        file = folder / f"latents-{number:04}.safetensors"
        if not file.exists():
            noise = [torch.from_numpy(cuda_randn(4 * edge**2, seed, 0)).view(1, 4, edge, edge) for _, seed in some]
            with torch.inference_mode():
                states = states_of([prompt_of(icons[index]) for index, _ in some], tokenizer, text_encoder)
            scheduler = new_scheduler()
            scheduler.set_timesteps(STEPS)
            parts = zip(torch.split(torch.cat(noise), AT_ONCE), torch.split(states, AT_ONCE), strict=True)
            latents = [denoise(unet, noisy, texts, empty, options.scale, scheduler) for noisy, texts in parts]
            write_latents(file, torch.cat(latents).half())
        images = decoded(vae, load_file(file)["latents"])
        for (index, seed), score in zip(some, scores_of(checker, images), strict=True):
            rows.append({"prompt": prompt_of(icons[index]), "key": icons[index].key, "seed": seed, "score": score})
        scores = [float(str(row["score"])) for row in rows]
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        table = f"{histogram(scores)}\n\n{len(scores):,} images, highest score {max(scores):.4f}\n"
        (folder / "scores.txt").write_text(table, "utf-8")
        print(f"{len(scores):,} of {len(wanted):,} images, highest score {max(scores):.4f}", flush=True)


if __name__ == "__main__":
    main()
