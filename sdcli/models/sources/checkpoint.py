"""Models from a checkpoint of the original layout, with or without its YAML configuration."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.model_spec import ModelSpec
from sdcli.models import (
    architecture,
    checkpoint_config,
    checkpoint_file,
    families,
    hashes,
    hints,
    recognition,
    renaming,
    shipped,
)
from sdcli.models.checkpoint_file import Shapes
from sdcli.models.families import Family
from sdcli.models.hints import Hints
from sdcli.models.model import Model, ModelRequest, PartCallback
from sdcli.models.original_yaml import OriginalConfig
from sdcli.settings import default

if TYPE_CHECKING:
    import torch

RECOGNIZED = "the sizes that its tensors show"
"""In place of the name of a configuration, in errors."""


@dataclass(frozen=True)
class OriginalModel:
    """A checkpoint of the original layout, checked as far as possible without reading its weights."""

    path: Path
    config_path: Path | None
    """The YAML file; None if the configuration is recognized by the tensors."""
    config: OriginalConfig
    text_folder: Path | None
    """As `Family.text_folder` returns it; None without a YAML file."""
    shapes: Shapes
    """Of the tensors, by their original names."""
    hints: Hints
    """What the file says about itself; nothing that a YAML file says, if there is one."""

    @cached_property
    def spec(self) -> ModelSpec:
        layers = self.family.text_layers(self.config, self._text_config())
        spec = checkpoint_config.spec_of(self.config, self.path.name, self.hints)
        return spec.model_copy(update={"text_layers": layers})

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

    def _text_config(self) -> Any:
        """As `Family.text_config`."""
        try:
            return self.family.text_config(self.config, self.text_folder, self.shapes)
        except LookupError as error:
            raise ModelError(
                f"the text encoder in {self.path} is not one that sdcli knows", why=f"There is no tensor {error}."
            ) from error

    def tokenizer(self) -> Any:
        return self._tokenizer(0)

    def _tokenizer(self, number: int) -> Any:
        """The tokenizer of a text encoder: 0 for the first, 1 for the second."""
        from sdcli.models import tokenizer

        length = self.family.max_length(self._text_config())
        wanted = self.config.model.params.cond_stage_config.params.max_length or length
        if wanted > length:
            raise ModelError(
                f"{self.config_path} sets max_length to {wanted}", why=f"The text encoder takes {length} tokens."
            )
        pad_token = self.family.pad_tokens[number]
        return tokenizer.load(self.family, self.text_folder or self.family.vocabulary, wanted, pad_token=pad_token)

    def vocabulary(self) -> None:
        return None

    def load(self, device: torch.device, progress: PartCallback) -> Model:
        from sdcli.models import conversion, weights

        source = self.path.name
        config_name = self.config_path.name if self.config_path else RECOGNIZED
        with weights.enough_memory(source):
            progress("checkpoint")
            tensors = _scaled(renaming.original_names(checkpoint_file.read_tensors(self.path)))
            _check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, self)
            files = {"source": source, "config_name": config_name}
            progress("text encoder")
            text_encoder = self.family.convert_text_encoder(tensors, self.config, self._text_config(), **files)
            text_encoder_2 = self.family.convert_text_encoder_2(tensors, self.config, **files)
            text_encoders = [
                weights.placed(each, device) for each in (text_encoder, text_encoder_2) if each is not None
            ]
            progress("UNet")
            unet = weights.placed(conversion.unet(tensors, self.config, **files), device)
            weights.check_width(text_encoders, unet, source)
            progress("VAE")
            vae = conversion.vae(tensors, self.config, **files).to(device)
            return Model(
                spec=self.spec,
                tokenizer=self.tokenizer(),
                text_encoder=text_encoder,
                unet=unet,
                vae=vae,
                device=device,
                tokenizer_2=self._tokenizer(1) if text_encoder_2 is not None else None,
                text_encoder_2=text_encoder_2,
            )


def _scaled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, of which those that have a scale of their own, as ComfyUI's in 8 bits have, are multiplied by it."""
    end = ".scale_weight"
    scales = {name.removesuffix(end): each for name, each in tensors.items() if name.endswith(end)}
    if not scales:
        return tensors
    kept = {name: each for name, each in tensors.items() if not name.endswith((end, ".scale_input", "scaled_fp8"))}
    return kept | {
        f"{name}.weight": kept[f"{name}.weight"].float() * scale.float()
        for name, scale in scales.items()
        if f"{name}.weight" in kept
    }


def _check(shapes: Shapes, model: OriginalModel) -> None:
    """Check that a checkpoint is of the kind that its configuration describes.

    Args:
        shapes: by the original names.
        model: the model.

    Raises:
        ModelError: it is of another kind.
    """
    found = recognition.family(shapes)
    if found is not None and found != checkpoint_config.family_of(model.config):
        other = families.get(found)
        raise ModelError(
            f"{model.path} does not fit {model.config_path}",
            why=f"The checkpoint contains a {other.label} text encoder, the configuration describes "
            f"{model.family.label}.",
            fix="Leave --config out, or pass the configuration of the checkpoint, for example --config "
            f"{other.example_config}.",
        )


def find(request: ModelRequest) -> OriginalModel | None:
    """The model in a checkpoint; None if the request names none. Reads the file's names, not its weights.

    Raises:
        ModelError: a file is missing, damaged or of another kind, or checkpoint and configuration do not fit.
    """
    if not request.ckpt:
        return None
    path = Path(os.path.expanduser(request.ckpt))  # noqa: PTH111  # unchanged, if there is no home folder
    stored = checkpoint_file.shapes(path)
    shapes = renaming.original_names(stored)
    recognition.check(path, shapes)
    config_path = _config_path(request.config, path, recognition.family(shapes))
    if config_path is None:
        return _recognized(path, stored, shapes)
    config = checkpoint_config.read(config_path)
    folder = families.get(checkpoint_config.family_of(config)).text_folder(config, config_path)
    said = hints.read(path, {}, checkpoint_file.metadata(path), lambda _: None, second=False)
    of_steps = Hints(few_steps=said.few_steps, steps=said.steps)  # the rest is in the YAML
    model = OriginalModel(path, config_path, config, folder, shapes, of_steps)
    _check(shapes, model)
    return model


def _config_path(given: str | None, path: Path, family: str | None) -> Path | None:
    """The YAML of a checkpoint: the one that is given, or one beside it with its name, as the web UI has it.

    A file in place of the default one counts for Stable Diffusion 1: a copy of the original's repository has it.
    """
    default_config = str(default("config"))
    if given and given != default_config:
        return checkpoint_config.find(given)
    beside = path.with_suffix(".yaml")
    if os.path.isfile(beside) and checkpoint_config.is_of_model(beside):  # noqa: PTH113
        return beside
    found = checkpoint_config.find(default_config)
    own = family == "sd1" and not found.resolve().is_relative_to(shipped.configs().resolve())
    return found if own else None


def _recognized(path: Path, stored: Shapes, shapes: Shapes) -> OriginalModel:
    """A model by its tensors, its metadata and its name."""
    family = recognition.family(shapes)
    if family is None:
        raise ModelError(
            f"the text encoder in {path} is not one that sdcli knows",
            why=recognition.supported(),
            fix="Pass the YAML file of the checkpoint with --config, if it has one.",
        )
    files = renaming.original_names({name: name for name in stored})

    def spread(name: str) -> float | None:
        values = checkpoint_file.values(path, files[name]) if name in files else None
        return statistics.pstdev(values) if values else None

    said = hints.read(path, shapes, checkpoint_file.metadata(path), spread, second=family == "sd2")
    if family == "sd1":  # 512 x 512, as in the original script
        said = replace(said, size=None)
    params = {"parameterization": said.prediction} if said.prediction else {}
    config = architecture.configuration(path, family, shapes, rescale_betas_zero_snr=said.zero_snr, **params)
    checkpoint_config.check(path, config)
    return OriginalModel(path, None, config, None, shapes, said)
