"""A model source: `--model dummy:NAME` is the builtin model, of the family "dummy".

To use it as a template: sdcli/models/sources/NAME.py, and a line in `sdcli.registry.MODEL_SOURCES`, before the sources
that refuse what they do not know.
"""

from __future__ import annotations

from dataclasses import replace

from sdcli.models import shipped
from sdcli.models.model import ModelRequest
from sdcli.models.sources import builtin
from sdcli.models.sources.folder import FolderModel

SCHEME = "dummy:"


def find(request: ModelRequest) -> FolderModel | None:
    """The builtin model under the requested name; None if the request has another scheme."""
    if request.model is None or not request.model.startswith(SCHEME):
        return None
    model = FolderModel.read(shipped.BUILTIN, name=request.model, defaults=builtin.DEFAULTS)
    return replace(model, spec=model.spec.model_copy(update={"family": "dummy"}))
