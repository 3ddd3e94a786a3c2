"""A lock file: which files of models a project uses, with their sizes and hashes, so that others can check theirs.

It is JSON. Paths are relative to its own folder, or start from the home folder or the root; those of a model of the
Hugging Face hub are relative to its folder in the cache, and stand beside the model's id and commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdcli.errors import InputFileError, ModelError, OutputError, UsageError
from sdcli.inventory import description, places
from sdcli.jobs import at_home, from_home
from sdcli.models import json_files
from sdcli.models.adapters import CONFIGS
from sdcli.models.sources.folder import files_in
from sdcli.outputs.files import make_folders, sync, write_new, written_aside
from sdcli.settings import Settings

NAME = "models.lock.json"
"""The file that is meant if none is named."""

State = Literal["ok", "changed", "missing"]


class LockedFile(BaseModel):
    """One file of a model or an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    model: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """The id of a model of the hub."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Its commit."""

    def place(self, folder: Path) -> Path:
        """Where the file is.

        Args:
            folder: that of the lock file.
        """
        if self.model is None:
            return folder / from_home(self.path)
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.model, repo_type="model")
        return cache / "snapshots" / str(self.revision) / self.path


class Lock(BaseModel):
    """The content of a lock file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1] = Field(default=1, alias="schema")
    files: tuple[LockedFile, ...]


@dataclass(frozen=True)
class Checked:
    """A file of a lock file, and what became of it.

    Attributes:
        file: as it was.
        state: whether it is the same now.
        why: in which way it is not.
    """

    file: LockedFile
    state: State
    why: str = ""


def files_of(names: Sequence[str], settings: Settings, folder: Path) -> Iterator[LockedFile]:
    """The files of models and adapters, hashed.

    Args:
        names: as flags call them; none stands for all in the folders of models and of adapters.
        settings: these folders.
        folder: that of the lock file.

    Raises:
        ModelError: one of them does not exist or cannot be read.
        UsageError: one of them is builtin.
    """
    seen: set[str] = set()
    for path, model in _paths(names, settings):
        try:
            folder_of = path if path.is_dir() else path.parent
            beside = [name for name in CONFIGS if (folder_of / name).is_file()]
            for name in sorted(files_in(path)) if path.is_dir() else [path.name, *beside]:
                file = folder_of / name
                if (real := os.path.abspath(file)) in seen:  # noqa: PTH100 - links stay as they are
                    continue
                seen.add(real)
                size, sha256 = _content(file)
                if model is None:
                    yield LockedFile(path=_shown(file, folder), bytes=size, sha256=sha256)
                else:
                    yield LockedFile(path=name, bytes=size, sha256=sha256, model=model, revision=path.name)
        except OSError as error:
            raise ModelError(f"{error.filename or path} cannot be read", why=f"{error.strerror}.") from error


def _paths(names: Sequence[str], settings: Settings) -> Iterator[tuple[Path, str | None]]:
    """The file or folder of each, and its hub id if it is in the cache of the hub."""
    if not names:
        for folder in (settings.models_folder, settings.adapters):
            for path in places.in_folder(Path(from_home(folder))):
                yield path, None
    for name in names:
        found = description.of_name(name, settings)
        if found.layout == "builtin":
            raise UsageError(f"the model {name} is part of sdcli", fix="Pin the version of sdcli instead.")
        whole = found.revision and found.path.is_dir()
        yield found.path, found.value.partition("@")[0] if whole else None


def _shown(file: Path, folder: Path) -> str:
    """The path of a file: relative if it is below the folder of the lock file."""
    absolute, root = os.path.abspath(file), os.path.abspath(folder)  # noqa: PTH100
    inside = os.path.commonpath([absolute, root]) == root
    return os.path.relpath(absolute, root) if inside else at_home(absolute)


def _content(file: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file, which is read.

    Raises:
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe would block, and a device may never end
        raise OSError(0, "It is not a regular file", str(file))
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return opened.tell(), digest


def require_new(path: Path, *, update: bool) -> None:
    """Raise `OutputError` if a lock file exists that is not to be replaced."""
    if os.path.lexists(path) and not update:
        raise OutputError(f"{path} already exists", fix="Pass --update to replace it, or another path.")


def write(files: Iterable[LockedFile], path: Path, *, update: bool) -> Lock:
    """Write a lock file.

    Args:
        files: its content.
        path: the file.
        update: replace it if it exists.

    Raises:
        OutputError: it exists already, or cannot be written.
    """
    require_new(path, update=update)
    lock = Lock(files=tuple(files))
    text = json.dumps(lock.model_dump(by_alias=True, exclude_none=True), indent=2, ensure_ascii=False) + "\n"
    try:
        make_folders(path.absolute().parent)
        if not update:
            write_new(path, text.encode())
            return lock
        with written_aside(text.encode(), path.absolute().parent) as aside:
            aside.replace(path)
        sync(path.absolute().parent)
    except FileExistsError as error:
        raise OutputError(f"{path} already exists", fix="Pass --update to replace it, or another path.") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}", why=f"{error.strerror}.", fix="Pass another path.") from error
    return lock


def read(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        InputFileError: it does not exist, or is no lock file.
    """
    try:
        return Lock.model_validate(json_files.read(path, most=100_000_000))
    except ModelError as error:
        what = f"there is no lock file {path}" if not path.exists() else error.what
        raise InputFileError(what, why=error.why, fix="sdcli models lock writes one.") from error
    except ValidationError as error:
        raise InputFileError(
            f"{path} is no lock file of models",
            why=json_files.invalid_fields(error),
            fix="sdcli models lock writes one.",
        ) from error


def check(lock: Lock, folder: Path) -> Iterator[Checked]:
    """Read each file of a lock file and compare it.

    Args:
        lock: the content of the file.
        folder: its folder.
    """
    for file in lock.files:
        path = file.place(folder)
        try:
            if path.is_file() and (size := path.stat().st_size) != file.bytes:
                yield Checked(file, "changed", f"{size:,} bytes instead of {file.bytes:,}")
                continue
            _, sha256 = _content(path)
            same = sha256 == file.sha256
            yield Checked(file, "ok") if same else Checked(file, "changed", f"its SHA-256 is {sha256}")
        except (FileNotFoundError, NotADirectoryError):
            yield Checked(file, "missing")
        except (OSError, ValueError) as error:
            yield Checked(file, "changed", f"{getattr(error, 'strerror', None) or error}")
