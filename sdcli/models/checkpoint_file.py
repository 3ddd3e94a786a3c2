"""One file of weights: its format, the names in it, and its tensors, read without running any code in it.

A checkpoint is a safetensors file, or a pickle in one of PyTorch's two containers: a zip archive, or (before PyTorch
1.6) several pickles in a row. The bytes decide the format, not the file's name. Only `read_tensors` needs torch.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdcli.errors import ModelError, ModelNotFound
from sdcli.memory import is_out_of_memory
from sdcli.models import torch_pickle
from sdcli.models.torch_pickle import Dict, StoredTensor

if TYPE_CHECKING:
    import torch

Container = Literal["zip", "legacy", "safetensors"]
Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of the tensors in a checkpoint, by name."""

# The number that torch.save writes first in the older container.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_TABLE = 10_000_000
"""Bytes of a table of contents: a safetensors header, or a pickle in an archive. Real ones have less than 1 MB."""
MAX_TENSORS = 30_000
MAX_VALUES = 100_000
"""Of a tensor that `values` reads."""
MIN_LIMIT, LIMIT = 100_000_000, 10
"""The tensors of a file may take this many bytes in float32, and this many times the bytes of the file."""
# Keys of the dictionary of tensors, in files that contain more than this dictionary.
STATE_DICTS = ("state_dict", "model_state_dict", "module", "model", "string_to_param", "params_ema", "params")

# Types of safetensors and their names in torch.
SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

DOWNLOAD_AGAIN = "Download it again, and compare its size with that of the source."
NOT_TORCH = "Get the model as .ckpt or .safetensors."


@dataclass(frozen=True, slots=True)
class Block:
    """A run of bytes in the file that contains tensors."""

    start: int
    size: int
    record: zipfile.ZipInfo | None = None
    """The record of the archive that the block is. If it is compressed, `start` is 0 and counts in its content."""

    @property
    def compressed(self) -> bool:
        return self.record is not None and self.record.compress_type != zipfile.ZIP_STORED


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is: `start` counts bytes from the beginning of the block, `stride` elements."""

    block: Block
    dtype: str
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Elements from the tensor's first to its last."""
        if not math.prod(self.shape):
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))


def container(path: Path) -> Container:
    """The format of a file, by its first bytes.

    Raises:
        ModelNotFound: the file does not exist.
        ModelError: it cannot be read, or is not a checkpoint; the error says what it is instead.
    """
    if os.path.isdir(path):  # noqa: PTH112 - also for names that are too long
        raise ModelError(
            f"{path} is a folder, not a checkpoint",
            fix="Pass the file in it with --ckpt, or the folder with --model if it is a diffusers model.",
        )
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise ModelError(f"{path} is not a file", fix="Pass the path of a checkpoint with --ckpt.")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        size = path.stat().st_size
    except FileNotFoundError:
        raise ModelNotFound(f"the checkpoint {path} does not exist", fix="Check the path that --ckpt has.") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the checkpoint {path} cannot be read",
            why=f"{getattr(error, 'strerror', None) or error}.",
            fix="Check the file's permissions and its disk.",
        ) from error
    # Checked first: the eight bytes before the brace are a length, and may look like the start of another format.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_TABLE:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "legacy"
    if head.startswith(b"GGUF"):
        raise ModelError(
            f"{path} is not a checkpoint",
            why="It is a GGUF file: quantized weights of one part of a model, which sdcli does not read.",
            fix=NOT_TORCH,
        )
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
    if head.startswith((b"7z\xbc\xaf", b"Rar!", b"\x1f\x8b")):
        return "It is an archive: unpack it, and pass the file in it."
    if not any(head):
        return "It contains zeros only: the download is incomplete."
    if size < 1024:
        return f"It contains {size} bytes of another format."
    return "It is neither a PyTorch file (.ckpt) nor a .safetensors file."


def shapes(path: Path) -> Shapes:
    """The shapes of the tensors in a checkpoint, by name.

    Raises:
        ModelError: the file is cut short, damaged, or not a checkpoint.
    """
    return {name: place.shape for name, place in _places(path).items()}


def stored(path: Path) -> Mapping[str, Place]:
    """Where each tensor of a checkpoint is, and in which type, by name.

    Raises:
        ModelError: as for `shapes`.
    """
    return _places(path)


def size(path: Path) -> int:
    """Bytes that the weights take in float32.

    Raises:
        ModelError: as for `shapes`.
    """
    return sum(4 * math.prod(shape) for shape in shapes(path).values())


def metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file has beside its tensors, by name; none for other files.

    Raises:
        ModelError: as for `shapes`.
    """
    if container(path) != "safetensors":
        return {}
    with _damage(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        texts = json.loads(file.read(min(size, MAX_TABLE)), object_pairs_hook=_unique).get("__metadata__") or {}
        return {name: text for name, text in texts.items() if isinstance(text, str)}


def unknown_types(path: Path) -> dict[str, str]:
    """The tensors of a safetensors file that `read_tensors` leaves out, because their type is not known, by name.

    Raises:
        ModelError: as for `shapes`.
    """
    with _damage(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, MAX_TABLE)), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        return {name: each["dtype"] for name, each in header.items() if each["dtype"] not in SAFETENSORS_TYPES}


def values(path: Path, name: str) -> Sequence[float] | None:
    """The values of a small tensor, without torch; None if the file does not have it, or has it in another type.

    Args:
        path: the file.
        name: the tensor's name in the file.

    Raises:
        ModelError: as for `shapes`.
    """
    place = _places(path).get(name)
    kind = {"float16": "e", "bfloat16": "H", "float32": "f", "float64": "d"}.get(place.dtype) if place else None
    if place is None or kind is None or place.extent > MAX_VALUES:
        return None
    with _damage(path), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        (content,) = _contents(path, memoryview(mapped), {place.block}).values()
        found = struct.unpack_from(f"<{place.extent}{kind}", content, place.start)
        content.release() if isinstance(content, memoryview) else None
        if kind != "H":
            return found
        return struct.unpack(f"<{len(found)}f", b"".join(struct.pack("<I", value << 16) for value in found))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, memory-mapped if possible. No code in the file is run.

    Raises:
        ModelError: the file is damaged, or contains no tensors.
        Exception: one that `sdcli.memory.is_out_of_memory` recognizes.
    """
    places = _places(path)
    if not places:
        raise ModelError(f"the checkpoint {path} contains no tensors", fix=DOWNLOAD_AGAIN)
    with _damage(path), path.open("rb") as file:
        # Private: torch wants memory that it could write to.
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        _mapped.add(whole)
        contents = _contents(path, memoryview(whole), {place.block for place in places.values()})
        forget_pages()
        return {name: _tensor(contents[place.block], place) for name, place in places.items()}


_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""The files that tensors of `read_tensors` are in."""


def forget_pages() -> None:
    """Give back the memory of all that was read of mapped files. Nothing is lost: it is read again if it is needed.

    Only while a model loads, since what was written to the tensors is lost.
    """
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for mapped in _mapped:
            mapped.madvise(mmap.MADV_DONTNEED)


def _contents(path: Path, mapped: memoryview, blocks: set[Block]) -> dict[Block, memoryview | bytearray]:
    """The content of each block; that of an archive's records is compared with their checksums."""
    contents: dict[Block, memoryview | bytearray] = {}
    for block in blocks:
        if block.compressed:
            with zipfile.ZipFile(path) as archive:
                contents[block] = bytearray(_content(archive, block.record))  # type: ignore[arg-type]
        else:
            contents[block] = mapped[block.start : block.start + block.size]

    def check(block: Block) -> None:
        record = block.record
        if record is not None and record.CRC and not block.compressed and zlib.crc32(contents[block]) != record.CRC:
            raise ValueError(f"The checksum of {record.filename} is wrong")

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, blocks))
    return contents


def _tensor(content: memoryview | bytearray, place: Place) -> torch.Tensor:
    import torch

    dtype, extent = getattr(torch, place.dtype), place.extent
    if not extent:
        return torch.empty(place.shape, dtype=dtype)
    item = torch_pickle.ITEM_SIZES[place.dtype]
    part = memoryview(content)[place.start : place.start + extent * item]
    address = torch.frombuffer(part, dtype=torch.uint8).data_ptr()
    flat = torch.frombuffer(bytearray(part) if address % item else part, dtype=dtype)
    return flat.as_strided(place.shape, place.stride)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into one error."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # json, zipfile, pickletools and torch raise many types for damaged files
        if is_out_of_memory(error):
            raise
        missing = isinstance(error, zipfile.BadZipFile) and "not a zip file" in str(error)
        known = isinstance(error, ValueError | OSError | RuntimeError | zipfile.BadZipFile | zlib.error)
        why = _first_sentence(error) if known else "Its table of contents is not valid"
        why = "Its end is missing" if missing else why
        raise ModelError(f"the checkpoint {path} is cut short or damaged", why=f"{why}.", fix=DOWNLOAD_AGAIN) from error


def _first_sentence(error: Exception) -> str:
    message = str(error).strip() or type(error).__name__
    return message.split("\n", 1)[0].split(". ", 1)[0].rstrip(".")


def _places(path: Path) -> dict[str, Place]:
    """Where each tensor of a checkpoint is; empty if it contains none.

    Raises:
        ModelError: the file is cut short, damaged, or not a checkpoint.
    """
    kind = container(path)
    with _damage(path), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        size = len(mapped)
        read = {"zip": _zip_places, "legacy": _legacy_places, "safetensors": _safetensors_places}[kind]
        places = read(path, mapped)
        if len(places) > MAX_TENSORS:
            raise ValueError(f"It has {len(places):,} tensors, which no model has")
        for place in places.values():
            item = torch_pickle.ITEM_SIZES[place.dtype]
            if place.start + place.extent * item > place.block.size:
                raise ValueError("A tensor exceeds its part of the file")
        taken = sum(4 * math.prod(place.shape) for place in places.values())
        unpacked = sum(block.size for block in {place.block for place in places.values()})
        if max(taken, unpacked) > max(MIN_LIMIT, LIMIT * size):
            raise ValueError(f"It has {size:,} bytes, and its tensors would take {max(taken, unpacked):,}")
        return places


def _safetensors_places(path: Path, mapped: mmap.mmap) -> dict[str, Place]:
    length = int.from_bytes(mapped[:8], "little")
    if length > len(mapped) - 8:
        raise ValueError("Its end is missing")
    header = json.loads(mapped[8 : 8 + length], object_pairs_hook=_unique)
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if len(mapped) < end:
        raise ValueError(f"It contains {len(mapped):,} bytes of {end:,}")
    places, last = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (start, stop) = entry["shape"], entry["data_offsets"]
        dtype = SAFETENSORS_TYPES.get(entry["dtype"])
        if dtype is None:
            continue
        if not torch_pickle.is_shape(shape) or start < last or stop - start != _bytes(shape, dtype):
            raise ValueError(f"The place of {name} in the file contradicts its shape or that of another tensor")
        last = stop
        stride = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
        places[name] = Place(Block(8 + length + start, stop - start), dtype, 0, tuple(shape), tuple(stride))
    return places


def _bytes(shape: list[int], dtype: str) -> int:
    return math.prod(shape) * torch_pickle.ITEM_SIZES[dtype]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON with these items."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("Its header contains a name twice")
    return found


def _zip_places(path: Path, mapped: mmap.mmap) -> dict[str, Place]:
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
        tables = [name for name in records if name.endswith("/data.pkl")]
        if len(tables) != 1 or any(name.endswith("/constants.pkl") for name in records):
            raise ModelError(
                f"{path} is not a checkpoint",
                why="It is a zip archive, but torch.save did not write it.",
                fix="If it is an archive of a model's files, unpack it and pass the file in it.",
            )
        folder = tables[0].removesuffix("data.pkl")
        order = records.get(f"{folder}byteorder")
        if order is not None and _content(archive, order) == b"big":
            raise ModelError(f"{path} has big-endian numbers, which sdcli does not read", fix=NOT_TORCH)
        if records[tables[0]].file_size > MAX_TABLE:
            raise ValueError(f"Its table of contents is larger than {MAX_TABLE:,} bytes")
        saved, _ = torch_pickle.read(io.BytesIO(_content(archive, records[tables[0]])))
    tensors = _state_dict(saved)
    blocks = {
        key: _record_block(records[f"{folder}data/{key}"], mapped)
        for key in {tensor.storage.key for tensor in tensors.values()}
    }
    return {name: _place(tensor, blocks[tensor.storage.key]) for name, tensor in tensors.items()}


def _content(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    """The content of a record, compared with its checksum."""
    with archive.open(record) as file:
        if not record.CRC:  # torch.save can leave the checksum out
            file._expected_crc = None  # type: ignore[attr-defined]
        return file.read()


def _record_block(record: zipfile.ZipInfo, mapped: mmap.mmap) -> Block:
    if record.compress_type != zipfile.ZIP_STORED:
        return Block(0, record.file_size, record)
    # The record's own header, before its content: 30 bytes, its name, and a field that aligns the content.
    header = mapped[record.header_offset : record.header_offset + 30]
    start = record.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
    if header[:4] != b"PK\x03\x04" or start + record.file_size > len(mapped):
        raise ValueError(f"The record {record.filename} is not where the archive's directory says")
    return Block(start, record.file_size, record)


def _legacy_places(path: Path, mapped: mmap.mmap) -> dict[str, Place]:
    # Five pickles (a number, the format's version, sizes of C types, the saved object, the order of the storages),
    # then each storage: the number of its elements, and the elements.
    if torch_pickle.read(mapped)[0] != LEGACY_MAGIC:
        raise ModelError(
            f"{path} is not a checkpoint",
            why="It is a Python pickle, but not one that torch.save wrote.",
            fix=NOT_TORCH,
        )
    for _ in range(2):
        torch_pickle.read(mapped)
    saved, storages = torch_pickle.read(mapped)
    keys, _ = torch_pickle.read(mapped)
    blocks: dict[str, Block] = {}
    start = mapped.tell()
    for key in keys:
        elements = int.from_bytes(mapped[start : start + 8], "little")
        size = elements * torch_pickle.ITEM_SIZES[storages[key].dtype]
        blocks[key] = Block(start + 8, size)
        start += 8 + size
        if start > len(mapped):
            raise ValueError("Its end is missing")
    return {name: _place(tensor, blocks[tensor.storage.key]) for name, tensor in _state_dict(saved).items()}


def _state_dict(saved: object) -> dict[str, StoredTensor]:
    """The tensors in the object that was saved, by name."""
    for _ in range(len(STATE_DICTS)):
        inner = [saved.items_of().get(key) for key in STATE_DICTS] if isinstance(saved, Dict) else []
        saved = next((each for each in inner if isinstance(each, Dict)), saved)
    if isinstance(saved, list):  # cloneofsimo's LoRA
        return {str(number): tensor for number, tensor in enumerate(saved) if isinstance(tensor, StoredTensor)}
    items = saved.items_of() if isinstance(saved, Dict) else {}
    return {name: tensor for name, tensor in items.items() if isinstance(tensor, StoredTensor)}


def _place(tensor: StoredTensor, block: Block) -> Place:
    return Place(
        block, tensor.dtype, tensor.offset * torch_pickle.ITEM_SIZES[tensor.dtype], tensor.shape, tensor.stride
    )
