"""The names of a checkpoint's tensors in the original layout, whichever program wrote the file.

The parts of a model have these names:

* `model.diffusion_model.`: the UNet;
* `first_stage_model.`: the VAE;
* `cond_stage_model.transformer.`: CLIP in the names of transformers (Stable Diffusion 1, and the first text encoder of
  XL), or the BERT of LAION-400M;
* `cond_stage_model.model.`: OpenCLIP (Stable Diffusion 2);
* `conditioner.embedders.1.model.`: the second text encoder of Stable Diffusion XL, an OpenCLIP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Tensor = TypeVar("Tensor")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."
OPEN_CLIP = f"{TEXT}model."
SECOND_TEXT = "conditioner.embedders.1.model."
EMA = "model_ema."

_ROOTS = "|".join(map(re.escape, (UNET, VAE, TEXT, "conditioner.", "model_ema.diffusion_model")))
# The parts of the names of a UNet's weights, which averages have without dots; longer ones before their beginnings.
_UNET_NAMES = re.compile(
    r"middle_block|time_embed|label_emb|transformer_blocks|in_layers|out_layers|emb_layers|skip_connection|attn[12]|"
    r"to_out|to_[qkv]|ff|net|proj_in|proj_out|proj|norm[123]|norm|conv|op|out|weight|bias|"
    r"(?<=label_emb)\d|(?<=label_emb\d)\d|\d+"
)
_ATTENTION = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip


def _with_dots(name: re.Match[str]) -> str:
    """The name of a UNet's weight from that of its average."""
    block = re.match(r"(input_blocks|output_blocks)(\d+)(\d)", name[1])
    rest = name[1][block.end() :] if block else name[1]
    return UNET + ".".join([*(block.groups() if block else ()), *_UNET_NAMES.findall(rest)])


class Renaming(NamedTuple):
    """A pattern in the names of some programs, and what takes its place in the original layout.

    Attributes:
        pattern: searched for at the beginning of a name.
        new: as for `re.sub`.
        unless: the pattern counts only if no tensor of the file has a name that begins with this.
    """

    pattern: str
    new: str | Callable[[re.Match[str]], str]
    unless: str = ""


RENAMINGS = (
    # Wrappers: Lightning's, DeepSpeed's, DistributedDataParallel's, those of merging tools, and torch.compile's.
    Renaming(rf"(?!{_ROOTS})(?:\w+\.)+?(?=(?:{_ROOTS}))", ""),
    Renaming(r"(.*?)_orig_mod\.", r"\1"),
    # Averages (EMA), in files that have nothing else.
    Renaming(r"model_ema\.diffusion_model(.+)", _with_dots, unless=UNET),
    # Text encoders: of ComfyUI, of the web UI, of Stable Diffusion XL's original and of early checkpoints.
    Renaming(rf"(?:text_encoders\.|{re.escape(TEXT)})clip_g\.(?:transformer\.)?", "conditioner.embedders.1.model."),
    Renaming(r"conditioner\.embedders\.1\.transformer\.", "conditioner.embedders.1.model."),
    Renaming(rf"(?:text_encoders\.|{re.escape(TEXT)})clip_h\.(?:transformer\.)?", OPEN_CLIP),
    Renaming(rf"(?:text_encoders\.|{re.escape(TEXT)})clip_l\.", TEXT),
    Renaming(rf"{re.escape(TEXT)}wrapped\.", TEXT),
    Renaming(r"conditioner\.embedders\.0\.transformer\.", f"{TEXT}transformer."),
    Renaming(rf"{re.escape(TEXT)}(text_model\.)", rf"{TEXT}transformer.\1"),
    Renaming(
        rf"{re.escape(TEXT)}transformer\.((?:embeddings|encoder|final_layer_norm)\.)",
        rf"{TEXT}transformer.text_model.\1",
    ),
    # The VAE, and its attention in versions of diffusers.
    Renaming(r"vae\.", VAE),
    Renaming(
        rf"({re.escape(VAE)}(?:encoder|decoder)\.mid\.attn_1\.)({'|'.join(map(re.escape, _ATTENTION))})\.",
        lambda name: f"{name[1]}{_ATTENTION[name[2]]}.",
    ),
)  # fmt: skip
"""Applied to each name, in order, until none of them changes it."""
_MOST = 5
"""Times that the table is applied to a name: wrappers are nested."""


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of the original layout. `RENAMINGS` lists the other names that files have.

    Args:
        tensors: tensors, or their shapes, by the names in the file.
    """
    rules = [
        (re.compile(f"^{rule.pattern}"), rule.new)
        for rule in RENAMINGS
        if not (rule.unless and any(f".{rule.unless}" in f".{name}" for name in tensors))
    ]
    renamed = {name: _renamed(name, rules) for name in tensors}
    found = {name: tensors[name] for name, new in renamed.items() if name == new}
    # A name that is right already comes before others that become the same, such as that of an average.
    return found | {new: tensors[name] for name, new in renamed.items() if name != new and new not in found}


def vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a VAE in a file of a VAE or of a whole model, by the names that it has alone.

    Those of diffusers' layout keep their names.

    Args:
        tensors: as for `original_names`.
    """
    found = {name: each for name, each in original_names(tensors).items() if name.startswith(VAE)}
    found = found or original_names({f"{VAE}{name}": each for name, each in tensors.items()})
    return {name.removeprefix(VAE): each for name, each in found.items()}


def _renamed(name: str, rules: list[tuple[re.Pattern[str], Any]]) -> str:
    for _ in range(_MOST):
        before = name
        for pattern, new in rules:
            name = pattern.sub(new, name)
        if name == before:
            break
    return name
