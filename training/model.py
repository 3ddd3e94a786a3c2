"""The components of the builtin model: architectures, captions as tokens, vocabulary, and the pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from codes import CODE_SIZE, REGION_SIZE, REGIONS, VIEWS
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from scenes import NAME_END
from sources import STYLES
from tokens import write_smaller
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

TEXT_WIDTH = 576
MAX_TOKENS = 77
MAX_WORDS = 20
"""Maximum length in tokens of a training caption, including the start and end tokens."""

UNITS = 3000
"""Width of the MLPs of the text encoder: units between the codes and the patches, see `write_decoders`."""

CODE = slice(0, CODE_SIZE)
FILL = CODE.stop
VIEW = slice(FILL + 1, FILL + 1 + VIEWS)
STYLE = slice(VIEW.stop, VIEW.stop + len(STYLES))
BACKGROUND = slice(STYLE.stop, STYLE.stop + 4)
PATCH = slice(BACKGROUND.stop, BACKGROUND.stop + REGION_SIZE)
REGION = slice(PATCH.stop, PATCH.stop + REGIONS)
"""Meaning of the `TEXT_WIDTH` components of a token. In the last layer, between attention and MLP, a padding token
describes its region of the image: the code of the object there, `FILL`, which gives all codes the same norm, the
view of the object (one-hot), the style (one-hot) and the background; the MLP decodes the `PATCH` from them. Before
that layer the last token of a name has its code in `CODE` and `FILL`. In `REGION` the position embeddings encode
the region of a padding token (one-hot)."""

NEUTRAL_WORD = "image"
"""A word of many captions that does not describe the image. Unknown words are replaced by it."""


def new_unet(size: int) -> UNet2DConditionModel:
    """The denoiser of `size`-pixel images: latents `(batch, 4, size/8, size/8)`, text `(batch, 77, TEXT_WIDTH)`.

    For 256 pixels it has one more level, with few channels, at the highest resolution. All levels of the decoder
    attend to the text: without attention at the highest resolution most errors were made there, see docs/adr/0007.
    """
    channels = (64, 96, 160) if size <= 128 else (48, 80, 128, 192)
    attended = len(channels) - 1 if size <= 128 else len(channels) - 2
    plain = len(channels) - attended
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=size // 8,
        down_block_types=(*["DownBlock2D"] * plain, *["CrossAttnDownBlock2D"] * attended),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        attention_head_dim=tuple(max(1, width // 32) for width in channels),  # diffusers means the number of heads
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )
    return unet


def new_text_encoder(vocabulary: int, bos: int, eos: int) -> CLIPTextModel:
    """A CLIP text encoder for `vocabulary` tokens. `bos` and `eos` enclose each text; `eos` is also the padding."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=UNITS,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=TEXT_WIDTH // 64,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


TAESD_BLOCKS = (3, 3, 3, 1)
"""Number of blocks per level of TAESD's decoder."""


def new_vae() -> AutoencoderTiny:
    """RGB in [-1, 1] `(batch, 3, height, width)` <-> normalised latents `(batch, 4, height/8, width/8)`."""
    # TAESD's architecture, with more blocks at the resolution of the latents.
    vae: AutoencoderTiny = AutoencoderTiny(num_decoder_blocks=(6, *TAESD_BLOCKS[1:]))
    return vae


def new_double_vae() -> AutoencoderTiny:
    """RGB in [-1, 1] `(batch, 3, height, width)` <-> normalised latents `(batch, 4, height/16, width/16)`.

    The decoder has one more level. It has no block there, so it is two convolutions that together are a linear map from
    the features of each pixel of half the size to four pixels: a block would take as long as the rest of the decoder.
    """
    vae: AutoencoderTiny = AutoencoderTiny(
        encoder_block_out_channels=(64,) * 5,
        decoder_block_out_channels=(64,) * 5,
        num_encoder_blocks=(0, 1, 3, 3, 3),
        num_decoder_blocks=(6, 3, 4, 2, 0),
    )
    return vae


def cell_of(vae: AutoencoderTiny) -> int:
    """Edge in pixels of the image area that one latent of this VAE represents."""
    edge: int = 2 ** (len(vae.config["decoder_block_out_channels"]) - 1)
    return edge


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas with v-prediction; sampling starts at the last timestep."""
    scheduler: DDIMScheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    return scheduler


@dataclass(frozen=True)
class Tensors:
    """A dataclass of tensors, or of such dataclasses, that moves to a device as a whole."""

    def to(self, device: torch.device) -> Self:
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Captions(Tensors):
    """A batch of captions in the form that the text encoder is trained on: the words and some padding tokens.

    A caption has 77 tokens, most of them padding, and CLIP's encoder computes all of them. The padding tokens
    follow the words, so they attend to all of them, and each can describe a part of the image: the one at position
    p describes region p modulo `REGIONS`. A training caption has one padding token per region, at a random one of
    the positions of that region. It replaces all of them, and the attention weighs it by their number.

    Attributes:
        ids, positions: `(batch, tokens)`.
        mask: logarithm of these weights, which is added to the attention scores, `(batch, 1, tokens, tokens)`.
        stand_ins: index of the token that replaces each of the 77, `(batch, 77)`.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    stand_ins: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], end: int, random: np.random.Generator) -> Captions:
        """Builds captions from token numbers that end with `end`; captions that are too long are truncated."""
        lengths = np.array([min(len(row), MAX_WORDS) for row in rows])
        batch, words = len(rows), int(lengths.max())
        ids = np.full((batch, words + REGIONS), end)
        for row, (tokens, length) in enumerate(zip(rows, lengths, strict=True)):
            ids[row, : length - 1] = tokens[: length - 1]
        region = np.arange(REGIONS)
        first = lengths[:, None] + (region - lengths[:, None]) % REGIONS
        counts = (MAX_TOKENS - 1 - first) // REGIONS + 1
        chosen = first + REGIONS * random.integers(counts)
        order = np.argsort(chosen, 1)
        positions = np.zeros_like(ids)
        positions[:, :words] = np.arange(words)
        positions[:, words:] = np.take_along_axis(chosen, order, 1)
        # No token attends to those that fill up shorter captions.
        times = np.where(np.arange(words) < lengths[:, None], 1.0, 1e-9)
        times = np.concatenate((times, np.take_along_axis(counts, order, 1)), 1)
        causal = np.tri(words + REGIONS, dtype=bool)
        mask = np.where(causal, np.log(times)[:, None, None, :], -1e9)
        place = np.arange(MAX_TOKENS)
        region_token = words + np.argsort(order, 1)
        stand_ins = np.where(place < lengths[:, None], place, region_token[:, place % REGIONS])
        return cls(*map(torch.from_numpy, (ids, positions, mask.astype(np.float32), stand_ins)))

    def regions(self, parts: Tensor) -> Tensor:
        """Selects from `(batch, REGIONS, ...)` the entry of the region of each padding token, in order."""
        wanted = self.positions[:, -REGIONS:] % REGIONS
        return parts[torch.arange(len(parts))[:, None], wanted]

    def encode(self, text_encoder: CLIPTextModel) -> Tensor:
        """Hidden states of these tokens `(batch, tokens, TEXT_WIDTH)`; the last `REGIONS` are padding."""
        states: Tensor = text_encoder(
            input_ids=self.ids, attention_mask=self.mask, position_ids=self.positions
        ).last_hidden_state
        return states

    def spread(self, states: Tensor) -> Tensor:
        """Expands their states to all 77 tokens, the input of the UNet."""
        return states.gather(1, self.stand_ins[..., None].expand(-1, -1, states.shape[-1]))


class Vocabulary:
    """The tokens that occur in captions, numbered from 0, and a tokenizer that has the most common other tokens too.

    Embeddings for all tokens of the tokenizer would take most of the training time, though most are in no caption.

    Args:
        tokenizer_folder: CLIP's, see `tokens.write_smaller`.
        words: texts that contain all tokens of the captions.
    """

    def __init__(self, tokenizer_folder: Path, words: Iterable[str]) -> None:
        texts = sorted({"", NEUTRAL_WORD, *words})
        with tempfile.TemporaryDirectory() as folder:
            write_smaller(tokenizer_folder, texts, Path(folder))
            # Not CLIPTokenizer(vocab_file=..., merges_file=...): with transformers 5 every token would then be unknown.
            self.tokenizer = CLIPTokenizer.from_pretrained(folder)
            self.files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
            """Files of the tokenizer by name."""
        used = sorted({token for row in self.tokenizer(texts)["input_ids"] for token in row})
        self.known: Tensor = torch.tensor(used)
        """The tokenizer's numbers of our tokens, ascending, `(vocabulary,)`."""
        self._own = {token: index for index, token in enumerate(used)}
        self.neutral = self._own[self.tokenizer.encode(NEUTRAL_WORD, add_special_tokens=False)[0]]
        self.end = self._own[self.tokenizer.eos_token_id]

    def __len__(self) -> int:
        return len(self.known)

    def rows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Tokenizes texts; unknown tokens become `NEUTRAL_WORD`.

        Returns:
            Our token numbers of each text with start and end token, and the positions of the last tokens of names,
            which `NAME_END` marks in the text.
        """
        encoded = self.tokenizer([text.replace(NAME_END, "") for text in texts], return_offsets_mapping=True)
        rows = [[self._own.get(token, self.neutral) for token in row] for row in encoded["input_ids"]]
        ends = []
        for text, offsets in zip(texts, encoded["offset_mapping"], strict=True):
            places = {end: place for place, (_, end) in enumerate(offsets)}
            parts = text.split(NAME_END)[:-1]
            ends.append([places[sum(map(len, parts[: number + 1]))] for number in range(len(parts))])
        return rows, ends

    def new_text_encoder(self) -> CLIPTextModel:
        """An untrained text encoder for these tokens."""
        return new_text_encoder(len(self), self._own[self.tokenizer.bos_token_id], self.end)

    @torch.no_grad()
    def widen(self, trained: CLIPTextModel) -> CLIPTextModel:
        """Extends a text encoder to all tokens of the tokenizer; untrained ones get the embedding of `NEUTRAL_WORD`.

        Zero embeddings are not neutral: a single one changed "a photograph of a red apple" into a brown image.
        """
        full = new_text_encoder(len(self.tokenizer), self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)

        def all_rows(own: Tensor) -> Tensor:
            rows = own[self.neutral].repeat(len(self.tokenizer), 1)
            rows[self.known] = own
            return rows

        full.load_state_dict(_with_tokens(trained, all_rows))
        return full

    @torch.no_grad()
    def narrow(self, full: CLIPTextModel) -> CLIPTextModel:
        """Reverts `widen`.

        Raises:
            ValueError: the text encoder has another vocabulary.
        """
        if full.config.vocab_size != len(self.tokenizer):
            raise ValueError(
                f"the text encoder has {full.config.vocab_size} tokens, but the tokenizer has {len(self.tokenizer)}"
            )
        own = self.new_text_encoder()
        own.load_state_dict(_with_tokens(full, lambda rows: rows[self.known]))
        return own


@torch.no_grad()
def states_of(sentences: Sequence[str], tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> Tensor:
    """Hidden states of captions as a pipeline computes them, `(captions, 77, width)`, on its device."""
    tokens = tokenizer(
        list(sentences), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    states: Tensor = text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state
    return states


def _with_tokens(text_encoder: CLIPTextModel, rows: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Weights in float32 on the CPU, with `rows` applied to the token embeddings."""
    weights = {name: weight.cpu().float() for name, weight in text_encoder.state_dict().items()}
    name = next(key for key in weights if key.endswith("token_embedding.weight"))
    weights[name] = rows(weights[name])
    return weights


def load_exported(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """UNet, text encoder and tokenizer of a model that `export.py` wrote, float32 on the CPU."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32, local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    for part in (unet, text_encoder):
        part.requires_grad_(False).eval()
    return unet, text_encoder, tokenizer


def new_pipeline(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, vocabulary: Vocabulary, vae: AutoencoderTiny
) -> StableDiffusionPipeline:
    """Combines the components into a pipeline, which can generate images and save itself as a diffusers folder."""
    return pipeline_of(unet, vocabulary.widen(text_encoder), vocabulary.tokenizer, vae)


def pipeline_of(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, vae: AutoencoderTiny
) -> StableDiffusionPipeline:
    """Combines the components of an exported model into a pipeline."""
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": new_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    for part in ("vae", "text_encoder", "unet"):
        parts[part].eval()
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    return pipeline
