"""Models from the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError, ModelNotFound
from sdcli.model_spec import ModelSpec
from sdcli.models.model import Model, ModelRequest, Progress
from sdcli.models.sources.folder import INDEX, FolderModel, find_weights

if TYPE_CHECKING:
    import torch

CONFIGURATIONS = (INDEX, "*/config.json", "*/scheduler_config.json", "*/preprocessor_config.json", "tokenizer/*")
PATIENCE = 2.0
"""Seconds for the hub to give its first answer; without a network, what to do is said within three."""


@dataclass(frozen=True)
class HubModel:
    """A model on the hub. Its configurations are there from the start, its weights are fetched when they are used."""

    request: ModelRequest
    offline: bool
    folder: FolderModel

    @property
    def spec(self) -> ModelSpec:
        return self.folder.spec

    def safety_checker(self, *, download: bool) -> Path | None:
        names = _names(self.request, self.folder.path, self.offline)
        weights = find_weights(names, "safety_checker") if self.spec.has_safety_checker else None
        if weights is None:
            return None
        folder = self.folder.path
        if not all((folder / name).is_file() for name in weights.files):
            if not download:
                return None
            folder = _fetch(self.request, weights.files, self.offline, folder.name)
        return folder / "safety_checker"

    @cached_property
    def _fetched(self) -> FolderModel:
        files = [name for part in self.folder.parts.values() for name in part.files]
        _fetch(self.request, files, self.offline, self.folder.path.name)
        return self.folder

    def hash(self) -> str:
        return self._fetched.hash()

    def here(self) -> bool:
        return self.folder.here()

    def weights(self) -> int:
        return self.folder.weights()

    def tokenizer(self) -> Any:
        return self.folder.tokenizer()

    def load(self, device: torch.device, progress: Progress) -> Model:
        progress("weights from the hub")
        return self._fetched.load(device, progress)


def find(request: ModelRequest) -> HubModel:
    """The model with a hub id.

    Raises:
        ModelNotFound: no such model, no access, or no network and not in the cache.
        ModelError: a model of another kind.
    """
    from huggingface_hub import constants

    offline = request.offline or constants.is_offline_mode()
    no_answer = "" if offline else unreachable()
    if no_answer:
        offline = True
    try:
        path = _fetch(request, CONFIGURATIONS, offline, request.revision)
    except ModelNotFound as error:
        if not no_answer:
            raise
        raise ModelNotFound(
            f"the model {request.model} is not in the cache, and the hub cannot be reached",
            why=no_answer,
            fix="Check the network, or give a model that is on this machine: a folder with --model, a file with "
            "--ckpt, or neither for the builtin one.",
        ) from error
    name = str(request.model)
    return HubModel(request, offline, FolderModel.read(path, name=name, names=_names(request, path, offline)))


def unreachable() -> str:
    """Why the hub gives no answer; empty if it does.

    huggingface_hub tries again and again for half a minute, so it is asked only after this.
    """
    from huggingface_hub import constants, get_session

    why = [f"{constants.ENDPOINT} gives no answer."]

    def ask() -> None:
        try:
            get_session().request("HEAD", constants.ENDPOINT, timeout=PATIENCE, follow_redirects=False)
            why.clear()
        except Exception as error:  # no network, no name, no route, no certificate, a proxy's refusal
            why[:] = [f"{constants.ENDPOINT}: {error}."]

    # In a thread, as looking up a name knows no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return why[0] if why else ""


def _fetch(request: ModelRequest, patterns: Sequence[str], offline: bool, revision: str | None) -> Path:
    """The folder in the cache with all files that fit the patterns; fetched if need be."""
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    asked = f"{request.model}" + (f" at {request.revision}" if request.revision else "")
    try:
        return Path(
            snapshot_download(
                str(request.model),
                revision=revision,
                token=request.token,
                local_files_only=offline,
                allow_patterns=list(patterns),
            )
        )
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"the model {asked} is given to those only who accept its terms",
            fix=f"Accept them on the model's page, then log in with `hf auth login` or set HF_TOKEN. ({request.model})",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"the model {request.model} has no revision {request.revision}", fix="Give another --revision."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"there is no model {request.model} on the hub, and no such folder here",
            fix="Check the name. If it is private, log in with `hf auth login` or set HF_TOKEN.",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelNotFound(
            f"the model {asked} is not in the cache, or not all of it",
            why="Nothing may be fetched: this run is offline." if offline else str(error).split("\n", 1)[0],
            fix="Run once without --offline and without HF_HUB_OFFLINE.",
        ) from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{request.model} is neither a folder nor a hub id", why=f"{error}") from error
    except Exception as error:  # the network in the middle of it, the disk
        raise ModelError(
            f"the model {asked} could not be fetched",
            why=str(error).split("\n", 1)[0] or type(error).__name__,
            fix="Try again; what was fetched so far is kept.",
        ) from error


def _names(request: ModelRequest, path: Path, offline: bool) -> list[str]:
    """The model's files, relative: all that the hub has, or what there is when nothing can be fetched."""
    from huggingface_hub import errors, get_cached_repo_tree

    if not offline:
        try:
            return [file.path for file in get_cached_repo_tree(str(request.model), revision=path.name)]
        except errors.CachedRepoTreeNotFoundError:
            pass
    return [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
