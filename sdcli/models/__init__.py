"""Models: finding one (`sources/`), what depends on the text encoder (`families/`), and loading."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sdcli.errors import ModelNotFound
from sdcli.models import shipped
from sdcli.models.model import ModelRequest, ModelSource
from sdcli.registry import MODEL_SOURCES
from sdcli.settings import Settings


class NotDownloaded(ModelNotFound):
    """A model of the hub that only a record names, and that is not on this machine."""


def find(request: ModelRequest) -> ModelSource:
    """The model of a request, checked as far as possible without reading weights or importing torch.

    Raises:
        UsageError: a revision of a model that is not on the hub.
        ModelNotFound: the model is not on this machine, and cannot be downloaded.
        ModelError: the model is damaged, or of a kind that sdcli does not support.
    """
    found = (find_in_source(request) for find_in_source in MODEL_SOURCES.values())
    source: ModelSource = next(source for source in found if source is not None)
    return source


def find_for(settings: Settings) -> ModelSource:
    """The model of a run. Raises the errors of `find`."""
    return find(_request(settings))


def find_here(settings: Settings) -> ModelSource:
    """The model of a run that only a record names, which may come from anybody: without a download.

    Raises:
        NotDownloaded: the model is on the hub, and not on this machine, or not whole.
        ModelNotFound: the model is not on this machine as regular files.
        UsageError, ModelError: as for `find`.
    """
    request = replace(_request(settings), offline=True)
    if request.ckpt and not os.path.isfile(os.path.expanduser(request.ckpt)):  # noqa: PTH111, PTH113
        raise ModelNotFound(f"there is no file {request.ckpt}", fix="Pass the checkpoint with --ckpt.")
    folder = os.path.expanduser(request.model or "")  # noqa: PTH111
    # Before its files are listed, which may be all of a disk.
    if os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, "model_index.json")):  # noqa: PTH112, PTH113, PTH118
        raise ModelNotFound(f"the folder {folder} contains no model_index.json", fix="Pass another one with --model.")
    absent = (NotDownloaded if is_hub_id(request.model) else ModelNotFound)(
        f"the model {request.model} is not on this machine",
        why="Only a record names it, and what only a record names is not downloaded.",
        fix=f"Pass --model {request.model} to download it.",
    )
    try:
        source = find(request)
    except ModelNotFound as error:
        raise absent if is_hub_id(request.model) else error from None
    if not source.here():
        raise absent
    return source


def named(name: str, folder: str) -> Path | None:
    """The diffusers folder or the checkpoint of this name in the folder of models.

    Args:
        name: such as `dreamy`, `dreamy.safetensors` or `old/dreamy`. If there is such a path, it is not a name.
        folder: the folder of models.
    """
    from sdcli.models import adapters

    root = Path(os.path.expanduser(folder))  # noqa: PTH111
    if os.path.lexists(os.path.expanduser(name)) or os.path.isabs(name):  # noqa: PTH111, PTH117
        return None
    if os.path.isfile(root / name / "model_index.json"):  # noqa: PTH113 - also for names that are too long
        return root / name
    return adapters.named(name, root)


def is_hub_id(model: str | None) -> bool:
    """Whether a name is that of a model on the hub, if there is no folder of that name."""
    return model is not None and "/" in model and not model.startswith(("/", "~", "."))


def _request(settings: Settings) -> ModelRequest:
    model, ckpt = settings.model, settings.checkpoint
    name = ckpt if model is None else model
    if name and not (model in shipped.NAMES or is_hub_id(model)) and (found := named(name, settings.models_folder)):
        model, ckpt = (None, str(found)) if found.is_file() else (str(found), None)
    return ModelRequest(
        model=model,
        ckpt=ckpt,
        config=settings.config,
        revision=settings.revision,
        offline=settings.offline,
    )
