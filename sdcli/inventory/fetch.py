"""Models that are brought to this machine: known names, ids and files of the Hugging Face hub, and any address.

A repository of the hub goes into the hub's own cache, in which `--model OWNER/NAME` looks; a file goes into a folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sdcli import models
from sdcli.errors import ModelError, ModelNotFound, OutputError, UsageError
from sdcli.inventory import download, known
from sdcli.inventory.download import Note, Progress, Remote
from sdcli.jobs import from_home
from sdcli.models import hashes
from sdcli.models.model import ModelRequest, ModelSource
from sdcli.models.sources import hub
from sdcli.models.sources.folder import INDEX
from sdcli.settings import Settings
from sdcli.suggestions import did_you_mean, near
from sdcli.terminal import in_bytes

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_OF_HUB = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+)")
"""The path of a file's address on the hub."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BESIDE = ("README.md", "LICENSE*")
"""Files of a repository that come with the weights: they name the licence."""


@dataclass(frozen=True)
class Wish:
    """What the user asks for.

    Attributes:
        name: a known name, a hub id, OWNER/NAME/FILE of the hub, or an address.
        revision: branch, tag or commit, on the hub.
        into: the folder for a file; by default one of the settings.
        save_as: the name of the file; by default its own.
        sha256: the hash that the file must have; empty if any.
        allow_pickle: whether other formats than safetensors are wanted, too.
    """

    name: str
    revision: str = ""
    into: str = ""
    save_as: str = ""
    sha256: str = ""
    allow_pickle: bool = False


@dataclass(frozen=True)
class Offer:
    """What would be downloaded.

    Attributes:
        title: what it is.
        origin: where it comes from.
        target: where it goes.
        size: its bytes; None if that is not known.
        license: its licence; empty if it is not known.
        revision: its commit, if it is on the hub.
        here: whether it is on this machine already.
    """

    title: str
    origin: str
    target: str
    size: int | None = None
    license: str = ""
    revision: str = ""
    here: bool = False

    def take(self, progress: Progress, note: Note) -> Path:
        """Download it. Returns its file or folder.

        Raises:
            ModelError: the download failed, or is not what it should be.
            OutputError: it cannot be written.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FileOffer(Offer):
    """A file that goes into a folder."""

    remote: Remote | None = None
    folder: Path = Path()

    def take(self, progress: Progress, note: Note) -> Path:
        assert self.remote is not None
        target = self.folder / self.remote.name
        return target if self.here else download.fetch(self.remote, self.folder, progress, note)


@dataclass(frozen=True)
class HubOffer(Offer):
    """A repository that goes into the hub's cache."""

    request: ModelRequest | None = None
    source: ModelSource | None = None
    hashes: Mapping[str, str] | None = None
    """SHA-256 by the names of files."""

    def take(self, progress: Progress, note: Note) -> Path:
        assert self.request is not None
        assert self.source is not None
        folder = hub.fetch(self.request, _BESIDE, False, self.revision)
        self.source.hash()
        for name, wanted in (self.hashes or {}).items():
            path = folder / name
            if path.is_file() and (found := hashes.of_file(path)) != wanted:
                raise ModelError(
                    f"{path} is another file than the hub has",
                    why=f"Its SHA-256 is {found}, and it should be {wanted}.",
                    fix=f"Delete {path.resolve()}, and download it again.",
                )
        return folder


def find(wish: Wish, settings: Settings) -> Offer:
    """What a wish stands for. Sizes and licences come from the server; nothing is written but small configurations.

    Raises:
        UsageError: the wish is not valid.
        ModelNotFound: there is no such thing, this run is offline, or the server cannot be reached.
        ModelError: the server refuses, or sdcli cannot use the model.
    """
    from huggingface_hub import constants

    if wish.sha256 and not _SHA256.fullmatch(wish.sha256):
        raise UsageError(f"--sha256 {wish.sha256} is no hash", fix="Pass 64 hexadecimal digits.")
    entry = known.by_name().get(wish.name)
    if entry is None and os.path.exists(from_home(wish.name)):  # noqa: PTH110
        raise UsageError(f"{wish.name} is on this machine", fix=f"sdcli models info {wish.name} shows what it is.")
    is_url = wish.name.lower().startswith(("http://", "https://"))
    if entry is None and not is_url and not models.is_hub_id(wish.name):
        raise ModelNotFound(
            f"there is no model {wish.name} to download",
            why=did_you_mean(near(wish.name, known.by_name())),
            fix="Pass an address, the id of a model on the Hugging Face hub such as OWNER/NAME, or one of these names: "
            f"{', '.join(known.by_name())}.",
        )
    if settings.offline or constants.is_offline_mode():
        why = "--offline" if settings.offline else "HF_HUB_OFFLINE"
        raise ModelNotFound(
            f"{wish.name} is not downloaded", why=f"This run is offline: {why} is set.", fix="Run it without."
        )
    if entry is not None:
        folder = settings.models_folder if entry.kind == "model" else settings.adapters
        wish = replace(wish, into=wish.into or folder, sha256=wish.sha256 or entry.sha256)
        wish = replace(wish, save_as=wish.save_as or entry.save_as, name=f"{entry.hub}/{entry.file}".rstrip("/"))
        return replace(_find(wish, is_url=False), title=entry.title, license=entry.license)
    return _find(replace(wish, into=wish.into or settings.models_folder), is_url=is_url)


def _find(wish: Wish, *, is_url: bool) -> Offer:
    from huggingface_hub import constants

    if is_url:
        parts = urlsplit(wish.name)
        of_hub = _OF_HUB.fullmatch(parts.path) if parts.netloc == urlsplit(constants.ENDPOINT).netloc else None
        if of_hub is None:
            return _file(wish, Remote(wish.name, wish.save_as, sha256=wish.sha256))
        repository, revision, file = map(unquote, of_hub.groups())
        return _hub_file(wish, repository, file, wish.revision or revision)
    place, _, revision = wish.name.partition("@")
    owner, name, *file_parts = place.split("/")
    revision = wish.revision or revision
    if file_parts:
        return _hub_file(wish, f"{owner}/{name}", "/".join(file_parts), revision)
    if wish.save_as or wish.sha256:
        raise UsageError(
            f"{wish.name} is a model of several files, which have their own names and hashes in the cache of the hub",
            fix="Leave out --name and --sha256, or name a file: OWNER/NAME/FILE.",
        )
    return _repository(ModelRequest(model=place, revision=revision or None))


def _file(wish: Wish, remote: Remote, revision: str = "") -> FileOffer:
    """The offer of a file."""
    remote = download.look(remote)
    if wish.sha256:
        remote = replace(remote, sha256=wish.sha256)
    download.require_name(remote.name, allow_pickle=wish.allow_pickle)
    folder = Path(from_home(wish.into))
    target = folder / remote.name
    here = bool(remote.sha256) and target.is_file() and hashes.of_file(target) == remote.sha256
    return FileOffer(
        remote.name, remote.shown, str(target), remote.size, revision=revision, here=here, remote=remote, folder=folder
    )


def _hub_file(wish: Wish, repository: str, file: str, revision: str) -> FileOffer:
    """The offer of one file of a repository of the hub, at the commit that the revision stands for now.

    Raises:
        ModelNotFound: there is no such file, or it needs permission.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, get_token, hf_hub_url

    if no_response := hub.unreachable():
        raise ModelNotFound(
            f"the hub cannot be reached for {repository}", why=no_response, fix="Check the network, and try again."
        )
    try:
        url = hf_hub_url(repository, file, revision=revision or None, endpoint=constants.ENDPOINT)
        found = get_hf_file_metadata(url)
    except errors.GatedRepoError as error:
        raise hub.gated(repository) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"the model {repository} has no revision {revision}", fix="Pass another one.") from error
    except errors.EntryNotFoundError as error:
        raise ModelNotFound(
            f"the model {repository} has no file {file}{f' at {revision}' if revision else ''}", fix="Check the name."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the model {repository} does not exist on the hub",
            fix="Check the name. If the model is private, log in with `hf auth login` or set HF_TOKEN.",
        ) from error
    except Exception as error:  # the network fails, or the id is not valid
        raise ModelError(f"{repository}/{file} cannot be downloaded", why=str(error).split("\n", 1)[0]) from error
    commit = found.commit_hash or ""
    pinned = hf_hub_url(repository, file, revision=commit or revision or None, endpoint=constants.ENDPOINT)
    sha256 = found.etag if found.etag and _SHA256.fullmatch(found.etag) else ""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    name = wish.save_as or file.rpartition("/")[2]
    download.require_name(name, allow_pickle=wish.allow_pickle)
    remote = Remote(pinned, name, found.size, sha256, headers={"Authorization": f"Bearer {token}"} if token else {})
    return replace(_file(wish, remote, commit), license=_license(repository, commit))


def _repository(request: ModelRequest) -> HubOffer:
    """The offer of a model in diffusers' layout on the hub, at the commit that the revision stands for now."""
    name = str(request.model)
    try:
        source = models.find(request)
    except ModelError as error:
        if INDEX in error.what:
            raise ModelNotFound(error.what, why=error.why, fix=f"Name the file that you want: {name}/FILE.") from error
        raise
    if not isinstance(source, hub.HubModel):
        raise UsageError(f"{name} is a folder on this machine", fix="It needs no download.")
    if source.offline:
        raise ModelNotFound(f"the hub cannot be reached for {name}", fix="Check the network, and try again.")
    commit = source.folder.path.name
    info = _info(name, commit)
    sizes = {each.rfilename: each.size or 0 for each in (info.siblings if info else None) or []}
    wanted = [file for part in source.folder.parts.values() for file in part.files]
    missing = [file for file in wanted if not (source.folder.path / file).is_file()]
    size = sum(sizes.get(file, 0) for file in missing)
    _require_room(source.folder.path, size)
    return HubOffer(
        name,
        f"{name}@{commit}",
        str(source.folder.path),
        size if size or not missing else None,
        _license_of(info),
        commit,
        source.here(),
        request=replace(request, revision=commit),
        source=source,
        hashes={
            each.rfilename: each.lfs.sha256
            for each in (info.siblings if info else None) or []
            if each.lfs and each.rfilename in wanted
        },
    )


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free - download.ROOM:
        raise OutputError(
            f"there is no room in the cache of the hub, {folder}",
            why=f"{in_bytes(needed)} are missing, and {in_bytes(free)} are free.",
            fix="Free some space, or set HF_HOME to another folder.",
        )


def _info(repository: str, revision: str) -> ModelInfo | None:
    """What the hub says of a repository: sizes, hashes, licence; None if it does not say them."""
    from huggingface_hub import HfApi, constants

    try:
        return HfApi(endpoint=constants.ENDPOINT).model_info(repository, revision=revision, files_metadata=True)
    except Exception:  # they are shown, not needed
        return None


def _license(repository: str, revision: str) -> str:
    return _license_of(_info(repository, revision))


def _license_of(info: ModelInfo | None) -> str:
    card: Any = info.card_data if info else None
    name = str(card.get("license") or "") if card else ""
    return str(card.get("license_name") or name) if name == "other" else name
