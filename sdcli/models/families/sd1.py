"""Stable Diffusion 1, and Stable Diffusion 2 in diffusers' layout: the text encoder is CLIP's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError, UsageError
from sdcli.models import json_files, shipped
from sdcli.models.families import Family
from sdcli.models.original_yaml import CLIP_LARGE, OriginalConfig
from sdcli.models.recognition import TEXT

if TYPE_CHECKING:
    import torch

    from sdcli.models.model import Model

PREFIX = f"{TEXT}transformer."


class StableDiffusion1(Family):
    """Stable Diffusion 1 and 2. Their sizes and noise schedules differ, which is in their configuration files."""

    label = "CLIP"

    folder_models = "Stable Diffusion 1 and 2"
    part = "text_encoder"
    text_encoders = ("CLIPTextModel",)
    tokenizers = ("CLIPTokenizer", "CLIPTokenizerFast")

    vocabulary = shipped.VOCABULARIES / "clip"
    vocabulary_files = ("vocab.json", "tokenizer.json")

    checkpoint_models = "Stable Diffusion 1"
    embedder = "FrozenCLIPEmbedder"
    embedder_params = ("version", "max_length", "layer", "layer_idx")
    # The last three occur in early checkpoints, which have no "text_model." in their names.
    tensor_prefixes = tuple(
        PREFIX + name for name in ("text_model.", "embeddings.", "encoder.layers.", "final_layer_norm.")
    )
    example_config = "configs/stable-diffusion/v1-inference.yaml"

    index: Mapping[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    text_prefix = "text_model."

    takes_clip_skip = True

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The folder that the configuration names; the shipped one for the text encoder that all releases use."""
        version = config.model.params.cond_stage_config.params.version
        for folder in (config_path.parent / version, Path(version)):
            if os.path.isfile(folder / "config.json"):  # noqa: PTH113 - also for names that are too long
                return folder
        if version == CLIP_LARGE:
            return self.vocabulary
        raise ModelError(
            f"{config_path} names the text encoder {version}, which is not on this machine",
            why=f"It is not a folder with a config.json, and only {CLIP_LARGE} ships with sdcli.",
            fix="Put the text encoder's config.json and vocabulary into a folder and set `version` to its path.",
        )

    def text_config(self, config: OriginalConfig, folder: Path) -> Mapping[str, Any]:
        """The file's fields, and the number of layers that the YAML configuration uses.

        Raises:
            ModelError: a file that cannot be read, or a layer that the text encoder does not have.
        """
        content = json_files.read(folder / "config.json")
        return {**content, "num_hidden_layers": _layers(config, content.get("num_hidden_layers", 12))}

    def convert_text_encoder(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: OriginalConfig,
        folder: Path,
        *,
        source: str,
        config_name: str,
    ) -> Any:
        """The CLIP text encoder that `folder/config.json` describes; transformers 5 dropped a prefix of its names."""
        import torch
        from transformers.models.clip.configuration_clip import CLIPTextConfig

        from sdcli.models import weights
        from sdcli.models.conversion import part

        try:
            described = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises many types for a broken file
            raise ModelError(
                f"the text encoder's configuration in {folder} cannot be read", why=f"{error!r}."
            ) from error
        stored = described.num_hidden_layers
        described.num_hidden_layers = used = _layers(config, stored)
        unused = tuple(f"encoder.layers.{layer}." for layer in range(used, stored))
        renamed = {
            name.removeprefix(PREFIX).removeprefix("text_model."): tensor
            for name, tensor in part(tensors, TEXT).items()
        }
        renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith(unused)}
        with torch.device("meta"):
            model = self.text_encoder_class()(described)
        return weights.assign(model, renamed, what="text encoder", source=source, config=config_name)

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {f"{PREFIX}{self.text_prefix}{name}": tensor for name, tensor in tensors.items()}

    def embeddings(self, model: Model, ids: torch.Tensor, clip_skip: int) -> torch.Tensor:
        """As of any family. The final normalization follows the layer, whichever it is."""
        if clip_skip == 1:
            return super().embeddings(model, ids, clip_skip)
        layers = model.text_encoder(ids, output_hidden_states=True).hidden_states
        # The first of them is the input of the first layer.
        if clip_skip > len(layers):
            raise UsageError(
                f"--clip-skip {clip_skip} is more than the model {model.spec.name} has",
                why=f"Its text encoder has {len(layers) - 1} layers.",
                fix=f"Pass a number from 1 to {len(layers) - 1}.",
                settings=("clip_skip",),
            )
        found: torch.Tensor = model.text_encoder.final_layer_norm(layers[-clip_skip])
        return found

    def text_encoder_class(self) -> Any:
        from transformers.models.clip.modeling_clip import CLIPTextModel

        return CLIPTextModel

    def tokenizer_class(self) -> Any:
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        return CLIPTokenizer


def _layers(config: OriginalConfig, layers: int) -> int:
    """The number of layers before the one that gives the embeddings, which is included; it is followed by the final
    normalization.

    Args:
        config: the checkpoint's YAML configuration.
        layers: that the text encoder has.

    Raises:
        ModelError: it has no such layer.
    """
    params = config.model.params.cond_stage_config.params
    index = params.layer_idx
    if params.layer == "last":
        return layers
    if index is None or not -layers <= index <= layers or not index:
        raise ModelError(
            f"the model configuration sets layer_idx to {index}",
            why=f'With layer "hidden" it is a number from 1 to {layers}, or from -{layers} to -1.',
        )
    return index if index > 0 else layers + 1 + index


FAMILY = StableDiffusion1()
