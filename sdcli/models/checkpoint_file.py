"""One file of weights: what it is, the names in it, and its tensors, read without running anything that it holds.

A checkpoint is `.safetensors`, or a pickle in one of PyTorch's two containers: a zip archive, or (before PyTorch 1.6)
a row of pickles. What a file is, is decided by its bytes, not by its name. All but `read_tensors` works without torch.
"""

from __future__ import annotations

import _compat_pickle
import json
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdcli.errors import ModelError, ModelNotFound

if TYPE_CHECKING:
    import torch

Container = Literal["zip", "legacy", "safetensors"]
Shapes = Mapping[str, tuple[int, ...] | None]
"""The names in a checkpoint and, where they can be told without torch, the shapes of its tensors."""

# What torch.save writes first in the container without a zip archive.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_SAFETENSORS_HEADER = MAX_PICKLE = 100_000_000

DOWNLOAD_AGAIN = "Download it again, and compare its size with the one where it came from."


class Inert:
    """Stands for each object of a class that no checkpoint has need of: takes any arguments and state, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def container(path: Path) -> Container:
    """What kind of file `path` is, by its first bytes.

    Raises:
        ModelNotFound: there is no such file.
        ModelError: it cannot be read, or is no checkpoint; says what it is instead.
    """
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder, not a checkpoint",
            fix="Give the file in it, or the folder itself with --model if it is a diffusers model.",
        )
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file", fix="Give the checkpoint's file.")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        size = path.stat().st_size
    except FileNotFoundError:
        raise ModelNotFound(f"there is no checkpoint {path}", fix="Check the path given with --ckpt.") from None
    except OSError as error:
        raise ModelError(
            f"the checkpoint {path} cannot be read",
            why=f"{error.strerror or error}.",
            fix="Check the file's permissions and its disk.",
        ) from error
    # First, as the eight bytes before the brace are a length and may look like anything.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "legacy"
    raise ModelError(f"{path} is not a checkpoint", why=_what_it_is(head, size), fix=DOWNLOAD_AGAIN)


def _what_it_is(head: bytes, size: int) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return "The file is empty."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "It is a web page: the download was of the page, not of the file."
    if text.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer, which stands for the file; `git lfs pull` in its repository fetches the file."
    if text.startswith((b"{", b"[")):
        return "It is JSON: perhaps a server's answer that the download failed."
    if not any(head):
        return "It is filled with zeros: the download did not end."
    if size < 1024:
        return f"It is {size} bytes of something else."
    return "It is neither a PyTorch file (.ckpt) nor a .safetensors file."


def shapes(path: Path) -> Shapes:
    """The names in a checkpoint, and the shapes where they can be told without torch (safetensors).

    For a pickle these are all strings in it: the tensors' names and some more.

    Raises:
        ModelError: the file is cut short, damaged, or not a checkpoint after all.
    """
    kind = container(path)
    try:
        if kind == "safetensors":
            return _safetensors_shapes(path)
        return {arg: None for name, arg in _operations(path, kind) if name.endswith(("UNICODE", "UNICODE8", "STRING"))}
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged file can bring about in json, zipfile and pickletools
        raise _damaged(path, error) from error


def size(path: Path) -> int:
    """Bytes that the weights in a file take in float32: reckoned from their shapes, or else the file's own size.

    Raises:
        ModelError: as `shapes`.
    """
    if container(path) != "safetensors":
        return path.stat().st_size
    return sum(4 * math.prod(shape) for shape in _safetensors_shapes(path).values() if shape is not None)


def _damaged(path: Path, error: Exception) -> ModelError:
    why = "Its end is missing" if isinstance(error, zipfile.BadZipFile) else _first_sentence(error)
    return ModelError(f"the checkpoint {path} is cut short or damaged", why=f"{why}.", fix=DOWNLOAD_AGAIN)


def _first_sentence(error: Exception) -> str:
    message = str(error).strip() or type(error).__name__
    return message.split("\n", 1)[0].split(". ", 1)[0].rstrip(".")


def _safetensors_shapes(path: Path) -> Shapes:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < end:
        raise ValueError(f"It has {size:,} bytes of {end:,}")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _operations(path: Path, kind: Container) -> Iterator[tuple[str, Any]]:
    """The operations of the pickle in a checkpoint, (name, argument), taken apart but not run."""
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            records = [name for name in names if name.endswith("/data.pkl")]
            if len(records) != 1 or any(name.endswith("/constants.pkl") for name in names):
                raise ModelError(
                    f"{path} is not a checkpoint",
                    why="It is a zip archive, but not one with the weights of a model as torch.save writes them.",
                    fix="If it is an archive of a model's files, unpack it and give the file inside.",
                )
            if archive.getinfo(records[0]).file_size > MAX_PICKLE:
                raise ValueError("Its table of contents is too large to be one")
            data = archive.read(records[0])
        yield from ((operation.name, arg) for operation, arg, _ in pickletools.genops(data))
        return
    with path.open("rb") as file:
        if LEGACY_MAGIC not in [arg for _, arg, _ in pickletools.genops(file)]:
            raise ModelError(
                f"{path} is not a checkpoint",
                why="It is a Python pickle, but not one that torch.save wrote.",
                fix="Get the model as .ckpt or .safetensors.",
            )
        for _ in range(3):  # the version of the layout, sizes of C's integers, the saved object
            yield from ((operation.name, arg) for operation, arg, _ in pickletools.genops(file))


def _globals(path: Path, kind: Container) -> set[str]:
    """The full names of all functions and classes that the pickle names, as Python 3 calls them."""
    found = set()
    for operation, arg in _operations(path, kind):
        if operation == "PROTO" and arg > 2:
            raise ModelError(
                f"the checkpoint {path} is pickled with protocol {arg}",
                why="PyTorch reads protocol 2, its own, without running what is in the file, and no other.",
                fix="Get the model as .safetensors, or saved by torch.save as it does by default.",
            )
        if operation == "GLOBAL":
            module, _, name = arg.partition(" ")
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            found.add(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}")
    return found


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, mapped from the file where that can be, else read.

    Nothing in the file is ever run. PyTorch's own restricted unpickler reads it, which makes tensors and plain
    containers only; each other class that the file names is taken to be `Inert`.

    Raises:
        ModelError: the file is damaged, holds no tensors, or asks for more than a checkpoint may.
        MemoryError: it does not fit into memory.
    """
    kind = container(path)
    try:
        tensors = _read_safetensors(path) if kind == "safetensors" else _read_pickle(path, kind)
    except (ModelError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the checkpoint {path} was not loaded",
            why=f"It asks for more than tensors: {_asked_for(error)}. It may hold a program meant to harm.",
            fix="Get the model as .safetensors, which cannot hold programs.",
        ) from error
    except Exception as error:  # whatever a damaged file can bring about in torch
        if "memory" in str(error):
            raise MemoryError(str(error)) from error
        raise _damaged(path, error) from error
    if not tensors:
        raise ModelError(f"the checkpoint {path} holds no tensors", fix=DOWNLOAD_AGAIN)
    return tensors


def _asked_for(error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+|Can only .*?)(?:\n|$)", str(error))
    return (found[1] or found[2]) if found else "something unknown"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _read_pickle(path: Path, kind: Container) -> dict[str, torch.Tensor]:
    import torch
    from torch.serialization import safe_globals

    inert: list[Any] = [(Inert, name) for name in sorted(_globals(path, kind))]
    with safe_globals(inert):  # what torch knows itself comes first
        saved = torch.load(path, map_location="cpu", mmap=_mappable(path, kind), weights_only=True)
    if isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict):
        saved = saved["state_dict"]
    if not isinstance(saved, dict):
        return {}
    return {
        name: tensor.detach()
        for name, tensor in saved.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor) and _is_plain(tensor)
    }


def _is_plain(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _mappable(path: Path, kind: Container) -> bool:
    """Whether the tensors lie in the file as they do in memory: not in old files, nor in archives packed again."""
    if kind == "legacy":
        return False
    with zipfile.ZipFile(path) as archive:
        return all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())
