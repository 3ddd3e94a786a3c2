"""Models from a checkpoint of the original layout and its YAML configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_config, checkpoint_file, families, hashes, recognition
from sdcli.models.families import Family
from sdcli.models.model import Model, ModelRequest, PartCallback
from sdcli.models.original_yaml import OriginalConfig

if TYPE_CHECKING:
    import torch

DEFAULT_CONFIG = "configs/stable-diffusion/v1-inference.yaml"


@dataclass(frozen=True)
class OriginalModel:
    """A checkpoint of the original layout, checked as far as possible without reading its weights."""

    path: Path
    config_path: Path
    config: OriginalConfig
    text_folder: Path
    """As `Family.text_folder` returns it."""

    @property
    def spec(self) -> ModelSpec:
        return checkpoint_config.spec_of(self.config, self.path.name)

    @property
    def family(self) -> Family:
        return families.get(checkpoint_config.family_of(self.config))

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

        length = self.family.max_length(self.family.text_config(self.config, self.text_folder))
        wanted = self.config.model.params.cond_stage_config.params.max_length or length
        if wanted > length:
            raise ModelError(
                f"{self.config_path} sets max_length to {wanted}", why=f"The text encoder takes {length} tokens."
            )
        return tokenizer.load(self.family, self.text_folder, wanted)

    def vocabulary(self) -> None:
        return None

    def load(self, device: torch.device, progress: PartCallback) -> Model:
        from sdcli.models import conversion, weights

        source, config_name = self.path.name, self.config_path.name
        with weights.enough_memory(source):
            progress("checkpoint")
            tensors = recognition.original_names(checkpoint_file.read_tensors(self.path))
            self.check({name: tuple(tensor.shape) for name, tensor in tensors.items()})
            progress("text encoder")
            text_encoder = self.family.convert_text_encoder(
                tensors, self.config, self.text_folder, source=source, config_name=config_name
            )
            progress("UNet")
            unet = conversion.unet(tensors, self.config, source=source, config_name=config_name)
            weights.check_width([text_encoder], unet, source)
            progress("VAE")
            vae = conversion.vae(tensors, self.config, source=source, config_name=config_name)
            return Model(
                spec=self.spec,
                tokenizer=self.tokenizer(),
                text_encoder=text_encoder.to(device),
                unet=unet.to(device),
                vae=vae.to(device),
                device=device,
            )

    def check(self, shapes: checkpoint_file.Shapes) -> None:
        """Check that the checkpoint is of the kind that its configuration describes.

        Args:
            shapes: by the original names.

        Raises:
            ModelError: it is of another kind.
        """
        first = shapes.get(f"{recognition.UNET}input_blocks.0.0.weight", ())
        if len(first) > 1 and first[1] > 4 and first[1] != self.config.model.params.unet_config.params.in_channels:
            raise ModelError(
                f"{self.path} seems to be a model that needs more inputs than a prompt, as for inpainting",
                why=f"Its UNet takes {first[1]} channels.",
                fix=recognition.WHOLE_V1,
            )
        found = recognition.family(shapes)
        if found is not None and found != checkpoint_config.family_of(self.config):
            other = families.get(found)
            raise ModelError(
                f"{self.path} does not fit {self.config_path}",
                why=f"The checkpoint contains a {other.label} text encoder, the configuration describes "
                f"{self.family.label}.",
                fix=f"Pass the configuration of the checkpoint, for example --config {other.example_config}.",
            )


def find(request: ModelRequest) -> OriginalModel | None:
    """The model in a checkpoint; None if the request names none. Reads the file's names, not its weights.

    Raises:
        ModelError: a file is missing, damaged or of another kind, or checkpoint and configuration do not fit.
    """
    if not request.ckpt:
        return None
    path = Path(os.path.expanduser(request.ckpt))  # noqa: PTH111  # unchanged, if there is no home folder
    shapes = recognition.original_names(checkpoint_file.shapes(path))
    recognition.check(path, shapes)
    config_path = checkpoint_config.find(request.config or DEFAULT_CONFIG)
    config = checkpoint_config.read(config_path)
    model = OriginalModel(
        path, config_path, config, families.get(checkpoint_config.family_of(config)).text_folder(config, config_path)
    )
    model.check(shapes)
    return model
