"""Models from one original checkpoint and its YAML configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_config, checkpoint_file, hashes, recognition, shipped
from sdcli.models.checkpoint_config import CLIP_LARGE, OriginalConfig
from sdcli.models.model import Model, ModelRequest, Progress

if TYPE_CHECKING:
    import torch

DEFAULT_CONFIG = "configs/stable-diffusion/v1-inference.yaml"


@dataclass(frozen=True)
class OriginalModel:
    """A checkpoint of the original layout, checked as far as that goes without reading its weights."""

    path: Path
    config_path: Path
    config: OriginalConfig
    text_folder: Path
    """CLIP only: the folder with the text model's config.json, and its vocabulary if it has one of its own."""

    @property
    def spec(self) -> ModelSpec:
        return self.config.spec(self.path.name)

    def safety_checker(self, *, download: bool) -> None:
        return None

    def hash(self) -> str:
        return hashes.of_file(self.path)

    def here(self) -> bool:
        return True

    def weights(self) -> int:
        return checkpoint_file.size(self.path)

    def tokenizer(self) -> Any:
        from sdcli.models import tokenizer

        return tokenizer.load(self.config.text, self.text_folder, self._length)

    @property
    def _length(self) -> int:
        """Tokens that the text encoder takes."""
        if self.config.text == "bert":
            return self.config.model.params.cond_stage_config.params.max_seq_len
        return int(json.loads((self.text_folder / "config.json").read_text("utf-8"))["max_position_embeddings"])

    def load(self, device: torch.device, progress: Progress) -> Model:
        from sdcli.models import ldm, weights

        source, config_name = self.path.name, self.config_path.name
        with weights.enough_memory(source):
            progress("checkpoint")
            tensors = checkpoint_file.read_tensors(self.path)
            self.check({name: tuple(tensor.shape) for name, tensor in tensors.items()})
            progress("text encoder")
            if self.config.text == "bert":
                text_encoder = ldm.bert(tensors, self.config, source=source, config_name=config_name)
            else:
                text_encoder = ldm.clip(tensors, self.text_folder, source=source, config_name=config_name)
            progress("UNet")
            unet = ldm.unet(tensors, self.config, source=source, config_name=config_name)
            weights.check_width(text_encoder, unet, source)
            progress("VAE")
            vae = ldm.vae(tensors, self.config, source=source, config_name=config_name)
            return Model(
                spec=self.spec,
                tokenizer=self.tokenizer(),
                text_encoder=text_encoder.to(device),
                unet=unet.to(device),
                vae=vae.to(device),
                device=device,
            )

    def check(self, shapes: checkpoint_file.Shapes) -> None:
        """That the checkpoint is of the kind that its configuration describes.

        Raises:
            ModelError: it is not.
        """
        first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
        if first and first[1] != self.config.model.params.unet_config.params.in_channels and first[1] > 4:
            raise ModelError(
                f"{self.path} seems to be a model that draws from more than words, as for inpainting",
                why=f"Its UNet takes {first[1]} channels.",
                fix=recognition.WHOLE_V1,
            )
        holds = "bert" if any(name.startswith(recognition.BERT) for name in shapes) else "clip"
        if holds != self.config.text:
            config = {"bert": "configs/latent-diffusion/txt2img-1p4B-eval.yaml", "clip": DEFAULT_CONFIG}[holds]
            raise ModelError(
                f"{self.path} does not fit {self.config_path}",
                why=f"The checkpoint holds a {holds.upper()} text encoder, the configuration describes "
                f"{self.config.text.upper()}.",
                fix=f"Give the configuration that belongs to it, for example --config {config}.",
            )


def find(request: ModelRequest) -> OriginalModel | None:
    """The model in a checkpoint, if one is asked for; its files are looked at, no weights are read.

    Raises:
        ModelError: a file that is missing, damaged or of another kind, or two that do not fit.
    """
    if not request.ckpt:
        return None
    path = Path(request.ckpt).expanduser()
    shapes = checkpoint_file.shapes(path)
    recognition.check(path, shapes)
    config_path = checkpoint_config.find(request.config or DEFAULT_CONFIG)
    config = checkpoint_config.read(config_path)
    model = OriginalModel(path, config_path, config, _text_folder(config, config_path))
    model.check(shapes)
    return model


def _text_folder(config: OriginalConfig, config_path: Path) -> Path:
    if config.text == "bert":
        return shipped.BERT
    version = config.model.params.cond_stage_config.params.version
    for folder in (config_path.parent / version, Path(version)):
        if (folder / "config.json").is_file():
            return folder
    if version == CLIP_LARGE:
        return shipped.CLIP
    raise ModelError(
        f"{config_path} asks for the text encoder {version}",
        why=f"That is no folder with a config.json, and only {CLIP_LARGE} ships with sdcli.",
        fix="Put the text encoder's config.json and vocabulary into a folder and give its path as `version`.",
    )
