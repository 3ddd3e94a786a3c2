"""Generate the images of the original script again, and compare them.

`python tests/golden/compare.py` prints a table of PSNR by file; README.md says how the originals were generated.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_checkpoint import tensor
from numpy.typing import NDArray
from PIL import Image

from sdcli import comparison
from sdcli.settings import Settings
from sdcli.txt2img import generate

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"

Pixels = NDArray[np.uint8]

SHARED: dict[str, Any] = {"height": 256, "width": 256, "precision": "full", "rng": "cpu"}
RUNS: dict[str, dict[str, Any]] = {
    "ddim": {"prompt": "a photograph of an astronaut riding a horse", "steps": 15, "n_samples": 2, "n_iter": 2},
    "plms": {
        "prompt": "a photograph of an astronaut riding a horse",
        "plms": True,
        "steps": 10,
        "n_samples": 2,
        "n_iter": 2,
    },
    "laion": {
        "prompt": "a painting of a virus monster playing guitar",
        "steps": 8,
        "n_samples": 1,
        "n_iter": 1,
    },
    "file": {
        "from_file": str(HERE / "prompts.txt"),
        "plms": True,
        "steps": 6,
        "n_samples": 2,
        "n_iter": 1,
        "scale": 3.0,
    },
}
"""By folder in expected/, the other settings of its run."""


def tensors(shapes: str) -> dict[str, torch.Tensor]:
    """The tensors of a golden checkpoint, from the file of their shapes; the same on any machine."""
    named: dict[str, list[int]] = json.loads((HERE / shapes).read_text())
    return {name: tensor(name, shape) for name, shape in named.items()}


def write_checkpoint(shapes: str, path: Path) -> None:
    """Write a golden checkpoint in the format of the original's training."""
    torch.save({"state_dict": tensors(shapes), "global_step": 470000}, path)


def psnr(one: Path | Pixels, other: Path | Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two images, files or 8-bit pixels; inf if equal, -inf if sizes differ."""
    a, b = (_pixels(image) for image in (one, other))
    return comparison.compare(a, b).psnr if a.shape == b.shape else -math.inf


def _pixels(image: Path | Pixels) -> Pixels:
    if isinstance(image, Path):
        with Image.open(image) as opened:
            return np.asarray(opened.convert("RGB"))
    return image


def generate_run(run: str, ckpt: Path, outdir: Path) -> None:
    """Generate a golden run in `outdir` with the checkpoint of the original images."""
    config = HERE / ("laion-small.yaml" if run == "laion" else "v1-small.yaml")
    settings = Settings.of(**SHARED, **RUNS[run], ckpt=str(ckpt), config=str(config), outdir=str(outdir))
    for _ in generate(settings):
        pass


def compare(run: str, outdir: Path) -> dict[str, float]:
    """PSNR by file name; -inf for files that one side lacks."""
    names = {str(path.relative_to(root)) for root in (EXPECTED / run, outdir) for path in root.rglob("*.png")}
    return {
        name: psnr(EXPECTED / run / name, outdir / name)
        if (EXPECTED / run / name).exists() and (outdir / name).exists()
        else -math.inf
        for name in sorted(names)
    }


def main() -> None:
    for run in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            ckpt = Path(folder) / "small.ckpt"
            write_checkpoint("laion-shapes.json" if run == "laion" else "shapes.json", ckpt)
            generate_run(run, ckpt, Path(folder) / "out")
            for name, decibels in compare(run, Path(folder) / "out").items():
                print(f"{run:8}{name:24}{decibels:8.2f} dB", flush=True)


if __name__ == "__main__":
    main()
