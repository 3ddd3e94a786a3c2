"""Stable Diffusion 1, and Stable Diffusion 2 in diffusers' layout: the text encoder is CLIP's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdcli.errors import ModelError
from sdcli.models import architecture, json_files, shipped
from sdcli.models.families import Family
from sdcli.models.original_yaml import CLIP_LARGE, OriginalConfig
from sdcli.models.renaming import TEXT

if TYPE_CHECKING:
    import torch

    from sdcli.models.checkpoint_file import Shapes
    from sdcli.models.conditioning import Encoding
    from sdcli.models.model import Model

Tensor = TypeVar("Tensor")

PREFIX = f"{TEXT}transformer."


class StableDiffusion1(Family):
    """Stable Diffusion 1 and 2. Their sizes and noise schedules differ, which is in their configuration files."""

    label = "CLIP"

    folder_models = "Stable Diffusion 1 and 2"
    part = "text_encoder"
    text_encoders: tuple[str, ...] = ("CLIPTextModel",)
    tokenizers = ("CLIPTokenizer", "CLIPTokenizerFast")
    pipelines: tuple[str, ...] = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")

    vocabulary = shipped.VOCABULARIES / "clip"
    vocabulary_files = ("vocab.json", "tokenizer.json")

    checkpoint_models = "Stable Diffusion 1"
    embedder = "FrozenCLIPEmbedder"
    embedder_params: tuple[str, ...] = ("version", "max_length", "layer", "layer_idx")
    layers: tuple[str, ...] = ("last", "hidden")
    tensor_prefixes: tuple[str, ...] = (f"{PREFIX}text_model.",)
    example_config = "configs/stable-diffusion/v1-inference.yaml"
    configs: Mapping[str, str] = {"eps": "v1-inference.yaml", "v": "v1-inference-v.yaml"}

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
    activation = "quick_gelu"

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

    def text_config(self, config: OriginalConfig, folder: Path | None, shapes: Shapes) -> Mapping[str, Any]:
        """The fields of the folder's file, or those that the shapes show.

        Raises:
            ModelError: a file that cannot be read, or a layer that the text encoder does not have.
        """
        if folder is None:
            return architecture.clip(clip_names(shapes), "quick_gelu")
        content = json_files.read(folder / "config.json")
        content = content.get("text_config") or content  # the file of a whole CLIP
        used_layers(config, content.get("num_hidden_layers", 12))
        return content

    def text_layers(self, config: OriginalConfig, text_config: Mapping[str, Any]) -> int:
        return used_layers(config, text_config.get("num_hidden_layers", 12))

    def convert_text_encoder(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: OriginalConfig,
        text_config: Mapping[str, Any],
        *,
        source: str,
        config_name: str,
    ) -> Any:
        """CLIP's text model; transformers 5 dropped a prefix of its names."""
        from sdcli.models.conversion import part

        renamed = clip_names(part(tensors, TEXT))
        used = self.text_layers(config, text_config)
        return build(self.text_encoder_class(), text_config, renamed, used, source=source, config_name=config_name)

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {f"{PREFIX}{self.text_prefix}{name}": tensor for name, tensor in tensors.items()}

    def embeddings(self, model: Model, text_encoder: Any, ids: torch.Tensor, clip_skip: int) -> Encoding:
        """As of any family. The final normalization follows the layer, whichever it is."""
        if clip_skip == 1:
            return super().embeddings(model, text_encoder, ids, clip_skip)
        from sdcli.models.conditioning import Encoding

        layers = text_encoder(ids[None], output_hidden_states=True).hidden_states
        return Encoding(text_encoder.final_layer_norm(layers[-clip_skip])[0])

    def text_encoder_class(self) -> Any:
        from transformers.models.clip.modeling_clip import CLIPTextModel

        return CLIPTextModel

    def tokenizer_class(self) -> Any:
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        return CLIPTokenizer


def clip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of CLIP in a checkpoint, by the names that transformers has."""
    return {
        name.removeprefix(PREFIX).removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }


def build(
    kind: Any,
    fields: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    layers: int,
    *,
    source: str,
    config_name: str,
) -> Any:
    """A CLIP text encoder in float32 on the CPU, with its first layers only.

    Args:
        kind: a class of transformers.
        fields: those of its `config.json`.
        tensors: by the names of `kind`.
        layers: the number of them that are used.
        source: the checkpoint's name, for errors.
        config_name: the configuration's name, for errors.

    Raises:
        ModelError: tensors are missing, left over or of another shape.
    """
    import torch
    from transformers.models.clip.configuration_clip import CLIPTextConfig

    from sdcli.models import weights

    unused = tuple(f"encoder.layers.{layer}." for layer in range(layers, fields.get("num_hidden_layers", 12)))
    kept = {name: tensor for name, tensor in tensors.items() if not name.removeprefix("text_model.").startswith(unused)}
    try:
        described = CLIPTextConfig.from_dict({**fields, "num_hidden_layers": layers})
        with torch.device("meta"):
            model = kind(described)
    except Exception as error:  # transformers raises many types for values that no text encoder has
        raise ModelError(f"the text encoder's configuration of {source} is not valid", why=f"{error!r}.") from error
    return weights.assign(model, kept, what="text encoder", source=source, config=config_name)


def used_layers(config: OriginalConfig, layers: int) -> int:
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
