"""Stable Diffusion XL: two CLIP text encoders, and a UNet that takes sizes and a pooled embedding, too.

Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.models import architecture, open_clip
from sdcli.models.families.sd1 import StableDiffusion1, build, clip_names
from sdcli.models.original_yaml import CONDITIONER, OriginalConfig, class_name
from sdcli.models.renaming import SECOND_TEXT, UNET
from sdcli.settings import crop_of, original_size_of

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.models.checkpoint_file import Shapes
    from sdcli.models.conditioning import Encoding
    from sdcli.models.model import Model

FIRST_TEXT = "conditioner.embedders.0.transformer."
"""The beginning of the names of the first text encoder in the original's files."""
TRAINED_LAYER = 2
"""The layer of both text encoders that the UNet was trained with, counted from the end."""


class StableDiffusionXL(StableDiffusion1):
    """Stable Diffusion XL, and models that were made from it."""

    label = "CLIP and OpenCLIP"

    folder_models = "Stable Diffusion XL"
    pipelines = ("StableDiffusionXLPipeline",)
    text_encoders_2 = ("CLIPTextModelWithProjection",)

    checkpoint_models = "Stable Diffusion XL"
    embedder = CONDITIONER
    embedder_params = ("emb_models",)
    tensor_prefixes = (SECOND_TEXT,)
    example_config = "configs/inference/sd_xl_base.yaml"
    configs: Mapping[str, str] = {"eps": "sd_xl_base.yaml", "v": "sd_xl_v.yaml"}
    pad_tokens = ("", "!")
    latent_scale = 0.13025

    index: Mapping[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }

    default_scale = 5.0
    own_sampler = "euler"
    sizes = 6  # the original size, the place of the crop and the image's size
    full_precision_vae = True

    def default_side(self, config: OriginalConfig) -> int:
        return 1024

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The shipped vocabulary: both text encoders have it. Their sizes follow from the shapes."""
        return self.vocabulary

    def text_params(self, shapes: Shapes) -> Mapping[str, Any]:
        """The text encoders of all models, and the width of the embedding of each size."""
        label, projection = f"{UNET}label_emb.0.0.weight", f"{SECOND_TEXT}text_projection"
        own = open_clip.shapes(shapes, SECOND_TEXT)
        if label not in shapes or len(own.get("text_projection.weight", ())) != 2:
            raise LookupError(projection if label in shapes else label)
        width = (shapes[label][-1] - own["text_projection.weight"][0]) // self.sizes
        classes = ("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder2", *("ConcatTimestepEmbedderND",) * 3)
        return {"emb_models": [{"target": each, "params": {"outdim": width}} for each in classes]}

    def why_not(self, config: OriginalConfig) -> str:
        models = config.model.params.cond_stage_config.params.emb_models or []
        classes = [class_name(str(each.get("target"))) if isinstance(each, dict) else "" for each in models]
        text = [each for each in classes if each != "ConcatTimestepEmbedderND"]
        if text != ["FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder2"] or len(classes) != 5:
            return f"Its conditioner has {', '.join(classes) or 'nothing'}: that of a refiner, or of another model."
        layers = [
            (params.get("layer"), params.get("layer_idx")) for params in (each.get("params", {}) for each in models)
        ]
        if layers[:2] not in ([("hidden", 11), ("penultimate", None)], [(None, None), (None, None)]):
            return "Its text encoders have other layers than those of the base model."
        return super().why_not(config)

    def text_config(self, config: OriginalConfig, folder: Path | None, shapes: Shapes) -> Mapping[str, Any]:
        return architecture.clip(clip_names(shapes), "quick_gelu")

    def convert_text_encoder_2(
        self, tensors: Mapping[str, torch.Tensor], config: OriginalConfig, *, source: str, config_name: str
    ) -> Any:
        """OpenCLIP with its projection, as CLIP's text model."""
        renamed = open_clip.tensors(tensors, SECOND_TEXT)
        try:
            fields = architecture.clip({name: tuple(each.shape) for name, each in renamed.items()}, "gelu")
        except LookupError as error:
            raise ModelError(
                f"the second text encoder in {source} is not complete", why=f"There is no tensor {error}."
            ) from error
        params = config.model.params
        wanted = params.unet_config.params.adm_in_channels
        given = fields["projection_dim"] + self.sizes * params.cond_stage_config.params.size_width
        if given != wanted:
            raise ModelError(
                f"the parts of {source} do not fit each other",
                why=f"The UNet takes {wanted} numbers beside the prompt, and the text encoder and sizes give {given}.",
            )
        named = {
            name if name == "text_projection.weight" else f"text_model.{name}": each for name, each in renamed.items()
        }
        return build(
            self.text_encoder_2_class(),
            fields,
            named,
            fields["num_hidden_layers"],
            source=source,
            config_name=config_name,
        )

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {f"{FIRST_TEXT}{self.text_prefix}{name}": tensor for name, tensor in tensors.items()}

    def original_text_encoder_2(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return open_clip.originals(tensors, SECOND_TEXT)

    def completed(self, model: Model, job: Job, encoding: Encoding, *, negative: bool) -> Encoding:
        """With the sizes; an empty negative prompt is zeros, if the model was trained so."""
        import torch

        from sdcli.models.conditioning import Encoding

        embeddings, pooled = encoding.embeddings, encoding.added["text_embeds"]
        if negative and not job.negative_prompt and model.spec.zero_negative_prompt:
            embeddings, pooled = torch.zeros_like(embeddings), torch.zeros_like(pooled)
        height, width = job.height, job.width
        # Heights come first, and the negative prompt has the same sizes, as in diffusers' pipeline.
        sizes = torch.tensor([*original_size_of(job), *crop_of(job), height, width], device=pooled.device)
        return Encoding(embeddings, {"text_embeds": pooled, "time_ids": sizes.float()})

    def embeddings(self, model: Model, text_encoder: Any, ids: torch.Tensor, clip_skip: int) -> Encoding:
        """Those of the last layer but one, or of an earlier one; the final normalization does not follow.

        The second text encoder gives the pooled embedding, too, always of its last layer.
        """
        from sdcli.models.conditioning import Encoding

        output = text_encoder(ids[None], output_hidden_states=True)
        found = output.hidden_states[-max(clip_skip, TRAINED_LAYER)][0]
        if text_encoder is not model.text_encoder_2:
            return Encoding(found)
        # Not `text_embeds`, which is of the token with the highest number: a word of an embedding, if there is one.
        end = (ids == model.tokenizer_2.eos_token_id).int().argmax()
        return Encoding(found, {"text_embeds": text_encoder.text_projection(output.last_hidden_state[0, end])})

    def text_encoder_2_class(self) -> Any:
        from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

        return CLIPTextModelWithProjection


FAMILY = StableDiffusionXL()
