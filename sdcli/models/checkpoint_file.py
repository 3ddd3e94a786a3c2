"""One file of weights: its format, the names in it, and its tensors, read without running any code in it.

A checkpoint is a safetensors file, or a pickle in one of PyTorch's two containers: a zip archive, or (before PyTorch
1.6) several pickles in a row. The bytes decide the format, not the file's name. Only `read_tensors` needs torch.
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
from sdcli.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

Container = Literal["zip", "legacy", "safetensors"]
Shapes = Mapping[str, tuple[int, ...] | None]
"""The names in a checkpoint and, if they can be read without torch, the shapes of its tensors."""

# The number that torch.save writes first in the older container.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_SAFETENSORS_HEADER = MAX_PICKLE = 100_000_000

DOWNLOAD_AGAIN = "Download it again, and compare its size with that of the source."


class Inert:
    """Replaces every class that a checkpoint does not need: takes any arguments and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def container(path: Path) -> Container:
    """The format of a file, by its first bytes.

    Raises:
        ModelNotFound: the file does not exist.
        ModelError: it cannot be read, or is not a checkpoint; the error says what it is instead.
    """
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder, not a checkpoint",
            fix="Pass the file in it with --ckpt, or the folder with --model if it is a diffusers model.",
        )
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file", fix="Pass the path of a checkpoint with --ckpt.")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        size = path.stat().st_size
    except FileNotFoundError:
        raise ModelNotFound(f"the checkpoint {path} does not exist", fix="Check the path that --ckpt has.") from None
    except OSError as error:
        raise ModelError(
            f"the checkpoint {path} cannot be read",
            why=f"{error.strerror or error}.",
            fix="Check the file's permissions and its disk.",
        ) from error
    # Checked first: the eight bytes before the brace are a length, and may look like the start of another format.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "legacy"
    raise ModelError(f"{path} is not a checkpoint", why=_describe(head, size), fix=DOWNLOAD_AGAIN)


def _describe(head: bytes, size: int) -> str:
    """What a file is that is not a checkpoint, from its first bytes and its size in bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return "The file is empty."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "It is a web page: the page was downloaded instead of the file."
    if text.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer to the file; `git lfs pull` in its repository downloads the file."
    if text.startswith((b"{", b"[")):
        return "It is JSON: perhaps the error message of a server."
    if not any(head):
        return "It contains zeros only: the download is incomplete."
    if size < 1024:
        return f"It contains {size} bytes of another format."
    return "It is neither a PyTorch file (.ckpt) nor a .safetensors file."


def shapes(path: Path) -> Shapes:
    """The names in a checkpoint, and the shapes if they can be read without torch (safetensors).

    For a pickle the result contains all strings in it: the names of the tensors and others.

    Raises:
        ModelError: the file is cut short, damaged, or not a checkpoint.
    """
    kind = container(path)
    try:
        if kind == "safetensors":
            return _safetensors_shapes(path)
        return {arg: None for name, arg in _operations(path, kind) if name.endswith(("UNICODE", "UNICODE8", "STRING"))}
    except ModelError:
        raise
    except Exception as error:  # json, zipfile and pickletools raise many types for damaged files
        raise _damaged(path, error) from error


def size(path: Path) -> int:
    """Bytes that the weights take in float32, from their shapes (safetensors); for a pickle, the size of the file.

    Raises:
        ModelError: as for `shapes`.
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
        raise ValueError(f"It contains {size:,} bytes of {end:,}")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _operations(path: Path, kind: Container) -> Iterator[tuple[str, Any]]:
    """The operations (name, argument) of the pickle in a checkpoint, without running them."""
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            records = [name for name in names if name.endswith("/data.pkl")]
            if len(records) != 1 or any(name.endswith("/constants.pkl") for name in names):
                raise ModelError(
                    f"{path} is not a checkpoint",
                    why="It is a zip archive, but torch.save did not write it.",
                    fix="If it is an archive of a model's files, unpack it and pass the file in it.",
                )
            if archive.getinfo(records[0]).file_size > MAX_PICKLE:
                raise ValueError(f"Its table of contents is larger than {MAX_PICKLE:,} bytes")
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
        for _ in range(3):  # the version of the format, the sizes of C integers, the saved object
            yield from ((operation.name, arg) for operation, arg, _ in pickletools.genops(file))


def _globals(path: Path, kind: Container) -> set[str]:
    """The full names of all functions and classes in the pickle, with the names that they have in Python 3."""
    found = set()
    for operation, arg in _operations(path, kind):
        if operation == "PROTO" and arg > 2:
            raise ModelError(
                f"the checkpoint {path} is pickled with protocol {arg}",
                why="PyTorch reads only protocol 2, its default, without running code in the file.",
                fix="Get the model as .safetensors, or saved by torch.save with its default protocol.",
            )
        if operation == "GLOBAL":
            module, _, name = arg.partition(" ")
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            found.add(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}")
    return found


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, memory-mapped if possible.

    No code in the file is run. PyTorch's restricted unpickler reads it and creates only tensors and plain containers;
    `Inert` replaces all other classes in the file.

    Raises:
        ModelError: the file is damaged, contains no tensors, or calls functions that a checkpoint must not call.
        Exception: one that `sdcli.memory.is_out_of_memory` recognizes.
    """
    kind = container(path)
    try:
        tensors = _read_safetensors(path) if kind == "safetensors" else _read_pickle(path, kind)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the checkpoint {path} was not loaded",
            why=f"It contains more than tensors: {_refused(error)}. It may be malicious.",
            fix="Get the model as .safetensors, a format that cannot contain code.",
        ) from error
    except Exception as error:  # torch raises many types for damaged files
        if is_out_of_memory(error):
            raise
        raise _damaged(path, error) from error
    if not tensors:
        raise ModelError(f"the checkpoint {path} contains no tensors", fix=DOWNLOAD_AGAIN)
    return tensors


def _refused(error: Exception) -> str:
    """What PyTorch's unpickler refused, from its message."""
    found = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+|Can only .*?)(?:\n|$)", str(error))
    return (found[1] or found[2]) if found else "an unknown operation"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _read_pickle(path: Path, kind: Container) -> dict[str, torch.Tensor]:
    import torch
    from torch.serialization import safe_globals

    inert: list[Any] = [(Inert, name) for name in sorted(_globals(path, kind))]
    with safe_globals(inert):  # torch's own classes have precedence
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
    """Whether the file contains the tensors as memory does: not in the older container or in compressed archives."""
    if kind == "legacy":
        return False
    with zipfile.ZipFile(path) as archive:
        return all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())
