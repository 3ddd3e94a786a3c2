"""LoRA files, and models whose weights they change.

A change is added to the weights, so a step takes as long as without it. The original weights are kept, not computed
back, so they return bit for bit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.models import checkpoint_file, families, recognition
from sdcli.models.adapters import layouts
from sdcli.models.adapters.embedding import Words
from sdcli.models.adapters.layouts import Layer, Part
from sdcli.terminal import shortened

if TYPE_CHECKING:
    import torch

    from sdcli.model_spec import ModelSpec
    from sdcli.models.adapters.vae import VaeSource
    from sdcli.models.model import Model

_NAMED = 3
"""Tensors that a message names."""
_LONGEST = 100


@dataclass(frozen=True)
class LoraFile:
    """The table of contents of a LoRA file.

    Attributes:
        path: the file.
        layers: what it has for each layer.
        left_over: the names of the tensors that no layout has.
        shapes: the shapes of its tensors.
        scales: the file's fields about `alpha`, which some layouts keep beside the tensors.
    """

    path: Path
    layers: Sequence[Layer]
    left_over: Sequence[str]
    shapes: checkpoint_file.Shapes
    scales: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> LoraFile:
        """Read the names and shapes of a file, without its tensors and without torch.

        Raises:
            ModelNotFound: the file does not exist.
            ModelError: it is damaged, or not a LoRA.
        """
        shapes = checkpoint_file.shapes(path)
        found, left_over = layouts.layers(shapes)
        if not found:
            seems, fix = recognition.described(shapes, "lora")
            raise ModelError(
                f"{path} is not a LoRA that sdcli reads",
                why=f"It seems to be {seems}."
                if seems
                else "It has " + (f"the tensors {_some(shapes)}." if shapes else "no tensors."),
                fix=fix or "Pass a LoRA, LoCon, LoHa, LoKr or DoRA in the layout of diffusers, peft, kohya or LyCORIS.",
            )
        return cls(path, found, left_over, shapes, _scales(path))

    @staticmethod
    def configuration(path: Path) -> Path | None:
        """What peft writes about `alpha` into a file of its own; None if there is none for this file."""
        beside = path.parent / "adapter_config.json"
        return beside if path.stem == "adapter_model" and beside.is_file() else None

    def require_fit(self, spec: ModelSpec) -> None:
        """Check by the names and shapes that the file was made for such a model.

        Raises:
            ModelError: it was made for another one.
        """
        kind, width = layouts.made_for(self.layers, self.shapes)
        own = layouts.WIDTHS.get(spec.text_width, families.get(spec.family).folder_models)
        other_width = bool(width) and width != spec.text_width
        if spec.text_width and (other_width or (kind in layouts.OTHERS and kind != own)):
            widths = f": it takes text embeddings of width {width}, the model's have {spec.text_width}"
            raise ModelError(
                f"the LoRA {self.path} does not fit the model {spec.name}",
                why=f"It was made for {kind or 'another model'}{widths if other_width else ''}.",
                fix=f"Pass a LoRA for {own}, or another model with --model or --ckpt.",
            )

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The file's tensors by name, memory-mapped if possible."""
        return checkpoint_file.read_tensors(self.path)

    def alpha(self, layer: Layer) -> float | None:
        """The number that divided by the rank is the scale of a layer without a tensor `alpha`; None is the rank."""
        part = layer.parts[0] if len(layer.parts) == 1 else ""
        prefix = f"{part}." if any(name.startswith(f"{part}.") for name in self.scales) else ""
        patterns = self.scales.get(f"{prefix}alpha_pattern")
        value = self.scales.get(f"{prefix}lora_alpha")
        for pattern, own in patterns.items() if isinstance(patterns, dict) else ():
            if re.fullmatch(rf"(.*\.)?{re.escape(pattern)}", layer.name):
                value = own
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        rank = self.shapes[layer.tensors["down"]][0] if "down" in layer.tensors else 1
        return float(value) * (math.sqrt(rank) if self.scales.get(f"{prefix}use_rslora") is True else 1)


def _scales(path: Path) -> dict[str, Any]:
    """What diffusers writes into the header of a file, and peft into a file beside it, about `alpha`."""
    text = checkpoint_file.metadata(path).get("lora_adapter_metadata", "")
    beside = LoraFile.configuration(path)
    if not text and beside is not None:
        with beside.open(encoding="utf-8", errors="replace") as file:
            text = file.read(checkpoint_file.MAX_TABLE)
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the configuration of {path} is not JSON", why=f"{error}.") from error
    return found if isinstance(found, dict) else {}


def _some(names: Sequence[str] | Mapping[str, Any]) -> str:
    """The first of some names."""
    shown = ", ".join(shortened(name, _LONGEST) for name in list(names)[:_NAMED])
    return f"{shown}{f' and {len(names) - _NAMED:,} more' if len(names) > _NAMED else ''}"


@dataclass(frozen=True)
class Use:
    """A LoRA at a strength for each part of the model; 1 is the strength that it was trained with."""

    file: LoraFile
    unet: float = 1.0
    text_encoder: float = 1.0

    def strength(self, part: Part) -> float:
        return self.unet if part == "unet" else self.text_encoder


class Adapted:
    """A model that LoRAs and embeddings change.

    Args:
        model: its weights are replaced by `use`, and come back with `use([])`.

    Attributes:
        model: the changed model, which has a tokenizer of its own if it has embeddings.
        words: the words of its embeddings.
    """

    def __init__(self, model: Model) -> None:
        self._model = self.model = model
        self.words = Words([])
        self._parts: dict[Part, Any] = {
            part: module for part in layouts.PARTS if (module := getattr(model, part)) is not None
        }
        self._originals: dict[tuple[Part, str], torch.Tensor] = {}
        """The weights that are replaced now, by part and name."""

    @cached_property
    def _layers(self) -> dict[Part, dict[str, str]]:
        """The paths of the modules of each part, by the names that files have for them."""
        blocks = getattr(self._model.unet.config, "layers_per_block", 2)
        blocks = blocks if isinstance(blocks, int) else blocks[0]
        ups = getattr(self._model.unet, "up_blocks", ())
        attention = {number for number, block in enumerate(ups) if hasattr(block, "attentions")}
        return {
            part: {
                name: path
                for path, module in self._parts[part].named_modules()
                if getattr(module, "weight", None) is not None
                for name in layouts.names_of(part, path, blocks, attention=attention)
            }
            for part in self._parts
        }

    def use(self, loras: Sequence[Use], words: Words | None = None, vae: VaeSource | None = None) -> list[str]:
        """Change the original weights by these LoRAs and embeddings, and by no others; decode with this VAE.

        Returns:
            For each file of which something is not used, a sentence that says what.

        Raises:
            ModelError: a file does not fit the model. The model has its original weights then.
        """
        import torch

        self.restore()
        notes = []
        try:
            with torch.no_grad():
                changes: dict[tuple[Part, str], torch.Tensor] = {}
                for lora in loras:
                    notes += self._add(lora, changes)
                for (part, name), change in changes.items():
                    weight = self._parts[part].get_parameter(name)
                    self._replace(part, name, (weight.float() + change).to(weight.dtype))
                if words is not None and words.files:
                    self.model, tables = words.model(self._model)
                    for part, (name, table) in zip(layouts.TEXT_PARTS, tables, strict=False):
                        self._replace(part, name, table)
                    self.words = words
                if vae is not None:
                    decoder = vae.load(self._model.spec).to(self._model.device)
                    self.model = replace(self.model, vae=decoder)
        except BaseException:
            self.restore()
            raise
        return notes

    def restore(self) -> None:
        """Put the original weights back."""
        for (part, name), weight in self._originals.items():
            self._parts[part].get_parameter(name).data = weight
        self._originals = {}
        self.model, self.words = self._model, Words([])

    def _replace(self, part: Part, name: str, weight: torch.Tensor) -> None:
        parameter = self._parts[part].get_parameter(name)
        self._originals.setdefault((part, name), parameter.data)
        parameter.data = weight

    def _add(self, lora: Use, changes: dict[tuple[Part, str], torch.Tensor]) -> list[str]:
        """Add the changes of a LoRA to those of others."""
        from sdcli.models.adapters.deltas import delta

        file = lora.file
        unused = list(file.left_over)
        fits = 0
        for layer, place in self._placed(file):
            if place is None:
                unused += layer.tensors.values()
                continue
            fits += 1
            part, path = place
            module = self._parts[part].get_submodule(path)
            strength = lora.strength(part)
            if not strength:
                continue
            tensors = {
                role: file.tensors[name].to(module.weight.device).float() for role, name in layer.tensors.items()
            }
            try:
                for name, change in _changes(module, tensors, file.alpha(layer), delta):
                    if not change.isfinite().all():
                        raise ValueError("it has values that are not finite")
                    key = (part, f"{path}.{name}")
                    changes[key] = changes.get(key, 0) + strength * change
            except (ValueError, RuntimeError, IndexError) as error:
                raise self._misfit(file, f"{layer.name}: {str(error).splitlines()[0]}") from error
        if not fits:
            raise self._misfit(file, f"The model has none of its layers, such as {file.layers[0].name}")
        return [f"not used of the LoRA {file.path}: {_some(unused)}"] if unused else []

    def _misfit(self, file: LoraFile, why: str) -> ModelError:
        kind, _ = layouts.made_for(file.layers, file.shapes)
        made = f" It was made for {kind}." if kind else ""
        return ModelError(
            f"the LoRA {file.path} does not fit the model {self._model.spec.name}",
            why=f"{why.rstrip('.')}.{made}",
            fix="Pass a LoRA that was made for this model, or another model with --model or --ckpt.",
        )

    def _placed(self, file: LoraFile) -> Iterator[tuple[Layer, tuple[Part, str] | None]]:
        """The layers of a file, each with its part and the path of its module; None if the model has no such layer."""
        numbered = [layer for layer in file.layers if layer.name.isdecimal()]
        for part in self._parts if numbered else ():
            # Those of a list may be in any part; the first one that they fit has them.
            of_part = sorted((one for one in numbered if part in one.parts), key=lambda layer: int(layer.name))
            if order := self._order(part, of_part, file.shapes):
                numbered = [layer for layer in numbered if layer not in of_part]
                for layer, path in zip(of_part, order, strict=True):
                    yield layer, (part, path)
        for layer in numbered:
            yield layer, None
        for layer in file.layers:
            if not layer.name.isdecimal():
                name = layouts.flat(layer.name)
                known = ((part, self._layers.get(part, {}).get(name)) for part in layer.parts)
                yield layer, next(((part, path) for part, path in known if path is not None), None)

    def _order(self, part: Part, found: Sequence[Layer], shapes: checkpoint_file.Shapes) -> list[str] | None:
        """The paths of the modules that a file's numbered layers change; None if they do not fit them."""
        for order in _orders(part, self._parts[part]):
            weights = [self._parts[part].get_submodule(path).weight for path in order]
            wanted = [(layer, weight) for layer, weight in zip(found, weights, strict=False)]
            if len(found) == len(order) and all(
                shapes[layer.tensors["up"]][0] == weight.shape[0]
                and shapes[layer.tensors["down"]][1] == weight.shape[1]
                for layer, weight in wanted
            ):
                return order
        return None


def _changes(
    module: Any, tensors: dict[str, torch.Tensor], alpha: float | None, delta: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """The changes of the weight and the bias of a module."""
    bias = tensors.pop("diff_b", None)
    if "bias" in tensors:
        rank = tensors["down"].shape[0]
        bias = tensors.pop("bias") * (1.0 if alpha is None else alpha / rank)
    if tensors:
        yield "weight", delta(module.weight, tensors, alpha)
    if bias is not None:
        if module.bias is None or module.bias.shape != bias.shape:
            raise ValueError(f"it has a bias of the shape {tuple(bias.shape)}")
        yield "bias", bias


def _orders(part: Part, module: Any) -> Iterator[list[str]]:
    """The layers that cloneofsimo's trainer changes, in its order, which has become another one since.

    It takes all linear layers in the attention of the text encoder; in that of the UNet, and in later versions in the
    first layer of the feed-forward network, which stood between the two attentions then.
    """
    if part != "unet":
        found = [path for path, each in module.named_modules() if hasattr(each, "q_proj") and hasattr(each, "out_proj")]
        yield [f"{path}.{name}_proj" for path in found for name in ("k", "v", "q", "out")]
        return
    found = [path for path, each in module.named_modules() if hasattr(each, "attn1") and hasattr(each, "ff")]
    attention = ("to_q", "to_k", "to_v", "to_out.0")
    one, two = ([f"{name}.{layer}" for layer in attention] for name in ("attn1", "attn2"))
    for layers in ([*one, *two], [*one, "ff.net.0.proj", *two], [*one, *two, "ff.net.0.proj"]):
        yield [f"{path}.{layer}" for path in found for layer in layers]
