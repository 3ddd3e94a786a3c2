"""How well each watermark reads back from icons, on light and dark grounds, and how much it shows.

    python benchmarks/watermark.py FOLDER_OF_ICONS [--count 100] [--sizes 128 256] [--grounds 0 240 245 248 255]

The icons are transparent images (PNG or WebP); each is laid on a grey ground, made smaller, marked with the default
text, and read again. The table is Markdown: marks found of those written, wrong bits on average and at worst, PSNR of
marked against unmarked on average and at worst, and marks still found after JPEG at quality 90.
"""

from __future__ import annotations

import argparse
import io
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcli.stages.watermark import METHODS, Mark, check, fits, write

TEXT = "StableDiffusionV1"


def icon(path: Path, size: int, ground: int) -> NDArray[np.uint8]:
    """(size, size, 3), RGB: the icon on its ground."""
    with Image.open(path) as file:
        drawing = file.convert("RGBA")
    sheet = Image.new("RGBA", drawing.size, (ground, ground, ground, 255))
    sheet.alpha_composite(drawing)
    return np.asarray(sheet.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean()))


def through_jpeg(image: NDArray[np.uint8], quality: int = 90) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("icons", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--grounds", type=int, nargs="+", default=[0, 240, 245, 248, 255])
    given = parser.parse_args()
    paths = sorted(path for path in given.icons.iterdir() if path.suffix in {".png", ".webp"})
    chosen = random.Random(0).sample(paths, min(given.count, len(paths)))

    print("| size | ground | method | found | wrong bits (worst) | PSNR, dB (worst) | found after JPEG 90 |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for size in given.sizes:
        for ground in given.grounds:
            images = [icon(path, size, ground) for path in chosen]
            for name in METHODS:
                row = f"| {size} | {ground} | {name} |"
                if fits(name, size, size, TEXT):
                    print(f"{row} does not fit | | | |", flush=True)
                    continue
                mark = Mark(TEXT, name)
                marked = [write(image, mark) for image in images]
                read = [check(image, mark) for image in marked]
                wrong = [back.wrong_bits for back in read]
                quality = [psnr(one, other) for one, other in zip(marked, images, strict=True)]
                jpeg = sum(check(through_jpeg(image), mark).found for image in marked)
                print(
                    f"{row} {sum(back.found for back in read)} of {len(read)} | {np.mean(wrong):.1f} ({max(wrong)})"
                    f" | {np.mean(quality):.1f} ({min(quality):.1f}) | {jpeg} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
