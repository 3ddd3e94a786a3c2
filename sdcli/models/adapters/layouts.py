"""The layouts of LoRA files: what the names of their tensors say.

The names are read without torch, so a wrong file is refused before the model loads. Layouts by

* diffusers: `unet.down_blocks.0.attentions.0...to_q.lora.up.weight`, and the older `...processor.to_q_lora.up.weight`;
* peft: `base_model.model.down_blocks.0...to_q.lora_A.weight`, with `lora_magnitude_vector` for DoRA;
* kohya: `lora_unet_down_blocks_0_attentions_0...to_q.lora_up.weight`, `.alpha`, with `dora_scale` for DoRA;
* LyCORIS (https://github.com/KohakuBlueleaf/LyCORIS): `.hada_w1_a` of LoHa, `.lokr_w1` of LoKr, `.diff`, `.w_norm`;
* cloneofsimo (https://github.com/cloneofsimo/lora): `unet:0:up`, or a list of tensors, numbered in the order of the
  model's layers.

Names of UNet layers may be those of the original layout: `input_blocks_1_1_...`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["unet", "text_encoder", "text_encoder_2"]
TEXT_PARTS: tuple[Part, ...] = ("text_encoder", "text_encoder_2")
PARTS: tuple[Part, ...] = ("unet", *TEXT_PARTS)

# Ends of names, longest first, and the role of the tensor in the change of its layer.
_ROLES = {
    ".lora_magnitude_vector.default.weight": "magnitude", ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector": "magnitude", ".dora_scale": "dora_scale",
    ".lora_A.default.weight": "down", ".lora_B.default.weight": "up", ".lora_B.default.bias": "bias",
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_B.bias": "bias",
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora_mid.weight": "mid",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
    ".lora.down.weight": "down", ".lora.up.weight": "up", "_lora.down.weight": "down", "_lora.up.weight": "up",
    ".lora_linear_layer.alpha": "alpha", ".lora.alpha": "alpha", "_lora.alpha": "alpha", ".alpha": "alpha",
    **{f".{role}": role for role in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )},
    ".diff": "diff", ".w_norm": "diff", ".diff_b": "diff_b", ".b_norm": "diff_b",
}  # fmt: skip

# Beginnings of names, and the part of the model that they name; None if they name none.
_BEGINNINGS: Mapping[str, Part | None] = {
    "base_model.model.unet.": "unet", "base_model.model.text_encoder.": "text_encoder",
    "base_model.model.text_encoder_2.": "text_encoder_2",
    "model.diffusion_model.": "unet", "diffusion_model.": "unet", "lora_unet_": "unet", "unet.": "unet",
    "lora_te1_": "text_encoder", "lora_te_": "text_encoder", "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2", "text_encoder_2.": "text_encoder_2",
    "text_encoders.clip_l.transformer.": "text_encoder", "cond_stage_model.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "base_model.model.": None, "lycoris_": None,
}  # fmt: skip

_NUMBERED = re.compile(r"(?:(unet|text_encoder):)?(\d+)(?::(up|down))?")
"""Names of cloneofsimo's layout; those of a list are numbers alone."""
_WHOLE = {"diff"}, {"diff_b"}, {"diff", "diff_b"}


@dataclass
class Layer:
    """What a file has for one layer of the model.

    Attributes:
        name: the layer's name in the file, without the beginning that names the part.
        parts: the parts of the model that it may belong to.
        tensors: the names of its tensors in the file, by their roles.
    """

    name: str
    parts: tuple[Part, ...]
    tensors: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The method of the change: "LoRA", "LoHa", "LoKr" or "difference"; empty if its tensors are not complete."""
        roles = set(self.tensors)
        if {"up", "down"} <= roles:
            return "LoRA"
        if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= roles:
            return "LoHa"
        if all(f"lokr_{w}" in roles or {f"lokr_{w}_a", f"lokr_{w}_b"} <= roles for w in ("w1", "w2")):
            return "LoKr"
        return "difference" if roles in _WHOLE else ""


def layers(names: Iterable[str]) -> tuple[list[Layer], list[str]]:
    """The layers that a file changes, in the file's order, and the names of the tensors that no layout has.

    Layers of cloneofsimo's layout are named by numbers. A list of tensors, in which the two of each layer follow each
    other, has the names "0", "1" and so on.
    """
    found: dict[tuple[str, tuple[Part, ...]], Layer] = {}
    unknown = []
    for name in names:
        if (place := _place(name)) is None:
            unknown.append(name)
            continue
        stem, parts, role = place
        layer = found.setdefault((stem, parts), Layer(stem, parts))
        layer.tensors[role] = name
    complete = [layer for layer in found.values() if layer.kind]
    unknown += [name for layer in found.values() if not layer.kind for name in layer.tensors.values()]
    return complete, unknown


def _place(name: str) -> tuple[str, tuple[Part, ...], str] | None:
    """The layer of a tensor, the parts that it may be in, and the tensor's role; None if no layout has such a name."""
    if numbered := _NUMBERED.fullmatch(name):
        part, number, role = numbered.groups()
        if (part is None) != (role is None):
            return None
        if role is None:
            return str(int(number) // 2), PARTS, "down" if int(number) % 2 else "up"
        of_part: Part = "unet" if part == "unet" else "text_encoder"
        return number, (of_part,), role
    end = next((end for end in _ROLES if name.endswith(end)), None)
    if end is None:
        return None
    stem = name.removesuffix(end)
    begin = next((begin for begin in _BEGINNINGS if stem.startswith(begin)), "")
    known = _BEGINNINGS.get(begin)
    return stem.removeprefix(begin), PARTS if known is None else (known,), _ROLES[end]


def flat(name: str) -> str:
    """A layer's name as kohya's layout writes it: underscores for dots, and no `processor`."""
    return name.replace(".", "_").replace("_processor_", "_")


def names_of(part: Part, layer: str, blocks: int, *, attention: Collection[int]) -> Iterator[str]:
    """The names that files have for a layer of the model, as `flat` returns them.

    Args:
        part: the layer's part.
        layer: the path of its module in diffusers' UNet or in the text encoder.
        blocks: `layers_per_block` of the UNet.
        attention: the numbers of its upward blocks that have attention.
    """
    yield flat(layer)
    if part != "unet":
        plain = layer.removeprefix("text_model.")
        yield flat(f"text_model.{plain}")
        # diffusers wrote text encoders with the names of its own attention.
        old = re.sub(r"self_attn\.([qkv])_proj$", r"self_attn.to_\1", plain).replace(
            "self_attn.out_proj", "self_attn.to_out"
        )
        yield flat(f"text_model.{old}")
        return
    if layer.endswith("to_out.0"):
        yield flat(layer.removesuffix(".0"))
    if place := original(layer, blocks, attention):
        yield flat(place)


_TOP = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "conv_norm_out": "out.0",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original(layer: str, blocks: int, attention: Collection[int]) -> str:
    """The name of a UNet's layer in the original layout; empty if it has none."""
    if middle := _MIDDLE.fullmatch(layer):
        kind, number, rest = middle.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_RESNET.get(rest, rest)}"
    if not (block := _BLOCK.fullmatch(layer)):
        return _TOP.get(layer, "")
    way, number, kind, inner, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    first = number * (blocks + 1)
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks + 1}.0.op"
        root = f"input_blocks.{first + 1 + inner}"
    else:
        if kind == "upsamplers":
            # After the attention, if the block has any.
            return f"output_blocks.{first + blocks}.{2 if number in attention else 1}.conv"
        root = f"output_blocks.{first + inner}"
    return f"{root}.0.{_RESNET.get(rest, rest)}" if kind == "resnets" else f"{root}.1.{rest}"


WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""The models whose UNets take text embeddings of a width."""

# Names that only files for other models have.
OTHERS = {
    "Stable Diffusion XL": re.compile(r"lora_te2_|text_encoder_2\.|clip_g\.|label_emb|add_embedding"),
    "Stable Diffusion 3": re.compile(r"joint_blocks|lora_te3_|(?:^|\.)transformer_blocks\.\d+\.attn\.add_"),
    "Flux": re.compile(r"double_blocks|single_blocks|single_transformer_blocks"),
    "another kind of model": re.compile(r"^(?:transformer\.|lora_transformer_|diffusion_model\.(?:layers|blocks)\.)"),
}
_CONTEXT = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")


def made_for(found: Iterable[Layer], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """The model that a file was made for, by its names, and the width of the text embeddings that its UNet takes.

    Args:
        found: as `layers` returns them.
        shapes: of the file's tensors, by name.

    Returns:
        The model's name, empty if it is not known; and the width, 0 if it is not known.
    """
    other = next((kind for kind, names in OTHERS.items() if any(map(names.search, shapes))), "")
    width = 0
    for layer in found:
        if "unet" in layer.parts and _CONTEXT.search(layer.name):
            width = _inputs(layer, shapes)
            break
    return other or WIDTHS.get(width, ""), width


def _inputs(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The inputs of a linear layer, from the shapes of its change; 0 if they are not known."""

    def of(role: str) -> int:
        shape = shapes.get(layer.tensors.get(role, ""), ())
        return shape[1] if len(shape) > 1 else 0

    if layer.kind == "LoKr":
        return (of("lokr_w1") or of("lokr_w1_b")) * (of("lokr_w2") or of("lokr_w2_b"))
    return of({"LoRA": "down", "LoHa": "hada_w1_b", "difference": "diff"}[layer.kind])
