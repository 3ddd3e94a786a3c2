"""Reads and writes the files that the training scripts share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from icons import BACKGROUNDS, Icon, background_of
from safetensors.torch import load_file, save_file
from torch import Tensor

CELL = 8
"""Edge in pixels of the image area that one latent represents."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path and then renames the file, so that `path` is never incomplete."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    part.replace(path)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads `checkpoint.pt` of a training's folder, see `session.Session`."""
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoint.pt", map_location=device, weights_only=True)
    return checkpoint


def latent_folder(work: Path, size: int) -> Path:
    """Folder of the cached latents of images of `size` pixels."""
    return work / f"latents-{size}"


def imagined_file(folder: Path, kind: str) -> Path:
    """File of the latents that `imagine.py` predicts."""
    return folder / f"imagined-{kind}.safetensors"


def write_latents(path: Path, latents: Tensor) -> None:
    """Writes a file of cached latents."""
    write_atomically(path, lambda part: save_file({"latents": latents}, part))


def write_icons(work: Path, icons: list[Icon]) -> None:
    """Writes `icons.jsonl`, in the order of the cached latents; paths are relative to the work folder."""
    lines = [json.dumps({**vars(icon), "path": icon.path.relative_to(work).as_posix()}) for icon in icons]
    write_atomically(work / "icons.jsonl", lambda path: path.write_text("\n".join(lines) + "\n", "utf-8"))


def read_icons(work: Path) -> list[Icon]:
    """Reads `icons.jsonl`, in the order of the cached latents."""
    rows = [json.loads(line) for line in (work / "icons.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row.update(path=work / row["path"], words=tuple(row["words"]), tags=tuple(row["tags"]))
    return [Icon(**{field.name: row[field.name] for field in fields(Icon)}) for row in rows]


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of the teacher's latents, per channel.

    The teacher's latents are far from zero mean and unit variance, and noise of variance 1 would hide little of them.
    All models are trained on `(raw - mean) / std`, which is what our own VAE encodes to and decodes from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, latents: Tensor) -> LatentStats:
        """Statistics of latents `(n, channels, height, width)`."""
        latents = latents.float()
        return cls(tuple(latents.mean((0, 2, 3)).tolist()), tuple(latents.std((0, 2, 3)).tolist()))

    @classmethod
    def identity(cls) -> LatentStats:
        """Statistics of latents that are already normalised, of 4 channels."""
        return cls((0.0,) * 4, (1.0,) * 4)

    @classmethod
    def load(cls, work: Path) -> LatentStats:
        values = json.loads((work / "latent_stats.json").read_text("utf-8"))
        return cls(tuple(values["mean"]), tuple(values["std"]))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    def normalise(self, latents: Tensor) -> Tensor:
        """Normalises raw latents `(..., channels, height, width)` to mean 0 and standard deviation 1."""
        mean, std = (torch.tensor(values).to(latents)[:, None, None] for values in (self.mean, self.std))
        return (latents - mean) / std


class Latents:
    """The cached latents, normalised, float16. Each file is read on first use."""

    def __init__(self, work: Path, size: int, icons: Sequence[Icon], *, variants: int | None = None) -> None:
        self._folder, self._stats = latent_folder(work, size), LatentStats.load(work)
        self._icons, self._variants = icons, variants

    @cached_property
    def singles(self) -> Tensor:
        """Images of single objects, `(variants, icons, 4, edge, edge)` with edge = size / 8."""
        return self._read("singles")

    @cached_property
    def tiles(self) -> Tensor:
        """Objects at half the size, to compose images of two, `(variants, icons, 4, edge/2, edge/2)`."""
        return self._read("tiles")

    def imagined(self, kind: str) -> Tensor | None:
        """Predicted latents of the held-out drawings, for the plain `singles` or `tiles`, in the order of the icons;
        None before `imagine.py` has run.
        """
        file = imagined_file(self._folder, kind)
        return self._normalised(file) if file.exists() else None

    @cached_property
    def backgrounds(self) -> Tensor:
        """Empty images, `(backgrounds, 4, edge, edge)`, in the order of `BACKGROUNDS`."""
        return self._normalised(self._folder / "grounds.safetensors")

    def backgrounds_of(self, kind: Tensor) -> Tensor:
        """Index of the background of each of `singles` or `tiles`, `(variants, icons)`."""
        names = list(BACKGROUNDS)
        rows = [[names.index(background_of(icon.key, number)) for icon in self._icons] for number in range(len(kind))]
        return torch.tensor(rows)

    def _read(self, kind: str) -> Tensor:
        files = sorted(self._folder.glob(f"{kind}-*.safetensors"))[: self._variants]
        if not files:
            raise FileNotFoundError(f"{self._folder} contains no {kind}-*.safetensors; run prepare.py first")
        return torch.stack([self._normalised(file) for file in files])

    def _normalised(self, file: Path) -> Tensor:
        return self._stats.normalise(load_file(file)["latents"].float()).half()


class Redrawn:
    """Drawings that the UNet regenerated from noisy latents."""

    def __init__(self) -> None:
        self._latents: list[Tensor] = []
        self._drawings: list[tuple[int, int]] = []

    @classmethod
    def load(cls, work: Path) -> Redrawn:
        """Loads the result of `redraw.py`."""
        redrawn = cls()
        redrawn.load_state_dict(load_checkpoint(work / "redrawn")["redrawn"])
        return redrawn

    def add(self, icons: list[int], variants: list[int], latents: Tensor) -> None:
        """Appends latents `(n, 4, edge, edge)` of these icons and variants."""
        self._latents += latents.half().cpu()
        self._drawings += zip(icons, variants, strict=True)

    def __len__(self) -> int:
        return len(self._drawings)

    def __getitem__(self, index: int) -> tuple[int, int, Tensor]:
        """Returns the index of the icon, the variant, and the latents `(4, edge, edge)`."""
        return *self._drawings[index], self._latents[index]

    def state_dict(self) -> dict[str, Any]:
        return {"latents": torch.stack(self._latents), "drawings": torch.tensor(self._drawings)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._latents = list(state["latents"])
        self._drawings = [(icon, variant) for icon, variant in state["drawings"].tolist()]
