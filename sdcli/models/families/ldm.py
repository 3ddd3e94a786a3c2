"""The latent diffusion model that was trained on LAION-400M: the text encoder is a BERT, trained with the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.models import shipped
from sdcli.models.families import Family
from sdcli.models.original_yaml import OriginalConfig
from sdcli.models.renaming import TEXT

if TYPE_CHECKING:
    import torch

    from sdcli.models.checkpoint_file import Shapes

PREFIX = f"{TEXT}transformer."


class LatentDiffusion(Family):
    """LAION-400M."""

    label = "BERT"

    folder_models = "LAION-400M"
    part = "bert"
    text_encoders = ("LDMBertModel",)
    tokenizers = ("BertTokenizer", "BertTokenizerFast")
    pipelines = ("LDMTextToImagePipeline",)

    vocabulary = shipped.VOCABULARIES / "bert"
    vocabulary_files = ("vocab.txt", "tokenizer.json")

    checkpoint_models = "LAION-400M"
    embedder = "BERTEmbedder"
    embedder_params = ("n_embed", "n_layer", "max_seq_len", "vocab_size", "use_tokenizer")
    tensor_prefixes = (f"{PREFIX}attn_layers.",)
    example_config = "configs/latent-diffusion/txt2img-1p4B-eval.yaml"

    index: Mapping[str, Any] = {
        "_class_name": "LDMTextToImagePipeline",
        "bert": ["latent_diffusion", "LDMBertModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "BertTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vqvae": ["diffusers", "AutoencoderKL"],
    }

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The shipped vocabulary: the original script uses no other, and the YAML contains the sizes."""
        return self.vocabulary

    def text_params(self, shapes: Shapes) -> Mapping[str, Any]:
        layers = sum(
            re.fullmatch(rf"{PREFIX}attn_layers\.layers\.\d+\.1\.to_q\.weight", name) is not None for name in shapes
        )
        return {
            "n_embed": shapes[f"{PREFIX}token_emb.weight"][1],
            "n_layer": layers,
            "max_seq_len": shapes[f"{PREFIX}pos_emb.emb.weight"][0],
            "vocab_size": shapes[f"{PREFIX}token_emb.weight"][0],
        }

    def text_config(self, config: OriginalConfig, folder: Path | None, shapes: Shapes) -> Mapping[str, Any]:
        """The sizes of the YAML configuration, as the arguments of diffusers' `LDMBertConfig`."""
        params = config.model.params.cond_stage_config.params
        return {
            "vocab_size": params.vocab_size,
            "max_position_embeddings": params.max_seq_len,
            "encoder_layers": params.n_layer,
            "d_model": params.n_embed,
            "encoder_ffn_dim": 4 * params.n_embed,
            "encoder_attention_heads": 8,
            "head_dim": 64,
        }

    def convert_text_encoder(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: OriginalConfig,
        text_config: Mapping[str, Any],
        *,
        source: str,
        config_name: str,
    ) -> Any:
        """The BERT text encoder in the sizes of the YAML configuration."""
        import torch

        from sdcli.models import bert, weights
        from sdcli.models.conversion import part

        with torch.device("meta"):
            model = bert.build(text_config)
        renamed = {bert.name(name.removeprefix(PREFIX)): tensor for name, tensor in part(tensors, TEXT).items()}
        return weights.assign(model, renamed, what="text encoder", source=source, config=config_name)

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        from sdcli.models import bert

        return {PREFIX + bert.original_name(name): tensor for name, tensor in tensors.items()}

    def text_encoder_class(self) -> Any:
        from sdcli.models.bert import BertTextModel

        return BertTextModel

    def tokenizer_class(self) -> Any:
        from transformers.models.bert.tokenization_bert import BertTokenizer

        return BertTokenizer


FAMILY = LatentDiffusion()
