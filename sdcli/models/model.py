"""A loaded model: the parts that draw, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdcli.model_spec import ModelSpec

if TYPE_CHECKING:  # finding a model must not cost the seconds that importing torch takes
    import torch

Progress = Callable[[str], None]
"""Called with a few words ("UNet", "text encoder") as each part begins to load."""


@dataclass(frozen=True)
class Model:
    """The loaded parts, in evaluation mode, without gradients, in float32 on `device`.

    tokenizer: a transformers tokenizer; `model_max_length` is the number of tokens (77).
    text_encoder: CLIPTextModel or LDMBertModel; `text_encoder(ids)[0]` is (batch, tokens, width).
    unet: UNet2DConditionModel; latents (batch, C, height/f, width/f) in and out.
    vae: AutoencoderKL, AutoencoderTiny or VQModel; `vae.config.scaling_factor` scales its latents.
    """

    spec: ModelSpec
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    device: torch.device


@dataclass(frozen=True)
class ModelRequest:
    """A model as it was asked for. Neither `model` nor `ckpt`: the builtin one."""

    model: str | None = None
    """A diffusers folder or a hub id."""
    ckpt: str | None = None
    """A file of the original layout."""
    config: str | None = None
    """The YAML that belongs to `ckpt`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    token: str | None = None
    """For hub ids that need one; by default the one that huggingface_hub knows."""
    offline: bool = False


class ModelSource(Protocol):
    """Where a model comes from. Finding one reads configurations only; loading reads weights."""

    @property
    def spec(self) -> ModelSpec: ...

    def safety_checker(self, *, download: bool) -> Path | None:
        """The folder of the model's own CLIP safety checker, if it has one that is here or may be downloaded.

        A folder with `config.json` and weights; the image processor's `preprocessor_config.json` lies in it or in
        the sibling folder `feature_extractor`.
        """
        ...

    def hash(self) -> str:
        """SHA-256 of the weights, 64 hexadecimal digits; remembered between runs by path, size and time."""
        ...

    def here(self) -> bool:
        """Whether the weights are on this machine; else `hash` and `load` fetch them first."""
        ...

    def weights(self) -> int:
        """Bytes that the weights will take in memory, in float32, as far as the files' beginnings tell."""
        ...

    def tokenizer(self) -> Any:
        """The tokenizer, as `Model.tokenizer`.

        Raises:
            ModelError: its vocabulary cannot be read.
        """
        ...

    def load(self, device: torch.device, progress: Progress) -> Model:
        """Read the weights.

        Raises:
            ModelError: weights that are damaged or do not fit.
            DeviceError: not enough memory.
        """
        ...
