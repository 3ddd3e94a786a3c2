"""What `prepare.py` wrote, as the trainers read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from icons import Icon
from safetensors.torch import load_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file beside `path`, then put it in place: whoever kills us leaves the old file whole."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    part.replace(path)


def latent_folder(work: Path, size: int) -> Path:
    """Where the cached latents of `size`-pixel pictures lie."""
    return work / f"latents-{size}"


def read_icons(work: Path) -> list[Icon]:
    """The icons of `icons.jsonl`, in the order of the cached latents."""
    rows = [json.loads(line) for line in (work / "icons.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row.update(path=Path(row["path"]), captions=tuple((text, weight) for text, weight in row["captions"]))
    return [Icon(**row) for row in rows]


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of the teacher's latents, channel by channel.

    The teacher's latents are far from centred, and noise of variance 1 would hide little of them: we train on
    `(raw - mean) / std`, which our own VAE takes and gives as its latents.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, latents: Tensor) -> LatentStats:
        """Over latents `(n, channels, height, width)`."""
        latents = latents.float()
        return cls(tuple(latents.mean((0, 2, 3)).tolist()), tuple(latents.std((0, 2, 3)).tolist()))

    @classmethod
    def load(cls, work: Path) -> LatentStats:
        values = json.loads((work / "latent_stats.json").read_text("utf-8"))
        return cls(tuple(values["mean"]), tuple(values["std"]))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    def normalise(self, latents: Tensor) -> Tensor:
        """Raw latents `(..., channels, height, width)` -> mean 0, standard deviation 1."""
        mean, std = (torch.tensor(values).to(latents)[:, None, None] for values in (self.mean, self.std))
        return (latents - mean) / std


def read_latents(work: Path, size: int) -> Tensor:
    """All cached latents, normalised: `(variants, icons, 4, size/8, size/8)`, float32."""
    files = sorted(latent_folder(work, size).glob("*.safetensors"))
    raw = torch.stack([load_file(file)["latents"] for file in files])
    return LatentStats.load(work).normalise(raw.float())
