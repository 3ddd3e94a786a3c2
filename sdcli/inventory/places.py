"""The models and adapters on this machine: where they are looked for. Only headers are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sdcli.errors import ModelError
from sdcli.inventory import description
from sdcli.inventory.description import SETTING_OF, Description
from sdcli.jobs import from_home
from sdcli.models import adapters, shipped
from sdcli.models.sources.folder import INDEX
from sdcli.settings import Settings

_MOST_FILES, _LARGEST = 20, 2_000_000_000
"""Files of a repository of the hub that may be adapters, and their bytes: those of language models are neither."""


def each(settings: Settings) -> Iterator[Description]:
    """The builtin models, those in the folders of models and of adapters, and those in the hub's cache.

    What cannot be read is in the list, too, with its problem.
    """
    for name in shipped.NAMES:
        with suppress(ModelError):
            yield description.of_builtin(name)
    seen: set[str] = set()
    for folder in (settings.models_folder, settings.adapters):
        for path in in_folder(Path(from_home(folder))):
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                yield _described(path, path.relative_to(from_home(folder)).as_posix())
    yield from in_cache()


def in_folder(folder: Path) -> Iterator[Path]:
    """Folders of diffusers' layout and files of weights, in a folder and in those below it; outer ones first."""

    def is_model(path: Path) -> bool:
        return (path / INDEX).is_file()

    for entry in adapters.entries_below(folder, lambda path: not is_model(path)):
        path = Path(entry)
        if entry.is_dir():
            if is_model(path):
                yield path
        elif entry.name.lower().endswith(adapters.SUFFIXES) and (entry.is_file() or entry.is_symlink()):
            yield path


def _described(path: Path, name: str) -> Description:
    try:
        return description.of_path(path, name=name)
    except (ModelError, OSError) as error:
        return description.failed(name, path, error)


def in_cache() -> Iterator[Description]:
    """The models and adapters in the cache of the Hugging Face hub, each with its commit."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError, OSError):  # there is none
        return
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        revisions = sorted(repository.revisions, key=lambda each: (not each.refs, each.commit_hash))
        for revision in revisions if repository.repo_type == "model" else ():
            folder = revision.snapshot_path
            if (folder / INDEX).is_file():
                yield _snapshot(repository.repo_id, folder)
                continue
            files = sorted(file.file_path for file in revision.files if file.size_on_disk <= _LARGEST)
            names = [path for path in files if path.parent == folder and path.name.endswith(adapters.SUFFIXES)]
            for path in names[:_MOST_FILES]:
                name = f"{repository.repo_id}/{path.name}"
                found = _described(path, name)
                if found.kind in SETTING_OF:
                    yield replace(found, value=f"{name}@{folder.name}", revision=folder.name)


def _snapshot(name: str, folder: Path) -> Description:
    try:
        return description.of_snapshot(name, folder)
    except (ModelError, OSError) as error:
        return description.failed(name, folder, error)


def base_of(adapter: Description, settings: Settings) -> str:
    """The flag of a model on this machine that an adapter fits; empty if there is none, or it is no adapter."""
    if adapter.kind not in SETTING_OF:
        return ""
    for found in each(settings):
        if found.spec is not None and found.layout != "builtin" and adapter.fits(found.spec):
            return found.arguments
    return ""
