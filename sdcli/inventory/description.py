"""What a model or an adapter is, from its configuration and the headers of its files: weights are not read."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sdcli import models
from sdcli.errors import ModelError, ModelNotFound
from sdcli.jobs import from_home
from sdcli.model_spec import ModelSpec
from sdcli.models import adapters, checkpoint_file, families, hashes, json_files, renaming, shipped, weight_files
from sdcli.models.adapters import layouts
from sdcli.models.adapters.embedding import EmbeddingFile
from sdcli.models.adapters.lora import LoraFile
from sdcli.models.adapters.vae import VaeSource
from sdcli.models.checkpoint_file import Place
from sdcli.models.model import ModelRequest, ModelSource
from sdcli.models.sources import hub
from sdcli.models.sources.folder import INDEX, files_in
from sdcli.models.torch_pickle import ITEM_SIZES
from sdcli.outputs.command import with_value
from sdcli.settings import Settings, flag

Kind = Literal["model", "LoRA", "embedding", "VAE", "unknown"]
SETTING_OF: Mapping[Kind, str] = {"LoRA": "lora", "embedding": "embedding", "VAE": "vae"}
"""The settings that take adapters."""
A1111_HASH = 10
"""Characters of the SHA-256 of a file by which AUTOMATIC1111's web UI names a checkpoint."""
SMALLEST_SHARE = 0.01
"""Of the parameters of a part, from which a precision is named."""
_WHOLE_VAE = re.compile(r"(first_stage_model\.|vae\.)?(encoder|decoder|quant_conv|post_quant_conv|loss|model_ema)\b")
_LICENSE = re.compile(r"^(license|license_name|license_link): *[\"']?(.*?)[\"']?$", re.MULTILINE)
_MAX_README = 100_000
_MOST_TAGS = 10
_PARTS = {
    renaming.UNET: "UNet", renaming.EMA: "averaged UNet", renaming.TEXT: "text encoder",
    renaming.VAE: "VAE", "conditioner.embedders.0.": "text encoder", "conditioner.embedders.1.": "text encoder 2",
}  # fmt: skip
_LAYOUTS = {
    "kohya": re.compile(r"lora_(unet|te\d?|transformer)_"), "LyCORIS": re.compile(r"lycoris_|.*\.(hada|lokr)_"),
    "peft": re.compile(r".*\.lora_[AB]\."), "cloneofsimo": re.compile(r"(\w+:)?\d+(:\w+)?$"),
    "diffusers": re.compile(r".*[._]lora(_linear_layer)?\."),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: what it is called, such as "UNet"; in a folder the name of its own folder.
        parameters: how many numbers it has; 0 if its weights are not on this machine.
        precision: their type, such as "float16"; several with commas, the most frequent first.
        of: its class in diffusers or transformers; empty if that is not known.
    """

    name: str
    parameters: int
    precision: str
    of: str = ""


@dataclass(frozen=True)
class Description:
    """A model or an adapter.

    Attributes:
        name: the name by which a list shows it.
        kind: what it is.
        family: the family of the model, or of the model that an adapter was made for, in words; empty if unknown.
        layout: how it is stored, such as "diffusers folder", or the layout of an adapter.
        path: its file or folder.
        size: bytes of its weights.
        parts: its parts; one, for an adapter.
        source: the model, if sdcli can use it.
        problem: why sdcli cannot use it; empty if it can.
        value: the value of the flag that takes it.
        setting: the setting that takes it; empty if sdcli cannot use it.
        revision: the commit, if it comes from the hub.
        texts: the texts in a safetensors header.
        details: what is known of an adapter: rank, words and so on.
    """

    name: str
    kind: Kind
    path: Path
    family: str = ""
    layout: str = ""
    size: int = 0
    parts: Sequence[Part] = ()
    source: ModelSource | None = None
    problem: str = ""
    value: str = ""
    setting: str = ""
    revision: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec | None:
        return None if self.source is None else self.source.spec

    @property
    def precision(self) -> str:
        """The precisions of its parts, the most frequent first."""
        weight: Counter[str] = Counter()
        for part in self.parts:
            for place, name in enumerate(part.precision.split(", ")):
                weight[name] += part.parameters if not place else 0
        return ", ".join(name for name, _ in weight.most_common() if name)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the weights, as records have it; empty for a folder that sdcli cannot use."""
        if self.source is not None:
            return self.source.hash() if self.source.here() else ""
        return hashes.of_file(self.path) if self.path.is_file() else ""

    @cached_property
    def license(self) -> str:
        """The licence, as the model card or the header of the file names it; empty if they do not."""
        own = self.texts.get("modelspec.license", "")
        return own or _license(self.path / "README.md" if self.path.is_dir() else self.path.parent / "README.md")

    @property
    def arguments(self) -> str:
        """The flag that takes it, with its value; empty if none is needed or sdcli cannot use it."""
        if not self.setting:
            return ""
        own = {self.setting: self.value}
        if self.setting == "model":
            own["revision"] = self.revision
        return " ".join(with_value(True, flag(name), value) for name, value in own.items() if value)

    def command(self, base: str = "") -> str:
        """A command that uses it; empty if sdcli cannot.

        Args:
            base: for an adapter, the flag of a model that it fits; empty if none is known.
        """
        if self.problem or self.kind == "unknown":
            return ""
        words = self.details.get("words") or self.details.get("tags") or []
        prompt = with_value(False, flag("prompt"), ", ".join(["a castle", *words[:1]]))
        base = (base or f"{flag('ckpt')} CHECKPOINT") if self.kind in SETTING_OF else ""
        return " ".join(filter(None, ("sdcli txt2img", base, self.arguments, prompt)))

    def fits(self, spec: ModelSpec) -> bool:
        """Whether an adapter fits a model."""
        readers: Mapping[Kind, Any] = {"LoRA": adapters.lora, "embedding": adapters.embedding, "VAE": adapters.vae}
        try:
            readers[self.kind](self.path).require_fit(spec)
        except ModelError:
            return False
        return True


def of_name(name: str, settings: Settings) -> Description:
    """A model or an adapter by what flags call it.

    Args:
        name: a builtin model, a path, a name in the folder of models or of adapters, or a hub id in the cache.
        settings: the folders.

    Raises:
        ModelNotFound: there is none.
        ModelError: it is neither a file nor a folder.
    """
    if name in shipped.NAMES:
        return of_builtin(name)
    path = Path(from_home(name))
    if not os.path.lexists(path):
        here = models.named(name, settings.models_folder) or adapters.named(name, Path(from_home(settings.adapters)))
        if here is None:
            return of_hub(name)
        path = here
    return of_path(path, name=name)


def of_path(path: Path, *, name: str = "") -> Description:
    """What is in a file or in a folder of diffusers; `name` is what a list calls it."""
    return of_folder(path, name=name) if os.path.isdir(path) else of_file(path, name=name)  # noqa: PTH112


def of_builtin(name: str) -> Description:
    """A builtin model."""
    source = models.find(ModelRequest(model=name))
    fast = name != shipped.NAMES[0]
    folder, base = (shipped.FAST, shipped.BUILTIN) if fast else (shipped.BUILTIN, None)
    parts, size = _parts_of_folder(folder, base)
    setting = "model" if fast else ""
    return Description(name, "model", folder, "builtin", "builtin", size, parts, source, value=name, setting=setting)


def of_hub(name: str) -> Description:
    """A model in the cache of the Hugging Face hub. No connection is opened.

    Raises:
        ModelNotFound: it is not in the cache.
    """
    place, _, revision = name.partition("@")
    owner, _, rest = place.partition("/")
    repository, _, file = rest.partition("/")
    request = ModelRequest(model=f"{owner}/{repository}", revision=revision or None, offline=True)
    try:
        if not models.is_hub_id(name):
            raise ModelNotFound("It has not the form of a hub id, OWNER/NAME")
        folder = hub.fetch(request, ["README.md"], True, request.revision)
        if (folder / INDEX).is_file() and not file:
            return of_snapshot(str(request.model), folder)
        adapter = adapters.locate("lora", name, "", offline=True)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"there is no file, no folder and no model {name} on this machine",
            why=f"{error.what.rstrip('.')}.",
            fix="sdcli models list shows the models of this machine, sdcli models fetch downloads others.",
        ) from error
    return replace(of_file(adapter.path, name=name), value=adapter.name, revision=folder.name)


def of_snapshot(name: str, folder: Path) -> Description:
    """A model in a folder of the hub's cache, which is named by its commit."""
    return _folder(folder, name, "hub", value=name, revision=folder.name)


def of_folder(path: Path, *, name: str = "") -> Description:
    """A model in a folder of diffusers' layout.

    Raises:
        ModelError: the folder has no model.
    """
    if not (path / INDEX).is_file():
        if (path / "config.json").is_file():  # a VAE alone
            with suppress(ModelNotFound):
                return of_file(adapters.locate("vae", str(path), "", offline=True).path, name=name or str(path))
        raise ModelError(
            f"{path} contains no model", why=f"It has no {INDEX}.", fix="Pass the folder of a model, or a file in it."
        )
    return _folder(path, name or str(path), "diffusers folder", value=str(path))


def _folder(path: Path, name: str, layout: str, *, value: str, revision: str = "") -> Description:
    source, problem = _found(ModelRequest(model=str(path)), path)
    index = _index(path)
    parts, size = _parts_of_folder(path)
    return Description(
        name,
        "model" if source else "unknown",
        path,
        title(source.spec) if source else str(index.get("_class_name", "")).removesuffix("Pipeline"),
        layout,
        size,
        parts,
        source,
        problem,
        value,
        "model" if source else "",
        revision=revision,
    )


def _index(folder: Path) -> Mapping[str, Any]:
    """The content of `model_index.json`; empty if it cannot be read."""
    try:
        return json_files.read(folder / INDEX)
    except ModelError:
        return {}


def _found(request: ModelRequest, path: Path) -> tuple[ModelSource | None, str]:
    """The model, if sdcli can use it; or why it cannot."""
    try:
        return models.find(request), ""
    except ModelError as error:
        return None, _without(path, error.what)


def _parts_of_folder(folder: Path, base: Path | None = None) -> tuple[list[Part], int]:
    """The parts of a model whose weights are on this machine, and the bytes of these."""
    names = files_in(folder, base)
    index = _index(folder if base is None else base)
    classes = {part: str(entry[1]) for part, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    found, size = [], 0
    for part in dict.fromkeys(name.split("/")[0] for name in names if "/" in name):
        files = weight_files.find(names, part)
        if files is None:
            continue
        places: list[Place] = []
        for name in files.weights:
            path = folder / name if (folder / name).exists() or base is None else base / name
            with suppress(ModelError, OSError):
                places += checkpoint_file.stored(path).values()
                size += path.stat().st_size
        found.append(Part(part, _parameters(places), _precision(places), classes.get(part, "")))
    return found, size


def title(spec: ModelSpec) -> str:
    """The family of a model in words."""
    family = families.get(spec.family)
    return layouts.WIDTHS.get(spec.text_width) or family.checkpoint_models or family.folder_models


def of_file(path: Path, *, name: str = "") -> Description:
    """A checkpoint or an adapter.

    Raises:
        ModelNotFound: the file does not exist.
        ModelError: it is damaged, or no file of weights.
    """
    places = checkpoint_file.stored(path)
    if not places:
        raise ModelError(f"the checkpoint {path} contains no tensors", fix=checkpoint_file.DOWNLOAD_AGAIN)
    common: dict[str, Any] = {
        "name": name or str(path),
        "path": path,
        "size": path.stat().st_size,
        "texts": checkpoint_file.metadata(path),
        "value": str(path),
    }
    return _adapter(path, places, common) or _checkpoint(path, places, common)


def _checkpoint(path: Path, places: Mapping[str, Place], common: dict[str, Any]) -> Description:
    tensors = renaming.original_names(places)
    source, problem = _found(ModelRequest(ckpt=str(path)), path)
    groups: dict[str, list[Place]] = {}
    for tensor, place in tensors.items():
        part = next((part for prefix, part in _PARTS.items() if tensor.startswith(prefix)), "other tensors")
        groups.setdefault(part, []).append(place)
    parts = [Part(part, _parameters(found), _precision(found)) for part, found in groups.items()]
    return Description(
        kind="model" if source else "unknown",
        family=title(source.spec) if source else common["texts"].get("modelspec.architecture", ""),
        layout="checkpoint",
        parts=parts,
        source=source,
        problem=problem,
        setting="ckpt" if source else "",
        **common,
    )


def _adapter(path: Path, places: Mapping[str, Place], common: dict[str, Any]) -> Description | None:
    """A LoRA, an embedding or a VAE; None if it is none of these."""
    shapes = {name: place.shape for name, place in places.items()}
    texts = common["texts"]
    kind: Kind
    details: dict[str, Any]
    layers, left_over = layouts.layers(shapes)
    try:
        if layers and len(left_over) * 2 < len(shapes):
            lora = LoraFile.read(path)
            made_for, _ = layouts.made_for(lora.layers, shapes)
            kind, family, layout = "LoRA", made_for or _base(texts), _layout(shapes)
            details = {
                "method": sorted({each.kind for each in layers}) + (["DoRA"] if _is_dora(layers) else []),
                "rank": sorted(_ranks(layers, shapes)),
                "changes": sorted({part for each in layers for part in each.parts}, reverse=True),
                "words": _words(texts),
                "tags": _tags(texts),
            }
        elif len(shapes) <= 2 and (path.suffix != ".ckpt" or len(shapes) == 1):
            embedding = EmbeddingFile.read(path)
            width = sum(embedding.widths)
            if "." in embedding.tensors[0] and width not in layouts.WIDTHS:
                return None  # a layer of a model, not a word
            kind, family, layout = "embedding", layouts.WIDTHS.get(width, ""), "textual inversion"
            details = {"words": list(embedding.words), "vectors": embedding.vectors}
        elif all(map(_WHOLE_VAE.match, shapes)):
            vae = VaeSource.read(path)
            kind, family, layout = "VAE", _base(texts), "original" if vae.original else "diffusers"
            details = {"class": vae.kind, "latent channels": vae.config.get("latent_channels")}
        else:
            return None
    except ModelError:
        return None
    parts = [Part(kind, _parameters(places.values()), _precision(places.values()))]
    return Description(
        kind=kind, family=family, layout=layout, parts=parts, setting=SETTING_OF[kind],
        details={name: value for name, value in details.items() if value}, **common,
    )  # fmt: skip


def _layout(names: Iterable[str]) -> str:
    """The layout that most names of a LoRA file have; the first of those that fit."""
    first = list(names)[:50]
    return next((layout for layout, pattern in _LAYOUTS.items() if any(map(pattern.match, first))), "")


def _is_dora(layers: Iterable[layouts.Layer]) -> bool:
    return any({"magnitude", "dora_scale"} & each.tensors.keys() for each in layers)


def _ranks(layers: Iterable[layouts.Layer], shapes: checkpoint_file.Shapes) -> set[int]:
    roles = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    tensors = (next((each.tensors[role] for role in roles if role in each.tensors), "") for each in layers)
    return {shapes[name][0] for name in tensors if name and shapes[name]}


def _words(texts: Mapping[str, str]) -> list[str]:
    """The words that a file says it is triggered by."""
    phrase = texts.get("modelspec.trigger_phrase", "")
    return [word for word in (each.strip() for each in re.split(r"[,\n]", phrase)) if word]


def _tags(texts: Mapping[str, str]) -> list[str]:
    """The words that were most frequent in the captions of the training."""
    counts: Counter[str] = Counter()
    with suppress(ValueError, RecursionError):
        folders = json.loads(texts.get("ss_tag_frequency") or "{}")
        for tags in folders.values() if isinstance(folders, dict) else ():
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                if isinstance(count, int):
                    counts[tag.strip()] += count
    return [tag for tag, _ in counts.most_common(_MOST_TAGS) if tag]


def _base(texts: Mapping[str, str]) -> str:
    """The model that an adapter was made for, as its header says."""
    return texts.get("modelspec.architecture") or texts.get("ss_base_model_version") or ""


def _parameters(places: Iterable[Place]) -> int:
    return sum(math.prod(place.shape) for place in places)


def _precision(places: Iterable[Place]) -> str:
    counts: Counter[str] = Counter()
    for place in places:
        counts[place.dtype] += math.prod(place.shape)
    total = sum(counts.values())
    kept = [name for name, count in counts.most_common() if count >= SMALLEST_SHARE * total]
    return ", ".join(kept)


def _license(card: Path) -> str:
    """The licence in the front matter of a model card."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_README)
    except OSError:
        return ""
    if not text.startswith("---"):
        return ""
    found: dict[str, str] = dict(_LICENSE.findall(text[3 : text.find("\n---", 3)]))
    name = str(found.get("license", ""))
    name = found.get("license_name", name) if name == "other" else name
    link = found.get("license_link", "")
    return f"{name} ({link})" if name and link else name


def summary(found: Description) -> dict[str, Any]:
    """What a list says of it, as a JSON object."""
    return {
        "name": found.name,
        "kind": found.kind,
        "family": found.family or None,
        "layout": found.layout or None,
        "path": str(found.path),
        "revision": found.revision or None,
        "bytes": found.size,
        "precision": found.precision or None,
        "problem": found.problem or None,
    }


def everything(found: Description, base: str) -> dict[str, Any]:
    """All that is known of it, as a JSON object. `base` is as for `Description.command`."""
    spec = found.spec
    return summary(found) | {
        "parts": [
            {"name": part.name, "class": part.of or None, "parameters": part.parameters, "precision": part.precision}
            for part in found.parts
        ],
        "spec": None if spec is None else spec.model_dump(mode="json"),
        "hash": found.hash or None,
        "license": found.license or None,
        "details": dict(found.details),
        "metadata": dict(found.texts),
        "command": found.command(base) or None,
    }


def failed(name: str, path: Path, error: ModelError | OSError) -> Description:
    """What a list has for something that cannot be read."""
    problem = str(error.strerror) if isinstance(error, OSError) else f"{error.what}. {error.why}".strip()
    size = 0
    with suppress(OSError):
        size = path.stat().st_size
    return Description(name, "unknown", path, size=size, problem=_without(path, problem))


def _without(path: Path, problem: str) -> str:
    """A message about a file or a folder, without its name: beside it there is one."""
    for known in (str(path), path.name):
        problem = re.sub(rf"(the (model|checkpoint) )?{re.escape(known)}(?= )", "it", problem, count=1)
    return problem


def bytes_in_memory(found: Description) -> int:
    """Bytes that the weights take in float32, in which they are computed on a CPU."""
    return ITEM_SIZES["float32"] * sum(part.parameters for part in found.parts)
