"""Files that change a model: finding them, and checking that they fit it before it loads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdcli.errors import ModelError, ModelNotFound
from sdcli.jobs import Job, at_home, from_home
from sdcli.models import hashes
from sdcli.models.adapters.embedding import EmbeddingFile, Words
from sdcli.models.adapters.lora import LoraFile, Use
from sdcli.models.adapters.vae import VaeSource
from sdcli.models.model import ModelRequest
from sdcli.prompts import syntax
from sdcli.settings import flag, names, path_and_tail
from sdcli.suggestions import did_you_mean, near

SETTINGS = names("image", path="adapter")
"""The settings of an image that name files."""
SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")
_COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIGS = ("config.json", "adapter_config.json")
"""Files that say how others are to be read."""
_SHOWN = 5
_MOST = 20_000
"""Files in a folder of adapters that are looked at."""
_FIRST = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors",
          "diffusion_pytorch_model.safetensors")  # fmt: skip
"""The files of a repository of the hub that are taken before others."""


@dataclass(frozen=True)
class Adapter:
    """A file on this machine.

    Attributes:
        path: the file.
        name: what records call it: its path, with `~` for the home folder, or OWNER/NAME/FILE@COMMIT on the hub.
        setting: the setting that names it.
    """

    path: Path
    name: str
    setting: str

    @property
    def hash(self) -> str:
        """SHA-256 of the file; with a configuration beside it that decides the image, too, of the hashes of both."""
        kinds: dict[str, Any] = {"lora": LoraFile, "vae": VaeSource}
        config = kinds[self.setting].configuration(self.path) if self.setting in kinds else None
        if config is None:
            return hashes.of_file(self.path)
        return hashes.of_files({"weights": self.path, "configuration": config})

    @property
    def hash_of_tensors(self) -> str:
        """See `hashes.of_tensors`."""
        return hashes.of_tensors(self.path)


def find(name: str, folder: str | Path) -> Path:
    """The file of an adapter in a folder or in the folders below, by its name with or without suffix.

    Args:
        name: such as `style`, `style.safetensors` or `people/style`. Capital and small letters are the same.
        folder: the folder of adapters.

    Raises:
        ModelNotFound: there is no such file.
    """
    root = Path(from_home(folder))
    if file := named(name, root):
        return file
    raise ModelNotFound(
        f"there is no adapter {name} in {folder}",
        why=_why_none(name, [file.stem for file in files_below(root)], root),
        fix="Pass the folder with --adapters, or the path of the file.",
    )


def named(name: str, folder: Path) -> Path | None:
    """The file of this name, with or without suffix, in a folder or in the folders below; None if there is none."""
    return next((file for file in files_below(folder) if is_name_of(name, file.relative_to(folder).as_posix())), None)


def is_name_of(name: str, path: str) -> bool:
    """Whether a file can be named so: by the end of its path, with suffix or without, in capital or small letters."""
    whole, wanted = path.partition("@")[0].casefold(), name.casefold()
    ends = (whole, whole.removesuffix(Path(whole).suffix))
    return any(end == wanted or end.endswith(f"/{wanted}") for end in ends)


def _why_none(name: str, known: Sequence[str], folder: Path) -> str:
    file, colon, weight = name.rpartition(":")
    if colon and file.lower().endswith(SUFFIXES):
        return f"The weight {weight!r} is not a number."
    by_small_letters = {each.casefold(): each for each in known}
    if meant := did_you_mean(by_small_letters[each] for each in near(name.casefold(), by_small_letters)):
        return meant
    if not folder.is_dir():
        return "There is no such folder."
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    return f"It has {shown}." if known else "It has no adapters."


def files_below(folder: Path) -> Iterator[Path]:
    """The files of weights in a folder, those of outer folders first."""
    return (Path(entry) for entry in entries_below(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file())


def entries_below(folder: Path, enters: Callable[[Path], bool] = lambda path: True) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder and of those below it, outer ones first. Hidden folders and links are not entered.

    Args:
        folder: need not exist.
        enters: whether a folder is entered.
    """
    below, left = [folder], _MOST
    while below and left > 0:
        try:
            entries = sorted(os.scandir(below.pop(0)), key=lambda entry: entry.name)
        except OSError:
            continue
        left -= len(entries)
        yield from entries
        folders = (entry for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".")
        below += [path for path in map(Path, folders) if enters(path)]


def locate(setting: str, given: str, folder: str, *, offline: bool) -> Adapter:
    """The file that a value names: a path, a name in the folder of adapters, or a file on the hub, downloaded.

    Args:
        setting: the name of the setting, for errors.
        given: the value, without what follows the path.
        folder: the folder of adapters.
        offline: open no connection.

    Raises:
        ModelNotFound: there is no such file.
        ModelError: it is not a regular file, or the download failed.
    """
    path = Path(from_home(given))
    if os.path.isfile(path):  # noqa: PTH113 - also for names that are too long
        return Adapter(path, at_home(given), setting)
    if setting == "vae" and os.path.isdir(path):  # noqa: PTH112
        inner = _weights_in(path)
        return Adapter(inner, at_home(str(Path(given) / inner.relative_to(path))), setting)
    if os.path.lexists(path):
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ModelError(f"{flag(setting)} {given} is {kind}", fix="Pass the path of a file.")
    if "/" not in given:
        path = find(given, folder)
        return Adapter(path, at_home(str(path)), setting)
    if not is_hub_file(given):
        raise ModelNotFound(
            f"{flag(setting)} {given} does not exist", fix="Check the path, or pass the name of a file in --adapters."
        )
    path, name = _of_hub(given, offline=offline)
    return Adapter(path, name, setting)


def _weights_in(folder: Path) -> Path:
    """The weights of the VAE in a folder of diffusers: that of a VAE, or of a whole model.

    Raises:
        ModelNotFound: it has none.
    """
    names = (f"{part}diffusion_pytorch_model{suffix}" for part in ("", "vae/") for suffix in (".safetensors", ".bin"))
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ModelNotFound(f"{flag('vae')} {folder} contains no VAE", fix="Pass a diffusers folder or a file.")
    return found


def paths(setting: str, value: str | Sequence[str]) -> list[str]:
    """The paths in the value of a setting, each once."""
    each = [value] if isinstance(value, str) else value
    return list(dict.fromkeys(path_and_tail(setting, one)[0] for one in each if one))


def of_job(setting: str, value: str) -> Path:
    """The file that a job's value names. It is on this machine, since the job has its hash.

    Raises:
        ModelNotFound: it is gone.
    """
    return locate(setting, path_and_tail(setting, value)[0], "", offline=True).path


def is_hub_file(given: str) -> bool:
    """Whether a value is OWNER/NAME, OWNER/NAME/FILE or one of them with @REVISION, and not a path on this machine."""
    parts = given.partition("@")[0].split("/")
    local = given.startswith(("/", "~", ".")) or os.path.isdir(parts[0])  # noqa: PTH112
    return len(parts) > 1 and all(parts) and not local and not (len(parts) == 2 and parts[1].endswith(SUFFIXES))


def _of_hub(given: str, *, offline: bool) -> tuple[Path, str]:
    """The file, and its name in records."""
    from huggingface_hub import constants

    from sdcli.models.sources import hub

    place, _, revision = given.partition("@")
    owner, name, *inner = place.split("/")
    file = "/".join(inner)
    request = ModelRequest(model=f"{owner}/{name}", revision=revision or None, offline=offline)
    offline = offline or constants.is_offline_mode()
    if _COMMIT.fullmatch(revision) and not offline:
        # A commit never changes, so what is in the cache needs no connection.
        with suppress(ModelNotFound):
            return _downloaded(request, file, offline=True)
    if not offline and (no_response := hub.unreachable()):
        offline = True
        try:
            return _downloaded(request, file, offline=True)
        except ModelNotFound as error:
            raise ModelNotFound(
                f"{given} is not in the cache, and the hub cannot be reached",
                why=no_response,
                fix="Check the network, or pass the path of a file.",
            ) from error
    return _downloaded(request, file, offline=offline)


def _downloaded(request: ModelRequest, file: str, *, offline: bool) -> tuple[Path, str]:
    from sdcli.models.sources import hub

    # The commit and the list of files come with any file.
    folder = hub.fetch(request, [file or "README.md", *CONFIGS], offline, request.revision)
    if not file:
        file = _only([name for name in hub.files(request, folder, offline) if name.endswith(SUFFIXES)], request)
        folder = hub.fetch(request, [file, *CONFIGS], offline, folder.name)
    path = folder / file
    if not path.is_file():
        raise ModelNotFound(f"{request.model} has no file {file}", fix="Check the name.")
    return path, f"{request.model}/{file}@{folder.name}"


def _only(files: Sequence[str], request: ModelRequest) -> str:
    """The file of a repository that has one, or one with a usual name."""
    safe = [file for file in files if file.endswith(".safetensors")] or list(files)
    usual = [file for file in _FIRST if file in safe]
    if usual or len(safe) == 1:
        return (usual or safe)[0]
    raise ModelNotFound(
        f"{request.model} has {len(safe)} files of adapters",
        why=f"{', '.join(safe[:5])}{', ...' if len(safe) > 5 else ''}." if safe else "",
        fix=f"Name one: {request.model}/FILE.",
    )


@cache
def _read(kind: Any, path: Path, _changed: int, *arguments: str) -> Any:
    try:
        return kind.read(path, *arguments)
    except ModelError as error:  # of the reader of checkpoints
        error.what = error.what.replace("a checkpoint", "an adapter").replace("the checkpoint", "the adapter")
        error.fix = error.fix.replace("the model as .ckpt or .safetensors", "it as .safetensors")
        raise


def lora(path: Path) -> LoraFile:
    """The table of contents of a LoRA, which is read once. Raises the errors of `LoraFile.read`."""
    found: LoraFile = _read(LoraFile, path, path.stat().st_mtime_ns)
    return found


def embedding(path: Path, word: str = "") -> EmbeddingFile:
    """The table of contents of an embedding, which is read once. Raises the errors of `EmbeddingFile.read`."""
    found: EmbeddingFile = _read(EmbeddingFile, path, path.stat().st_mtime_ns, word)
    return found


def embeddings(value: Sequence[str]) -> list[str]:
    """The values of --embedding, with the files of each folder in its place.

    Raises:
        ModelNotFound: a folder has none.
    """
    found = []
    for each in value:
        path, _ = path_and_tail("embedding", each)
        if not os.path.isdir(from_home(path)):  # noqa: PTH112
            found.append(each)
            continue
        files = [at_home(str(file)) for file in files_below(Path(from_home(path)))]
        if not files:
            raise ModelNotFound(
                f"{flag('embedding')} {path} has no embeddings",
                why=f"It is a folder without files in {', '.join(SUFFIXES)}.",
                fix="Pass another folder, or a file.",
            )
        found += files
    return list(dict.fromkeys(found))


def vae(path: Path) -> VaeSource:
    """What is known of a VAE, which is read once. Raises the errors of `VaeSource.read`."""
    found: VaeSource = _read(VaeSource, path, path.stat().st_mtime_ns)
    return found


def word(value: str) -> str:
    """The word in a value of --embedding; empty if it has none."""
    return path_and_tail("embedding", value)[1].removeprefix("=")


def words(values: Sequence[str]) -> Words:
    """The words of the embeddings that jobs name.

    Raises:
        ModelNotFound, ModelError: a file is gone, or is another one now.
    """
    return Words([embedding(of_job("embedding", value), word(value)) for value in values])


def weights(value: str) -> tuple[float, float]:
    """The weights in a value of --lora: for the UNet, and for the text encoder, which by default is the same."""
    numbers = [float(each) for each in path_and_tail("lora", value)[1].split(":")[1:]]
    unet = numbers[0] if numbers else 1.0
    return unet, numbers[1] if len(numbers) > 1 else unet


def with_named(given: Sequence[str], named: Sequence[syntax.Adapter], find: Callable[[str], Path]) -> tuple[str, ...]:
    """The values of --lora, and those for the LoRAs that a prompt names.

    A LoRA that --lora names counts once, with the weights there. So the settings of a record, which has all of them,
    lead to the same image.

    Args:
        given: the values of --lora.
        named: the LoRAs of the prompt.
        find: the file of a name, as `find` returns it.
    """
    known = paths("lora", given)
    added = [
        f"{find(each.name)}:{_plain(each.weight)}:{_plain(each.text_weight)}"
        for each in named
        if not any(is_name_of(each.name, path) for path in known)
    ]
    return (*given, *added)


def _plain(number: float) -> str:
    """A number without exponent, as --lora takes it."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def uses(job: Job) -> list[Use]:
    """The LoRAs of a job.

    Raises:
        ModelNotFound, ModelError: a file is gone, or is another one now.
    """
    return [Use(lora(of_job("lora", value)), *weights(value)) for value in job.lora]
