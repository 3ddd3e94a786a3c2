"""Models on the Hugging Face hub, through huggingface_hub and its cache."""

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
from sdcli.models import weight_files
from sdcli.models.model import Model, ModelRequest, PartCallback, PipelineModel
from sdcli.models.sources import pipeline
from sdcli.models.sources.folder import INDEX, FolderModel, files_in
from sdcli.models.sources.pipeline import PipelineFolder

if TYPE_CHECKING:
    import torch

CONFIGURATIONS = (INDEX, "*/config.json", "*/scheduler_config.json", "*/preprocessor_config.json",
                  "tokenizer*/*", "processor*/*")  # fmt: skip
TIMEOUT = 2.0
"""Seconds to wait for the first response of the hub, so that a run without a network fails within three."""


@dataclass(frozen=True)
class HubModel:
    """A model on the hub. Its configuration files are in the cache; its weights are downloaded when they are used."""

    request: ModelRequest
    offline: bool
    folder: FolderModel | PipelineFolder

    @property
    def spec(self) -> ModelSpec:
        return self.folder.spec

    def safety_checker(self, *, download: bool) -> Path | None:
        names = files(self.request, self.folder.path, self.offline)
        weights = weight_files.find(names, "safety_checker") if self.spec.has_safety_checker else None
        if weights is None:
            return None
        folder = self.folder.path
        if not all((folder / name).is_file() for name in weights.files):
            if not download:
                return None
            folder = fetch(self.request, weights.files, self.offline, folder.name)
        return folder / "safety_checker"

    @cached_property
    def _downloaded(self) -> FolderModel | PipelineFolder:
        weights = [name for part in self.folder.parts.values() for name in part.files]
        fetch(self.request, weights, self.offline, self.folder.path.name)
        return self.folder

    def hash(self) -> str:
        return self._downloaded.hash()

    def here(self) -> bool:
        return self.folder.here()

    def weights(self) -> int:
        return self.folder.weights()

    def tokenizer(self) -> Any:
        return self.folder.tokenizer()

    def vocabulary(self) -> None:
        return None

    def load(self, device: torch.device, progress: PartCallback) -> Model | PipelineModel:
        return self._downloaded.load(device, progress)


def find(request: ModelRequest) -> HubModel:
    """The model with a hub id.

    Raises:
        ModelNotFound: the model does not exist, needs access rights, or is not in the cache and there is no network.
        ModelError: the model is not supported.
    """
    from huggingface_hub import constants

    offline = request.offline or constants.is_offline_mode()
    no_response = "" if offline else unreachable()
    if no_response:
        offline = True
    try:
        path = fetch(request, CONFIGURATIONS, offline, request.revision)
    except ModelNotFound as error:
        if not no_response:
            raise
        raise ModelNotFound(
            f"the model {request.model} is not in the cache, and the hub cannot be reached",
            why=no_response,
            fix="Check the network, or use a model on this machine: pass a folder with --model, a file with --ckpt, or "
            "neither for the builtin model.",
        ) from error
    name = str(request.model)
    names = files(request, path, offline)
    kind = PipelineFolder if pipeline.takes(path) else FolderModel
    return HubModel(request, offline, kind.read(path, name=name, names=names))


def gated(name: str) -> ModelNotFound:
    """The error of a model whose terms the user has not accepted."""
    return ModelNotFound(
        f"the model {name} requires that you accept its terms",
        fix="Accept them on the model's page, then log in with `hf auth login` or set HF_TOKEN.",
    )


def unreachable() -> str:
    """Why the hub does not respond; "" if it does.

    Call it before huggingface_hub, which retries for half a minute.
    """
    from huggingface_hub import constants, get_session

    why = [f"{constants.ENDPOINT} does not respond."]

    def request() -> None:
        try:
            get_session().request("HEAD", constants.ENDPOINT, timeout=TIMEOUT, follow_redirects=False)
            why.clear()
        except Exception as error:  # no network, name, route or certificate; a proxy that refuses
            why[:] = [f"{constants.ENDPOINT}: {error}."]

    # In a thread, as name resolution has no timeout.
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return why[0] if why else ""


def fetch(request: ModelRequest, patterns: Sequence[str], offline: bool, revision: str | None) -> Path:
    """The folder in the cache with all files that match the patterns, downloaded if necessary.

    Raises:
        ModelNotFound: as for `find`.
        ModelError: the download failed.
    """
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    name = f"{request.model}" + (f" at {request.revision}" if request.revision else "")
    try:
        return Path(
            snapshot_download(
                str(request.model),
                revision=revision,
                local_files_only=offline,
                allow_patterns=list(patterns),
            )
        )
    except errors.GatedRepoError as error:
        raise gated(name) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"the model {request.model} has no revision {request.revision}", fix="Pass another --revision."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the model {request.model} does not exist on the hub, and there is no such folder",
            fix="Check the name. If the model is private, log in with `hf auth login` or set HF_TOKEN.",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelNotFound(
            f"the model {name} is not in the cache, or is incomplete",
            why="This run is offline and downloads nothing." if offline else str(error).split("\n", 1)[0],
            fix="Run once without --offline and without HF_HUB_OFFLINE.",
        ) from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{request.model} is neither a folder nor a hub id", why=f"{error}") from error
    except Exception as error:  # the network fails during the download, the disk is full
        raise ModelError(
            f"the model {name} could not be downloaded",
            why=str(error).split("\n", 1)[0] or type(error).__name__,
            fix="Try again; finished downloads are kept.",
        ) from error


def files(request: ModelRequest, path: Path, offline: bool) -> list[str]:
    """The model's files, relative to its folder: all files on the hub; offline, those in the cache."""
    from huggingface_hub import errors, get_cached_repo_tree

    if not offline:
        try:
            return [file.path for file in get_cached_repo_tree(str(request.model), revision=path.name)]
        except errors.CachedRepoTreeNotFoundError:
            pass
    return files_in(path)
