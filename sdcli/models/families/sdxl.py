"""Stable Diffusion XL: two CLIP text encoders, and a UNet that takes sizes and a pooled embedding, too.

Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcli.models.families.sd1 import StableDiffusion1, layer
from sdcli.settings import crop_of, original_size_of

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.models.conditioning import Encoding
    from sdcli.models.model import Model

TRAINED_LAYER = 2
"""The layer of both text encoders that the UNet was trained with, counted from the end."""


class StableDiffusionXL(StableDiffusion1):
    """Stable Diffusion XL, and models that were made from it."""

    label = "CLIP and OpenCLIP"

    folder_models = "Stable Diffusion XL"
    text_encoders_2 = ("CLIPTextModelWithProjection",)

    checkpoint_models = ""
    embedder = ""
    embedder_params = ()
    tensor_prefixes = ()
    example_config = ""

    default_scale = 5.0
    own_sampler = True
    sizes = 6  # the original size, the place of the crop and the image's size
    full_precision_vae = True

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
        found = layer(model, output, max(clip_skip, TRAINED_LAYER))[0]
        if text_encoder is not model.text_encoder_2:
            return Encoding(found)
        # Not `text_embeds`, which is of the token with the highest number: a word of an embedding, if there is one.
        end = (ids == model.tokenizer_2.eos_token_id).int().argmax()
        return Encoding(found, {"text_embeds": text_encoder.text_projection(output.last_hidden_state[0, end])})

    def text_encoder_2_class(self) -> Any:
        from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

        return CLIPTextModelWithProjection


FAMILY = StableDiffusionXL()
