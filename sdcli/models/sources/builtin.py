"""The small model that ships with sdcli."""

from __future__ import annotations

from sdcli.errors import ModelNotFound
from sdcli.models import shipped
from sdcli.models.model import ModelRequest
from sdcli.models.sources.folder import FolderModel

NAME = "builtin"


def find(request: ModelRequest) -> FolderModel | None:
    """The builtin model; None if the request names another one.

    Raises:
        ModelNotFound: the installation does not contain it.
    """
    if request.ckpt or request.model not in (None, "", NAME):
        return None
    if not (shipped.BUILTIN / "model_index.json").is_file():
        raise ModelNotFound(
            "the builtin model is missing in this installation",
            fix="Install sdcli again, or pass a model with --model or --ckpt.",
        )
    return FolderModel.read(shipped.BUILTIN, name=NAME, builtin=True)
