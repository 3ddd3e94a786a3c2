"""Where a model comes from: the builtin one, a file of the original layout, a diffusers folder, a hub id."""

from __future__ import annotations

from collections.abc import Callable

from sdcli.errors import UsageError
from sdcli.models.model import ModelRequest, ModelSource
from sdcli.models.sources import builtin, checkpoint, folder, hub
from sdcli.settings import Settings

# Each gives a source for the requests that are its own, else None; the first that answers is taken.
SOURCES: tuple[Callable[[ModelRequest], ModelSource | None], ...] = (
    builtin.find,
    checkpoint.find,
    folder.find,
    hub.find,
)


def find(
    *,
    model: str | None = None,
    ckpt: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> ModelSource:
    """The model asked for, checked as far as that goes without reading weights or importing torch.

    Args:
        model: a diffusers folder or a hub id.
        ckpt: a `.ckpt` or `.safetensors` file of the original layout. Neither of the two: the builtin model.
        config: the YAML that belongs to `ckpt`, or the name of one that ships with sdcli.
        revision: branch, tag or commit of a hub id.
        token: for hub ids that need one.
        offline: open no connection.

    Raises:
        UsageError: both `model` and `ckpt`.
        ModelNotFound: it is not there, or cannot be fetched.
        ModelError: it is damaged, or of a kind that sdcli does not draw with.
    """
    if model and ckpt:
        raise UsageError(f"--model {model} and --ckpt {ckpt} are two models", fix="Give one of the two.")
    request = ModelRequest(model, ckpt, config, revision, token, offline)
    return next(source for find_in in SOURCES if (source := find_in(request)) is not None)


def find_for(settings: Settings) -> ModelSource:
    """The model that a run's settings ask for; raises what `find` raises."""
    return find(
        model=settings.model,
        ckpt=settings.checkpoint,
        config=settings.config,
        revision=settings.revision,
        offline=settings.offline,
    )
