"""A model small enough to compute by hand, for tests of the pipeline and of executors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from sdcli.jobs import Job
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.models.model import Model
from tests.jobs import job

SPEC = ModelSpec(
    name="m", family="sd1", latent_channels=4, downscale=8, size_multiple=8,
    default_height=16, default_width=16, default_scale=7.5, default_steps=50, schedule=NoiseSchedule(),
    watermark_method="dwtDct",
)  # fmt: skip


def toy_job(index: int = 0, **changes: object) -> Job:
    """A job of 16 x 16 pixels in 4 steps."""
    own = {
        "prompt": "a", "seed": 1, "rng": "cpu", "height": 16, "width": 16, "steps": 4, "sampler": "ddim", "scale": 2.0,
        "model": "m", "model_hash": "0" * 64, "index": index,
    }  # fmt: skip
    return job(**own | changes)


def toy_jobs(count: int = 2, **changes: object) -> list[Job]:
    """A batch of jobs with the prompts "a", "aa", "aaa" and so on."""
    return [
        toy_job(row, **{"prompt": "a" * (row + 1), "noise": {"rows": count, "row": row}, **changes})
        for row in range(count)
    ]


class ToyTokenizer:
    """One token for each word. The model reads three tokens, including those for the beginning and the end."""

    model_max_length = 3

    def __call__(self, prompts: Sequence[str], *, return_offsets_mapping: bool = False, **_: object) -> dict[str, Any]:
        if not return_offsets_mapping:
            return {"input_ids": torch.tensor([[len(prompt)] * 3 for prompt in prompts])}
        spans = [[(0, 0), *self._words(prompt), (0, 0)] for prompt in prompts]
        return {"input_ids": [[0] * len(row) for row in spans], "offset_mapping": spans}

    def _words(self, prompt: str) -> list[tuple[int, int]]:
        spans, end = [], 0
        for word in prompt.split():
            start = prompt.index(word, end)
            end = start + len(word)
            spans.append((start, end))
        return spans


class ToyTextEncoder(nn.Module):
    """Embeddings that contain nothing but the length of the prompt in characters."""

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (ids[..., None].float().expand(-1, -1, 2),)


class ToyUnet(nn.Module):
    """Predicts its input. On the way it multiplies it by `through`, which may exceed the 65,504 of float16."""

    def __init__(self, through: float = 10.0) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(4)[..., None, None] * through)
            self.down.weight.copy_(torch.eye(4)[..., None, None] / through)

    def forward(self, latents: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
        return (self.down(self.up(latents)),)


class ToyVae(nn.Module):
    """The first three channels of the latents, enlarged."""

    class config:
        scaling_factor = 1.0

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (nn.functional.interpolate(latents[:, :3], scale_factor=8),)


def toy_model(unet: nn.Module | None = None, vae: Any = None, device: str = "cpu") -> Model:
    """The model, with another UNet or VAE if one is passed."""
    unet = (unet or ToyUnet()).to(device)
    return Model(SPEC, ToyTokenizer(), ToyTextEncoder(), unet, vae or ToyVae(), torch.device(device))


class ToySource:
    """A `ModelSource` of the toy model; `loads` counts how often it is loaded."""

    spec = SPEC

    def __init__(self, model: Model | None = None) -> None:
        self.model = model or toy_model()
        self.loads = 0

    def load(self, device: torch.device, progress: Callable[[str], None]) -> Model:
        self.loads += 1
        progress("UNet")
        return self.model

    def hash(self) -> str:
        return "0" * 64

    def safety_checker(self, *, download: bool) -> None:
        return None

    def here(self) -> bool:
        return True

    def weights(self) -> int:
        return 0

    def tokenizer(self) -> Any:
        return self.model.tokenizer

    def vocabulary(self) -> None:
        return None
