"""Contact sheets: images that a model generates for a list of prompts, for visual inspection.

For any diffusers folder:

    python training/sheet.py FOLDER OUT.png --steps 50 --scale 4
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image, ImageDraw

LINE_HEIGHT = 12
CHARACTER_WIDTH = 6
"""Average width in pixels of a character of a caption."""

GUIDANCE_SCALE = 2.0
"""The default of sdcli for this model."""

PROMPTS = (
    "a red apple", "a cat", "pizza", "a dog", "a rose", "a banana", "an elephant", "a car",
    "a red heart", "a blue heart", "a penguin", "a hamburger", "a strawberry", "a tree", "a fish", "a rocket",
    "a green apple", "a butterfly", "a cup of coffee", "a donut", "an owl", "a sunflower", "a house", "a bee",
    "a panda", "a watermelon", "a frog", "a smiley face", "an avocado", "a mushroom", "a horse", "a star",
    "a photograph of a red apple", "a unicorn", "a snail", "sushi", "ice cream cone", "a lion", "a pumpkin", "a cactus",
    "a carrot", "a crab", "a birthday cake", "an octopus", "a chicken", "a lemon", "a whale", "a ladybug",
    "a rabbit", "a turtle", "an egg", "cherries", "grapes", "a pineapple", "a guitar", "a ghost",
    "a black cat", "a yellow banana", "a dinosaur", "a tulip", "a bus", "a balloon", "a robot", "a fox",
)  # fmt: skip


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    steps: int,
    scale: float,
    seed: int = 0,
    batch: int = 8,
) -> list[Image.Image]:
    """Generates one image per prompt; prompt i has the seed `seed + i`. The noise is drawn on the CPU."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(some))]
        images += pipeline(some, num_inference_steps=steps, guidance_scale=scale, generator=generators).images
    return images


def contact_sheet(images: Sequence[Image.Image], texts: Sequence[str], columns: int = 8) -> Image.Image:
    """Arranges images in rows, each with its text below."""
    size = images[0].width
    captions = [textwrap.wrap(text, size // CHARACTER_WIDTH) for text in texts]
    height = size + LINE_HEIGHT * max(map(len, captions)) + 4
    sheet = Image.new("RGB", (columns * size, -(-len(images) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, lines) in enumerate(zip(images, captions, strict=True)):
        corner = (index % columns * size, index // columns * height)
        sheet.paste(image, corner)
        pen.multiline_text((corner[0] + 2, corner[1] + size), "\n".join(lines), "black", spacing=1)
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    options = parser.parse_args(arguments)
    pipeline = StableDiffusionPipeline.from_pretrained(
        options.folder, safety_checker=None, torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    images = generate(pipeline, options.prompts, steps=options.steps, scale=options.scale, seed=options.seed)
    contact_sheet(images, options.prompts).save(options.out)


if __name__ == "__main__":
    main()
