"""A loaded model, a request for one, and the protocol of where models come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdcli.model_spec import ModelSpec

if TYPE_CHECKING:  # finding a model must not import torch, which takes seconds
    import torch

    from sdcli.models.vocabulary import Vocabulary

PartCallback = Callable[[str], None]
"""Called with the name of each part ("UNet", "text encoder") when it begins to load."""


@dataclass(frozen=True)
class Model:
    """The parts of a loaded model, in evaluation mode, without gradients, on `device`, in float32; on a GPU some
    weights are in float16, see `sdcli.models.weights.placed`.

    tokenizer: a transformers tokenizer; `model_max_length` is the number of tokens (77).
    text_encoder: depends on the family, for example CLIPTextModel.
    unet: UNet2DConditionModel; latents (batch, C, height/f, width/f) in and out.
    vae: AutoencoderKL, AutoencoderTiny or VQModel; `vae.config.scaling_factor` scales its latents.
    tokenizer_2, text_encoder_2: those of families with two text encoders, otherwise None.
    """

    spec: ModelSpec
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    device: torch.device
    tokenizer_2: Any = None
    text_encoder_2: Any = None

    @property
    def text_encoders(self) -> list[tuple[Any, Any]]:
        """Each text encoder after its tokenizer."""
        each = [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]
        return [pair for pair in each if pair[1] is not None]


@dataclass(frozen=True)
class ModelRequest:
    """Which model to find: the builtin one if neither `model` nor `ckpt` is given. Not both."""

    model: str | None = None
    """A diffusers folder or a hub id."""
    ckpt: str | None = None
    """A `.ckpt` or `.safetensors` file of the original layout."""
    config: str | None = None
    """The YAML configuration that belongs to `ckpt`, or the name of one that ships with sdcli."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    offline: bool = False
    """Open no connection."""


class ModelSource(Protocol):
    """A model that was found. Finding it reads configuration files only; loading it reads weights."""

    @property
    def spec(self) -> ModelSpec: ...

    def safety_checker(self, *, download: bool) -> Path | None:
        """The folder of the model's CLIP safety checker; None if it has none, or none that is local.

        The folder contains `config.json` and weights; the image processor's `preprocessor_config.json` is in it or in
        the sibling folder `feature_extractor`.

        Args:
            download: download it if it is not on this machine.
        """
        ...

    def hash(self) -> str:
        """SHA-256 of the weights, 64 hexadecimal digits; cached between runs by path, size and modification time."""
        ...

    def here(self) -> bool:
        """Whether the weights are on this machine; if not, `hash` and `load` download them first."""
        ...

    def weights(self) -> int:
        """Bytes that the weights take in memory in float32, estimated from the headers of the files."""
        ...

    def tokenizer(self) -> Any:
        """The tokenizer, as `Model.tokenizer`.

        Raises:
            ModelError: its vocabulary cannot be read.
        """
        ...

    def vocabulary(self) -> Vocabulary | None:
        """The words that the model knows; None if it has no list of them and reads prompts as they are."""
        ...

    def load(self, device: torch.device, progress: PartCallback) -> Model:
        """Read the weights.

        Args:
            device: the device for all parts.
            progress: called for each part.

        Raises:
            ModelError: weights that are damaged or do not fit.
            DeviceError: not enough memory.
        """
        ...
