"""Measures how reliably each watermark method is read back, and how visible it is.

    python benchmarks/watermark.py FOLDER_OF_ICONS [--count 100] [--sizes 128 256] [--grounds 0 240 245 248 255]

The icons are transparent images (PNG or WebP). Each is composited on a grey background (`--grounds`: values 0-255),
resized, watermarked with the default text, and read back. Prints a Markdown table: watermarks found, wrong bits (mean,
maximum), PSNR to the original image (mean, minimum), and watermarks found after JPEG compression at quality 90.
"""

from __future__ import annotations

import argparse
import io
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcli.comparison import compare
from sdcli.registry import WATERMARK_METHODS
from sdcli.stages.watermark import Mark, check, fits, write

TEXT = "StableDiffusionV1"


def icon(path: Path, size: int, grey: int) -> NDArray[np.uint8]:
    """The icon on a grey background, RGB `(size, size, 3)`."""
    with Image.open(path) as file:
        drawing = file.convert("RGBA")
    sheet = Image.new("RGBA", drawing.size, (grey, grey, grey, 255))
    sheet.alpha_composite(drawing)
    return np.asarray(sheet.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


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
    if not given.icons.is_dir():
        parser.error(f"{given.icons} is not a folder")
    paths = sorted(path for path in given.icons.iterdir() if path.suffix in {".png", ".webp"})
    if not paths:
        parser.error(f"the folder {given.icons} contains no PNG or WebP images")
    chosen = random.Random(0).sample(paths, min(given.count, len(paths)))

    print("| size | background | method | found | wrong bits (worst) | PSNR, dB (worst) | found after JPEG 90 |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for size in given.sizes:
        for grey in given.grounds:
            images = [icon(path, size, grey) for path in chosen]
            for name in WATERMARK_METHODS:
                row = f"| {size} | {grey} | {name} |"
                if fits(name, size, size, TEXT):
                    print(f"{row} does not fit | | | |", flush=True)
                    continue
                mark = Mark(TEXT, name)
                marked = [write(image, mark) for image in images]
                read = [check(image, mark) for image in marked]
                wrong = [back.wrong_bits for back in read]
                quality = [compare(one, other).psnr for one, other in zip(marked, images, strict=True)]
                jpeg = sum(check(through_jpeg(image), mark).found for image in marked)
                print(
                    f"{row} {sum(back.found for back in read)} of {len(read)} | {np.mean(wrong):.1f} ({max(wrong)})"
                    f" | {np.mean(quality):.1f} ({min(quality):.1f}) | {jpeg} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
