"""Models in another layout, precision or format. Every tensor is read back and compared before a file gets its name."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli import models
from sdcli.errors import ModelError, OutputError, UsageError
from sdcli.inventory import DTYPES
from sdcli.jobs import from_home
from sdcli.model_spec import ModelSpec
from sdcli.models import checkpoint_file, families, json_files, renaming, weight_files
from sdcli.models.model import Model, ModelRequest
from sdcli.models.scheduler_config import SAMPLERS
from sdcli.models.sources.folder import INDEX, TEXT_PARTS, FolderModel, files_in
from sdcli.outputs.files import cannot_write, claim_name, make_folders, sync
from sdcli.terminal import in_bytes

if TYPE_CHECKING:
    import torch

SAFE = ".safetensors"
_TRAINED = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type",
            "rescale_betas_zero_snr")  # fmt: skip
"""Fields of the noise schedule that a model was trained with; the others say how it is sampled."""
_ARCHITECTURES = {
    "Stable Diffusion 1": "stable-diffusion-v1", "Stable Diffusion 2": "stable-diffusion-v2",
    "Stable Diffusion XL": "stable-diffusion-xl-v1-base",
}  # fmt: skip
_NOT_OF_THE_MODEL = {"training", "sample_size", "name_or_path", "gradient_checkpointing"}
"""Attributes of modules that decide no image."""
ROOM = 50_000_000
"""Bytes that a disk keeps free."""

Note = Callable[[str], None]
Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Conversion:
    """What is converted.

    Attributes:
        source: a file of weights, or a folder of diffusers.
        target: a new file, whose name ends in .safetensors, or a new folder.
        dtype: the type of the weights; empty keeps that of each tensor.
        config: the YAML configuration of the checkpoint; empty for the default.
    """

    source: Path
    target: Path
    dtype: str = ""
    config: str = ""

    @property
    def torch_dtype(self) -> torch.dtype | None:
        import torch

        found: torch.dtype | None = getattr(torch, self.dtype) if self.dtype else None
        return found


def convert(conversion: Conversion, note: Note) -> None:
    """Write the target. It has its name when it is complete and verified.

    Args:
        conversion: what is converted.
        note: called with what is being done.

    Raises:
        UsageError: the target is no name of a safetensors file or of a folder.
        ModelError: the source is no model, or has no such layout.
        OutputError: the target exists, or cannot be written.
    """
    source, target = conversion.source, conversion.target
    suffix = target.suffix.lower()
    if suffix in (".ckpt", ".pt", ".bin", ".pth"):
        raise UsageError(
            f"{target} would be a pickle, which sdcli does not write", fix=f"Pass a name that ends in {SAFE}."
        )
    if os.path.lexists(target):
        raise OutputError(f"{target} already exists", fix="Move it, or pass another name.")
    from_folder, to_folder = source.is_dir(), suffix != SAFE
    if from_folder and not (source / INDEX).is_file():
        raise ModelError(f"{source} contains no model", why=f"It has no {INDEX}.", fix="Pass the folder of a model.")
    how = {
        (False, False): _file_to_file,
        (False, True): _file_to_folder,
        (True, False): _folder_to_file,
        (True, True): _folder_to_folder,
    }[from_folder, to_folder]
    try:
        make_folders(target.absolute().parent)
        with _aside(target) as aside:
            how(conversion, aside, note)
            if to_folder:
                _require_free(target)
                aside.rename(target)
            else:
                claim_name(aside, target)
        sync(target.absolute().parent)
    except FileExistsError as error:
        raise OutputError(f"{target} exists now: another program made it", fix="Pass another name.") from error
    except OSError as error:
        raise cannot_write(target, error, "OUT") from error


def _require_free(target: Path) -> None:
    if os.path.lexists(target):  # renaming a folder replaces an empty one
        raise FileExistsError


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A place beside the target, for a file or a folder that is not complete; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=".sdcli-convert-", dir=target.absolute().parent))
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, tensors: Tensors, conversion: Conversion, metadata: Mapping[str, str] | None = None) -> None:
    """Write and verify one file, if there is room for it."""
    from sdcli.models import safetensors_writer

    dtype = conversion.torch_dtype
    needed = sum(each.numel() * safetensors_writer.kind_of(each, dtype).itemsize for each in tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed > free - ROOM:
        raise OutputError(
            f"there is no room for {conversion.target}",
            why=f"{path.name} needs {in_bytes(needed)}, and {in_bytes(free)} are free.",
            fix="Free some space, or pass another place.",
        )
    safetensors_writer.write(path, tensors, dtype=dtype, metadata=metadata)


def _file_to_file(conversion: Conversion, aside: Path, note: Note) -> None:
    """The same tensors by the same names."""
    source = conversion.source
    tensors = checkpoint_file.read_tensors(source)
    _require_all(source, tensors)
    note(f"tensors: {len(tensors):,}")
    _write(aside, tensors, conversion, checkpoint_file.metadata(source))


def _require_all(source: Path, tensors: Tensors) -> None:
    """Raise `ModelError` if the file has tensors of a type that sdcli does not know."""
    if checkpoint_file.container(source) == "safetensors":
        lost = checkpoint_file.unknown_types(source)
        if lost:
            name, kind = next(iter(lost.items()))
            raise ModelError(f"{source} has tensors of a type that sdcli does not know: {name} is {kind}")


def _file_to_folder(conversion: Conversion, aside: Path, note: Note) -> None:
    """A checkpoint of the original layout as a folder of diffusers."""
    import torch

    from sdcli.models import weights

    request = ModelRequest(ckpt=str(conversion.source), config=conversion.config or None)
    source = models.find(request)
    family = families.get(source.spec.family)
    if not family.index:
        raise ModelError(f"{conversion.source} cannot be converted to a folder", why="Its family has no such layout.")
    with weights.as_stored():
        model = source.load(torch.device("cpu"), lambda part: note(f"reading the {part}"))
    assert isinstance(model, Model), "its family has an index"
    vae = next(part for part, entry in family.index.items() if entry == ["diffusers", "AutoencoderKL"])
    modules = {"unet": model.unet, vae: model.vae, family.part: model.text_encoder}
    if model.text_encoder_2 is not None:
        modules["text_encoder_2"] = model.text_encoder_2
    model.unet.register_to_config(sample_size=source.spec.default_height // source.spec.downscale)
    for part, module in modules.items():
        note(f"writing {part}")
        of_diffusers = hasattr(module, "save_config")
        prefix = "" if of_diffusers else family.text_prefix
        name = "diffusion_pytorch_model" if of_diffusers else "model"
        tensors = {
            key if key.startswith(prefix) or "text_projection" in key else f"{prefix}{key}": each
            for key, each in module.state_dict().items()
        }
        _write(aside / part / f"{name}{SAFE}", tensors, conversion)
        if of_diffusers:
            module.save_config(aside / part)
        else:
            module.config.architectures = [family.index[part][1]]
            module.config.save_pretrained(aside / part)
    _write_tokenizer(model.tokenizer, family, aside / "tokenizer")
    if model.tokenizer_2 is not None:
        _write_tokenizer(model.tokenizer_2, family, aside / "tokenizer_2")
    scheduler = _scheduler(source.spec)
    index = {**family.index, "scheduler": ["diffusers", scheduler["_class_name"]]}
    if source.spec.zero_negative_prompt:
        index["force_zeros_for_empty_prompt"] = True
    _write_json(aside / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(aside / INDEX, index)
    _require_same_training(source.spec, models.find(ModelRequest(model=str(aside))).spec, conversion)


def _write_tokenizer(tokenizer: Any, family: families.Family, folder: Path) -> None:
    """The tokenizer, in the form of transformers and in the older one that other programs read."""
    tokenizer.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "vocab.txt"):
        if (family.vocabulary / name).is_file() and not (folder / name).exists():
            shutil.copyfile(family.vocabulary / name, folder / name)


def _scheduler(spec: ModelSpec) -> dict[str, Any]:
    """The `scheduler_config.json` of a model."""
    schedule = spec.schedule.model_dump()
    given = {"timestep_spacing": spec.schedule.spacing_is_given, "set_alpha_to_one": spec.schedule.alpha_is_given}
    names = (*_TRAINED, "steps_offset", *(name for name, is_given in given.items() if is_given))
    fields = {name: schedule[name] for name in names}
    name = next((name for name, sampler in SAMPLERS.items() if sampler == spec.default_sampler), "DDIMScheduler")
    return {"_class_name": name, "clip_sample": False, **fields}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _folder_to_file(conversion: Conversion, aside: Path, note: Note) -> None:
    """A folder of diffusers as a checkpoint of the original layout, which is loaded and compared with the folder."""
    import torch

    from sdcli.models import original_layout, safetensors_writer, weights

    found = models.find(ModelRequest(model=str(conversion.source)))
    family = _original_family(found) if isinstance(found, FolderModel) else None
    if family is None or not isinstance(found, FolderModel):
        raise ModelError(f"{conversion.source} has no original layout", why="Its family has none that sdcli writes.")
    if found.classes["VAE"] != "AutoencoderKL":
        raise ModelError(
            f"{conversion.source} has no original layout",
            why=f"Its VAE is {found.classes['VAE']}, and the original layout has an AutoencoderKL.",
        )
    parts: dict[str, Tensors] = {label: _part(found.path, files) for label, files in found.parts.items()}
    parts["VAE"] = _newer(parts["VAE"])
    for label in TEXT_PARTS:
        if label in parts:
            own = {name.removeprefix(family.text_prefix): each for name, each in parts[label].items()}
            parts[label] = {name: each for name, each in own.items() if not name.endswith("position_ids")}
    blocks = _config(found, "UNet").get("layers_per_block", 2)
    if not isinstance(blocks, int):
        raise ModelError(f"{conversion.source} has no original layout", why=f"Its UNet has {blocks} layers per block.")
    unet = original_layout.unet(parts["UNet"], blocks, source=str(conversion.source))
    vae = original_layout.vae(parts["VAE"])
    tensors = {renaming.UNET + name: each for name, each in unet.items()}
    tensors |= {renaming.VAE + name: each for name, each in vae.items()}
    first, second = TEXT_PARTS
    tensors |= family.original_text_encoder(parts[first])
    if second in parts:
        tensors |= family.original_text_encoder_2(parts[second])
    note(f"tensors: {len(tensors):,}")
    _write(aside, tensors, conversion, _modelspec(found.spec, conversion.target.stem))
    try:
        written = models.find(ModelRequest(ckpt=str(aside), config=conversion.config or None))
        with weights.as_stored():
            model = written.load(torch.device("cpu"), lambda part: note(f"comparing the {part}"))
        assert isinstance(model, Model), "it is a checkpoint"
    except ModelError as error:
        raise ModelError(
            f"{conversion.source} cannot be converted to a checkpoint",
            why=f"What was written does not load: {error.what}. {error.why}".replace(str(aside), "the file"),
            fix="Pass the YAML file of such checkpoints with --config.",
        ) from error
    modules = {"UNet": model.unet, "VAE": model.vae, first: model.text_encoder, second: model.text_encoder_2}
    for label, expected in parts.items():
        what = f"the {label} of {conversion.target}"
        names = {name.removeprefix(family.text_prefix): each for name, each in modules[label].state_dict().items()}
        safetensors_writer.require_same(names, expected, conversion.torch_dtype, what=what)
        _require_same_module(modules[label], _config(found, label), conversion, label)
    _require_same_training(found.spec, written.spec, conversion)


def _original_family(found: FolderModel) -> families.Family | None:
    """The family of the checkpoint that a folder becomes; None if there is none."""
    own = families.get(found.spec.family)
    activation = str(_config(found, TEXT_PARTS[0]).get("hidden_act", ""))
    name = families.first(
        lambda each: (
            bool(each.index)
            and each.part == own.part
            and bool(each.text_encoders_2) == bool(own.text_encoders_2)
            and each.activation == activation
        )
    )
    return None if name is None else families.get(name)


def _config(found: FolderModel, label: str) -> Mapping[str, Any]:
    """The `config.json` of a part."""
    content = json_files.read(found.path / found.parts[label].part / "config.json")
    inner = content.get("text_config")
    return inner if isinstance(inner, dict) else content


def _require_same_module(written: Any, config: Mapping[str, Any], conversion: Conversion, label: str) -> None:
    """Raise `ModelError` if a part would compute otherwise than in the folder, with the same weights."""
    import torch

    with torch.device("meta"):
        kind = type(written)
        own = kind.from_config(dict(config)) if hasattr(kind, "from_config") else kind(kind.config_class(**config))
    ours, theirs = (dict(_numbers(each)) for each in (own, written))
    wrong = next((name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name)), None)
    if wrong is not None:
        raise ModelError(
            f"{conversion.source} cannot be converted to {conversion.target}",
            why=f"In the {label} {wrong} is {ours.get(wrong)}, and the target would be used with {theirs.get(wrong)}.",
            fix="Pass the YAML file of such checkpoints with --config.",
        )


def _numbers(module: Any) -> Iterator[tuple[str, Any]]:
    """The classes of the modules in a module, and their attributes that are plain values."""
    for path, each in module.named_modules():
        yield f"{path}.class", type(each).__name__
        for name, value in vars(each).items():
            if isinstance(value, (int, float, str, tuple)) and name[0] != "_" and name not in _NOT_OF_THE_MODEL:
                yield f"{path}.{name}", value


def _newer(tensors: Tensors) -> Tensors:
    """A VAE by the names of diffusers now, in which attention is linear."""
    from sdcli.models.adapters.vae import newer_name

    renamed = {newer_name(name): each for name, each in tensors.items()}
    return {
        name: each[:, :, 0, 0] if ".attentions." in name and each.ndim == 4 else each for name, each in renamed.items()
    }


def _part(folder: Path, files: weight_files.WeightFiles) -> dict[str, torch.Tensor]:
    """The tensors of a part, from one file or from several."""
    found: dict[str, torch.Tensor] = {}
    for name in files.weights:
        found |= checkpoint_file.read_tensors(folder / name)
    return found


def _modelspec(spec: ModelSpec, name: str) -> dict[str, str]:
    """Texts of the header, by https://github.com/Stability-AI/ModelSpec."""
    from sdcli.inventory.description import title

    found = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": name,
        "modelspec.prediction_type": "v" if spec.schedule.prediction_type == "v_prediction" else "epsilon",
        "modelspec.resolution": f"{spec.default_width}x{spec.default_height}",
    }
    architecture = _ARCHITECTURES.get(title(spec))
    return found | ({"modelspec.architecture": architecture} if architecture else {})


def _folder_to_folder(conversion: Conversion, aside: Path, note: Note) -> None:
    """The same folder, with its weights in another precision, and those in pickles as safetensors."""
    source = conversion.source
    names = files_in(source)
    parts = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
    weights = {part: files for part in parts if (files := weight_files.find(names, part)) is not None}
    others = [name for name in names if not _is_weights(name)]
    for part, files in weights.items():
        note(f"writing {part}")
        stem = "diffusion_pytorch_model" if "/diffusion_pytorch_model" in files.weights[0] else "model"
        _write(aside / part / f"{stem}{SAFE}", _part(source, files), conversion)
    for name in others:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, aside / name)
    before, after = (models.find(ModelRequest(model=str(path))) for path in (source, aside))
    _require_same_training(before.spec, after.spec, conversion)


def _is_weights(name: str) -> bool:
    """Whether a file of a folder has weights, or lists files that have."""
    is_list = re.search(r"\.index(\.\w+)?\.json$", name) is not None
    return is_list or name.endswith((SAFE, ".bin", ".ckpt", ".pt", ".msgpack", ".onnx", ".onnx_data"))


def _require_same_training(before: ModelSpec, after: ModelSpec, conversion: Conversion) -> None:
    """Raise `ModelError` if the target would be used as another model than the source."""
    pairs = [(name, getattr(before.schedule, name), getattr(after.schedule, name)) for name in _TRAINED]
    pairs += [("scaling_factor", before.latent_scale, after.latent_scale)]
    pairs += [("empty negative prompt", before.zero_negative_prompt, after.zero_negative_prompt)]
    for name, own, other in pairs:
        if own != other:
            raise ModelError(
                f"{conversion.source} cannot be converted to {conversion.target}",
                why=f"Its {name} is {own}, and the target would be used with {other}.",
                fix="Pass the YAML file of such checkpoints with --config.",
            )


def of_words(source: str, target: str, dtype: str, config: str) -> Conversion:
    """A conversion from the arguments of a command line.

    Raises:
        UsageError: the type of the weights is none.
    """
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not valid", fix=f"Pass one of: {', '.join(DTYPES)}.")
    return Conversion(Path(from_home(source)), Path(from_home(target)), dtype, config)
