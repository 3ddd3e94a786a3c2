"""Stable Diffusion 1, and Stable Diffusion 2 in diffusers' layout: the text encoder is CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.models import json_files, shipped
from sdcli.models.families import Family
from sdcli.models.original_yaml import CLIP_LARGE, OriginalConfig
from sdcli.models.recognition import TEXT

if TYPE_CHECKING:
    import torch

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
    # The last three occur in early checkpoints, which have no "text_model." in their names.
    tensor_prefixes = tuple(
        PREFIX + name for name in ("text_model.", "embeddings.", "encoder.layers.", "final_layer_norm.")
    )
    example_config = "configs/stable-diffusion/v1-inference.yaml"

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The folder that the configuration names; the shipped one for the text encoder that all releases use."""
        version = config.model.params.cond_stage_config.params.version
        for folder in (config_path.parent / version, Path(version)):
            if (folder / "config.json").is_file():
                return folder
        if version == CLIP_LARGE:
            return self.vocabulary
        raise ModelError(
            f"{config_path} names the text encoder {version}, which is not on this machine",
            why=f"It is not a folder with a config.json, and only {CLIP_LARGE} ships with sdcli.",
            fix="Put the text encoder's config.json and vocabulary into a folder and set `version` to its path.",
        )

    def text_config(self, config: OriginalConfig, folder: Path) -> Mapping[str, Any]:
        return json_files.read(folder / "config.json")

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
        renamed = {
            name.removeprefix(PREFIX).removeprefix("text_model."): tensor
            for name, tensor in part(tensors, TEXT).items()
        }
        with torch.device("meta"):
            model = self.text_encoder_class()(described)
        return weights.assign(model, renamed, what="text encoder", source=source, config=config_name)

    def text_encoder_class(self) -> Any:
        from transformers.models.clip.modeling_clip import CLIPTextModel

        return CLIPTextModel

    def tokenizer_class(self) -> Any:
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        return CLIPTokenizer


FAMILY = StableDiffusion1()
