"""What `prepare.py` and `redraw.py` wrote, as the trainers read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from icons import GROUNDS, Icon, ground_of
from safetensors.torch import load_file, save_file
from torch import Tensor

CELL = 8
"""Pixels a latent stands for, across and down."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file beside `path`, then put it in place: whoever kills us leaves the old file whole."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    part.replace(path)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads `checkpoint.pt` of a training's folder, see `session.Session`."""
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoint.pt", map_location=device, weights_only=True)
    return checkpoint


def latent_folder(work: Path, size: int) -> Path:
    """Where the cached latents of `size`-pixel images lie."""
    return work / f"latents-{size}"


def imagined_file(folder: Path, kind: str) -> Path:
    """The latents that `imagine.py` writes into a latent folder."""
    return folder / f"imagined-{kind}.safetensors"


def write_latents(path: Path, latents: Tensor) -> None:
    """Writes a file of cached latents, in place of an earlier one."""
    write_atomically(path, lambda part: save_file({"latents": latents}, part))


def write_icons(work: Path, icons: list[Icon]) -> None:
    """Write `icons.jsonl`, which gives the order of the cached latents; paths are relative to the work folder."""
    lines = [json.dumps({**vars(icon), "path": icon.path.relative_to(work).as_posix()}) for icon in icons]
    write_atomically(work / "icons.jsonl", lambda path: path.write_text("\n".join(lines) + "\n", "utf-8"))


def read_icons(work: Path) -> list[Icon]:
    """The icons of `icons.jsonl`, in the order of the cached latents."""
    rows = [json.loads(line) for line in (work / "icons.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row.update(path=work / row["path"], words=tuple(row["words"]), tags=tuple(row["tags"]))
    return [Icon(**{field.name: row[field.name] for field in fields(Icon)}) for row in rows]


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


class Latents:
    """The cached latents, normalised, float16; each kind is read when it is first asked for."""

    def __init__(self, work: Path, size: int, icons: Sequence[Icon], *, variants: int | None = None) -> None:
        self._folder, self._stats = latent_folder(work, size), LatentStats.load(work)
        self._icons, self._variants = icons, variants

    @cached_property
    def singles(self) -> Tensor:
        """A drawing an image, `(variants, icons, 4, edge, edge)` with edge = size / 8."""
        return self._read("singles")

    @cached_property
    def tiles(self) -> Tensor:
        """A drawing each, half as wide and high, `(variants, icons, 4, edge/2, edge/2)`."""
        return self._read("tiles")

    def imagined(self, kind: str) -> Tensor | None:
        """What stands in for the held-out drawings among the plain `singles` or `tiles`, in their order; None before
        `imagine.py` has made it.
        """
        file = imagined_file(self._folder, kind)
        return self._normalised(file) if file.exists() else None

    @cached_property
    def grounds(self) -> Tensor:
        """Empty images, `(grounds, 4, edge, edge)`, in the order of `GROUNDS`."""
        return self._normalised(self._folder / "grounds.safetensors")

    def grounds_of(self, kind: Tensor) -> Tensor:
        """Index of the ground of each of `singles` or `tiles`, `(variants, icons)`."""
        names = list(GROUNDS)
        rows = [[names.index(ground_of(icon.key, number)) for icon in self._icons] for number in range(len(kind))]
        return torch.tensor(rows)

    def _read(self, kind: str) -> Tensor:
        files = sorted(self._folder.glob(f"{kind}-*.safetensors"))[: self._variants]
        if not files:
            raise FileNotFoundError(f"{self._folder} holds no {kind}: run prepare.py first")
        return torch.stack([self._normalised(file) for file in files])

    def _normalised(self, file: Path) -> Tensor:
        return self._stats.normalise(load_file(file)["latents"].float()).half()


class Redrawn:
    """Drawings as the UNet redrew them."""

    def __init__(self) -> None:
        self._latents: list[Tensor] = []
        self._drawings: list[tuple[int, int]] = []

    @classmethod
    def load(cls, work: Path) -> Redrawn:
        """What `redraw.py` made so far."""
        redrawn = cls()
        redrawn.load_state_dict(load_checkpoint(work / "redrawn")["redrawn"])
        return redrawn

    def add(self, icons: list[int], variants: list[int], latents: Tensor) -> None:
        """Some more of them, latents `(n, 4, edge, edge)`."""
        self._latents += latents.half().cpu()
        self._drawings += zip(icons, variants, strict=True)

    def __len__(self) -> int:
        return len(self._drawings)

    def __getitem__(self, index: int) -> tuple[int, int, Tensor]:
        """Index of the icon, variant of its drawing, latents `(4, edge, edge)`."""
        return *self._drawings[index], self._latents[index]

    def state_dict(self) -> dict[str, Any]:
        return {"latents": torch.stack(self._latents), "drawings": torch.tensor(self._drawings)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._latents = list(state["latents"])
        self._drawings = [(icon, variant) for icon, variant in state["drawings"].tolist()]
