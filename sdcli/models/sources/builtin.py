"""The small models that ship with sdcli."""

from __future__ import annotations

from typing import Any

from sdcli.errors import ModelNotFound
from sdcli.models import shipped
from sdcli.models.model import ModelRequest
from sdcli.models.sources.folder import FolderModel

NAME, FAST = shipped.NAMES
DEFAULTS: dict[str, Any] = {
    "only_default_size": True,
    "default_scale": 2.0,
    "default_steps": 20,
    "watermark_method": "robust",
    "nsfw_threshold": 0.99,
}
"""Fields of `ModelSpec` that no file of a model says."""
FAST_DEFAULTS = DEFAULTS | {"default_scale": 1.0, "default_steps": 4}


def find(request: ModelRequest) -> FolderModel | None:
    """A builtin model; None if the request names another one.

    Raises:
        ModelNotFound: the installation does not contain it.
    """
    if request.ckpt or request.model not in (None, "", *shipped.NAMES):
        return None
    fast = request.model == FAST
    needed = [shipped.BUILTIN / "model_index.json", *([shipped.FAST / "unet"] if fast else [])]
    if not all(path.exists() for path in needed):
        raise ModelNotFound(
            f"the {request.model or NAME} model is missing in this installation",
            fix="Install sdcli again, or pass a model with --model or --ckpt.",
        )
    if fast:
        return FolderModel.read(shipped.FAST, name=FAST, defaults=FAST_DEFAULTS, base=shipped.BUILTIN)
    return FolderModel.read(shipped.BUILTIN, name=NAME, defaults=DEFAULTS)
