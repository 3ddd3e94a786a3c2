"""Checkpoints of Stable Diffusion 2 in the original layout: the text encoder is OpenCLIP's.

In diffusers' layout the text encoder has CLIP's class, so such folders belong to `sdcli.models.families.sd1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.models import architecture, open_clip
from sdcli.models.families.sd1 import StableDiffusion1, build
from sdcli.models.original_yaml import OriginalConfig
from sdcli.models.renaming import OPEN_CLIP

if TYPE_CHECKING:
    import torch

    from sdcli.models.checkpoint_file import Shapes

LAYERS = 24
"""Of the text encoder. The embeddings come from the last layer but one, so some files do not have the last."""


class StableDiffusion2(StableDiffusion1):
    """Stable Diffusion 2.0 and 2.1, with 512 or 768 pixels."""

    label = "OpenCLIP"

    folder_models = ""
    text_encoders = ()
    pipelines = ()

    checkpoint_models = "Stable Diffusion 2"
    embedder = "FrozenOpenCLIPEmbedder"
    embedder_params = ("arch", "version", "max_length", "layer")
    layers = ("last", "penultimate")
    pad_tokens = ("!", "")
    tensor_prefixes = (OPEN_CLIP,)
    example_config = "configs/stable-diffusion/v2-inference-v.yaml"
    configs: Mapping[str, str] = {"eps": "v2-inference.yaml", "v": "v2-inference-v.yaml"}

    activation = "gelu"

    def text_params(self, shapes: Shapes) -> Mapping[str, Any]:
        return {"layer": "penultimate"}

    def default_side(self, config: OriginalConfig) -> int:
        """The models with v-prediction were trained with 768 pixels, the others with 512."""
        return 768 if config.model.params.parameterization == "v" else 512

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The shipped vocabulary: OpenCLIP has CLIP's. The sizes follow from the shapes."""
        return self.vocabulary

    def text_config(self, config: OriginalConfig, folder: Path | None, shapes: Shapes) -> Mapping[str, Any]:
        return architecture.clip(open_clip.shapes(shapes, OPEN_CLIP), "gelu")

    def text_layers(self, config: OriginalConfig, text_config: Mapping[str, Any]) -> int:
        layers = int(text_config["num_hidden_layers"])
        penultimate = config.model.params.cond_stage_config.params.layer == "penultimate" and layers != LAYERS - 1
        return layers - penultimate

    def convert_text_encoder(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: OriginalConfig,
        text_config: Mapping[str, Any],
        *,
        source: str,
        config_name: str,
    ) -> Any:
        """OpenCLIP as the text model of CLIP, without what follows the layer that is used."""
        renamed = open_clip.tensors(tensors, OPEN_CLIP)
        renamed.pop("text_projection.weight", None)
        used = self.text_layers(config, text_config)
        return build(self.text_encoder_class(), text_config, renamed, used, source=source, config_name=config_name)

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return open_clip.originals(tensors, OPEN_CLIP)


FAMILY = StableDiffusion2()
