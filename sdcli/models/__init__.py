"""Models: finding one (`sources/`), what depends on the text encoder (`families/`), and loading."""

from __future__ import annotations

from sdcli.models.model import ModelRequest, ModelSource
from sdcli.registry import MODEL_SOURCES
from sdcli.settings import Settings


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
    return find(
        ModelRequest(
            model=settings.model,
            ckpt=settings.checkpoint,
            config=settings.config,
            revision=settings.revision,
            offline=settings.offline,
        )
    )
