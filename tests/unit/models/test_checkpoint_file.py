"""Reading checkpoints: every format, damaged and malicious files; no code in a file is run."""

from __future__ import annotations

import io
import os
import pickle
import pydoc
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdcli.errors import ModelError, ModelNotFound
from sdcli.memory import is_out_of_memory
from sdcli.models import checkpoint_file

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4, dtype=torch.float16)}


def save(path: Path, saved: object, *, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return path


def same(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_pickles_are_read_as_saved(tmp_path: Path, legacy: bool, nested: bool) -> None:
    path = save(tmp_path / "m.ckpt", {"state_dict": WEIGHTS, "global_step": 3} if nested else WEIGHTS, legacy=legacy)
    assert same(checkpoint_file.read_tensors(path), WEIGHTS)
    assert set(WEIGHTS) <= set(checkpoint_file.shapes(path))


def test_safetensors_are_read_as_saved_and_shapes_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"  # the bytes decide the format, not the name
    save_file(WEIGHTS, path)
    assert checkpoint_file.shapes(path) == {"a.weight": (2, 3), "b.weight": (4,)}
    assert same(checkpoint_file.read_tensors(path), WEIGHTS)


def test_a_compressed_archive_is_read_correctly(tmp_path: Path) -> None:
    """Its tensors cannot be memory-mapped: they would be garbage."""
    path, again = save(tmp_path / "m.ckpt", WEIGHTS), tmp_path / "again.ckpt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert same(checkpoint_file.read_tensors(again), WEIGHTS)


# Objects that real checkpoints contain besides tensors.


@pytest.fixture
def lightning() -> Iterator[type]:
    """A class that exists when the checkpoint is saved and not when it is read."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    found = type("ModelCheckpoint", (), {"__module__": names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = found  # type: ignore[attr-defined]
    yield found
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_lightning_callback_is_ignored(tmp_path: Path, lightning: Any, legacy: bool) -> None:
    callback = lightning()
    callback.monitor, callback.best = "val/loss_simple_ema", torch.tensor(0.5)
    saved = {
        "epoch": 3,
        "callbacks": {lightning: {"best_model_path": Path("x"), "best_model_score": torch.tensor(0.5)}, "b": callback},
        "lr_schedulers": [],
        "numbers": [__import__("numpy").float64(1.5), complex(1, 2), {1, 2}],
        "state_dict": WEIGHTS,
    }
    path = save(tmp_path / "m.ckpt", saved, legacy=legacy)
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    assert same(checkpoint_file.read_tensors(path), WEIGHTS)
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


# Malicious checkpoints.


class Call:
    """Pickles as a call of a function; unpickling calls it."""

    def __init__(self, function: str | Call, *args: object, state: object = None) -> None:
        self.function = pydoc.locate(function) if isinstance(function, str) else function
        self.args, self.state = args, state

    def __reduce__(self) -> Any:
        call = (self.function, self.args)
        return call if self.state is None else (*call, self.state)

    def __call__(self) -> None:
        """Pickle requires that the function is callable."""


def write(mark: Path) -> str:
    return f"import pathlib; pathlib.Path({str(mark)!r}).touch()"


GADGETS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda mark: Call("os.system", f"touch {mark}"),
    "exec": lambda mark: Call("builtins.exec", write(mark)),
    "eval": lambda mark: Call("builtins.eval", f"__import__('pathlib').Path({str(mark)!r}).touch()"),
    "compile": lambda mark: Call("builtins.exec", Call("builtins.compile", write(mark), "x", "exec")),
    "open": lambda mark: Call("builtins.open", str(mark), "w"),
    "getattr": lambda mark: Call(
        Call("builtins.getattr", Call("builtins.__import__", "os"), "system"), f"touch {mark}"
    ),
    "attrgetter": lambda mark: Call(
        Call(Call("operator.attrgetter", "system"), Call("builtins.__import__", "os")), f"touch {mark}"
    ),
    "partial": lambda mark: Call(partial(os.system, f"touch {mark}")),
    "run": lambda mark: Call("subprocess.check_call", ["touch", str(mark)]),
    "map": lambda mark: Call("builtins.list", Call("builtins.map", exec, [write(mark)])),
    "method": lambda mark: Call("pathlib.Path.touch", mark),
    "in a set": lambda mark: {Call("os.system", f"touch {mark}")},
    "as a key": lambda mark: {Call("os.system", f"touch {mark}"): 1},
    "numpy": lambda mark: Call("numpy.save", str(mark), [1]),
    "torch": lambda mark: Call("torch.save", 1, str(mark)),
}


def require_harmful(gadget: object, mark: Path) -> None:
    """Check that plain unpickling runs the code; otherwise the test proves nothing."""
    with suppress(Exception):
        pickle.loads(pickle.dumps(gadget))
    written = [mark, mark.with_name(mark.name + ".npy")]
    assert any(path.exists() for path in written)
    for path in written:
        path.unlink(missing_ok=True)


# The pickle that opens a file, run on purpose by the test, never closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", GADGETS)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_code_in_a_checkpoint_is_run(tmp_path: Path, name: str, legacy: bool, protocol: int) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    gadget = GADGETS[name](folder / "mark")
    require_harmful(gadget, folder / "mark")
    path = save(tmp_path / "m.ckpt", {"state_dict": WEIGHTS, "x": gadget}, legacy=legacy, protocol=protocol)
    with suppress(ModelError):
        checkpoint_file.shapes(path)
        assert same(checkpoint_file.read_tensors(path), WEIGHTS)
    assert not list(folder.iterdir())


def with_pickle(path: Path, data: bytes) -> Path:
    """A zip checkpoint with the given pickle."""
    save(path, WEIGHTS)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, data if name.endswith("/data.pkl") else content)
    return path


HAND_MADE: dict[str, bytes] = {
    "instance": b"(S'touch MARK'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch MARK'\no.",
    "python 2": b'c__builtin__\neval\n(S\'__import__("os").system("touch MARK")\'\ntR.',
    "dotted": b"\x80\x04\x8c\x02os\x8c\x0dpath.os.system\x93\x8c\x0atouch MARK\x85R.",
    "stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",
    "storage": b"c__main__\nStorageos.system\n(S'touch MARK'\ntR.",
    "build on a class": b"ccollections\nOrderedDict\n}(S'__reduce__'\ncos\nsystem\nub.",
    "build on a function": b"ctorch._utils\n_rebuild_tensor_v2\n}(S'__code__'\nNub.",
    "persistent id": b"(S'module'\nccollections\nOrderedDict\nS'MARK'\nS'MARK'\ntQ.",
    "new object": b"\x80\x02cposix\nsystem\nS'touch MARK'\n\x85\x81.",
    "endless": b"\x80\x02" + b"(" * 100_000,
    "deep": b"]" * 100_000 + b"a" * 99_999 + b".",
    "no end": b"\x80\x02}",
    "large number": b"\x80\x02\x8a\xff" + b"\x7f" * 100 + b".",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_written_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_pickle(tmp_path / "m.ckpt", HAND_MADE[name])
    with pytest.raises(ModelError):
        checkpoint_file.shapes(path)
        checkpoint_file.read_tensors(path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.ckpt"]


def test_a_source_patch_in_an_old_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files can contain the source of a class; PyTorch writes a patch file if that source has changed."""
    monkeypatch.chdir(tmp_path)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return ("module", torch.nn.Linear, "x.py", "other source") if item == "here" else None

    path = tmp_path / "m.ckpt"
    with path.open("wb") as file:
        for head in (checkpoint_file.LEGACY_MAGIC, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        torch.nn.Linear.dump_patches, before = True, torch.nn.Linear.dump_patches
        Pickler(file, protocol=2).dump({"state_dict": "here"})
        pickle.dump([], file, protocol=2)
    try:
        with pytest.raises(ModelError):
            checkpoint_file.read_tensors(path)
    finally:
        torch.nn.Linear.dump_patches = before
    assert [file.name for file in tmp_path.iterdir()] == ["m.ckpt"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    """torch.load would pass it to torch.jit.load, which runs its code."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.ckpt")  # type: ignore[no-untyped-call]
    with pytest.raises(ModelError, match="not a checkpoint"):
        checkpoint_file.read_tensors(tmp_path / "m.ckpt")


def test_tensors_without_plain_data_are_ignored(tmp_path: Path) -> None:
    odd = {"meta": torch.empty(2, device="meta"), "sparse": torch.eye(2).to_sparse(), 3: torch.ones(1), "n": 4}
    assert same(checkpoint_file.read_tensors(save(tmp_path / "m.ckpt", WEIGHTS | odd)), WEIGHTS)  # type: ignore[operator]


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="contains no tensors"):
        checkpoint_file.read_tensors(save(tmp_path / "m.ckpt", {"state_dict": {}}))
    with pytest.raises(ModelError, match="contains no tensors"):
        checkpoint_file.read_tensors(save(tmp_path / "m.ckpt", [1, 2]))


MIXED = {
    name: torch.arange(6.0).reshape(2, 3).to(getattr(torch, name))
    for name in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64", "int64", "bool")
}


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_every_type_is_read(tmp_path: Path, kind: str) -> None:
    """Also bytes after the last tensor, and tensors that are views of others."""
    path = tmp_path / "without-suffix"
    if kind == "safetensors":
        save_file(MIXED, path, metadata={"format": "pt"})
        path.write_bytes(path.read_bytes() + b"more")
        views = {}
    else:
        base = torch.arange(24.0)
        views = {"part": base[5:9], "turned": base.reshape(4, 6).T, "empty": torch.empty(0, 3)}
        views["parameter"] = torch.nn.Parameter(base)
        save(path, {"state_dict": MIXED | views}, legacy=kind == "legacy")
    read = checkpoint_file.read_tensors(path)
    expected = MIXED | views
    assert read.keys() == expected.keys()
    assert all(read[name].dtype == tensor.dtype for name, tensor in expected.items())
    assert all(torch.equal(read[name].double(), tensor.double()) for name, tensor in expected.items())


def test_strings_beside_the_weights_are_no_names(tmp_path: Path) -> None:
    path = save(tmp_path / "m.ckpt", {"state_dict": WEIGHTS, "callbacks": {"best": "try.lora_1.ckpt"}})
    assert checkpoint_file.shapes(path) == {"a.weight": (2, 3), "b.weight": (4,)}


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "m.ckpt", {"a": torch.full((3000,), 7.0)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.tensor([7.0]).numpy().tobytes() * 9) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"The checksum of m/data/0 is wrong"):
        checkpoint_file.read_tensors(path)


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "m.ckpt", WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(checkpoint_file.read_tensors(path), WEIGHTS)


def header(content: bytes, data: int = 64) -> bytes:
    return struct.pack("<Q", len(content)) + content + bytes(data)


def entry(shape: str, offsets: str) -> bytes:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}'.encode()


HOSTILE: dict[str, bytes] = {
    "overlap": header(b'{"a":' + entry("[4]", "[0,16]") + b',"b":' + entry("[4]", "[8,24]") + b"}"),
    "a name twice": header(b'{"a":' + entry("[1]", "[0,4]") + b',"a":' + entry("[1]", "[0,4]") + b"}"),
    "negative": header(b'{"a":' + entry("[-4]", "[16,0]") + b"}"),
    "huge": header(b'{"a":' + entry("[1099511627776]", "[0,4398046511104]") + b"}"),
    "not numbers": header(b'{"a":' + entry("[1.5]", '["a",null]') + b"}"),
    "deep": header(b'{"a":' + b"[" * 100_000),
    "header beyond the end": struct.pack("<Q", 9_000_000) + b"{" + b" " * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(HOSTILE[name])
    with pytest.raises(ModelError, match="cut short or damaged"):
        checkpoint_file.shapes(tmp_path / "m.safetensors")


PICKLES: dict[str, bytes] = {
    "gigabytes": b"\x80\x02c__builtin__\nbytearray\n(\x8a\x05\x00\x00\x00\x80\x00tR.",
    "a far place of the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a key that takes 2^60 steps to hash": b"\x80\x02N" + b"q\x00h\x00\x86" * 60 + b"q\x00}h\x00Ns.",
    "a key 100,000 deep": b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.",
    "a dictionary in itself": b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s.",
    "a million operations": b"\x80\x02" + b"N0" * 500_000 + b".",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_take_memory_or_time_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError):
        checkpoint_file.read_tensors(with_pickle(tmp_path / "m.ckpt", PICKLES[name]))


def test_small_files_of_large_tensors_are_refused(tmp_path: Path) -> None:
    """Repeated numbers, and an archive that is compressed."""
    repeated = save(tmp_path / "m.ckpt", {"a": torch.ones(1).expand(30_000_000)})
    with pytest.raises(ModelError, match="its tensors would take 120,000,000"):
        checkpoint_file.shapes(repeated)


# Files that are not checkpoints. The error says what the file is; torch is not needed for that.

NOT_CHECKPOINTS: dict[str, tuple[bytes, str]] = {
    "web page": (b"\n<!DOCTYPE html><html><head><title>Sign in</title>" + b" " * 2000, "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265380512\n", "Git LFS pointer"),
    "json": (b'{"error": "Access to model is restricted"}', "JSON"),
    "empty": (b"", "empty"),
    "zeros": (bytes(5000), "zeros"),
    "text": (b"hello\n", "6 bytes"),
    "noise": (bytes(range(1, 256)) * 20, "neither"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), "not one that torch.save wrote"),
    "old pickle": (pickle.dumps([1.0] * 10, protocol=4), "not one that torch.save wrote"),
    "half a zip": (b"PK\x03\x04" + bytes(3000), "cut short or damaged"),
    "half a pickle": (b"\x80\x02}q", "cut short or damaged"),
    "safetensors": (struct.pack("<Q", 40) + b"{" + b" " * 10, "cut short or damaged"),
    "safetensors without an end": (
        struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64),
        "72 bytes of 108",
    ),
    "list of tensors": (struct.pack("<Q", 10) + b'{"a": [1]}', "cut short or damaged"),
}


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_the_error_says_what_the_file_is(tmp_path: Path, name: str) -> None:
    content, what = NOT_CHECKPOINTS[name]
    path = tmp_path / "m.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError) as raised:
        checkpoint_file.shapes(path)
    assert what in str(raised.value) and str(path) in raised.value.what
    assert raised.value.why and raised.value.fix


@pytest.mark.parametrize("extension", ["ckpt", "safetensors"])
def test_an_incomplete_download_is_refused(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"m.{extension}"
    tensors = {"a": torch.zeros(3000)}
    if extension == "ckpt":
        save(path, tensors)
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    for part in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(ModelError, match="cut short or damaged"):
            checkpoint_file.shapes(path)
        with pytest.raises(ModelError):
            checkpoint_file.read_tensors(path)


def test_an_incomplete_old_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.ckpt", {"a": torch.zeros(3000)}, legacy=True)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cut short or damaged"):
        checkpoint_file.read_tensors(path)


def test_an_archive_of_other_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/model.ckpt", b"x" * 2000)
    with pytest.raises(ModelError, match="unpack it"):
        checkpoint_file.shapes(path)


def test_an_old_tar_is_refused(tmp_path: Path) -> None:
    """torch.load would unpack it."""
    with tarfile.open(tmp_path / "m.ckpt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ModelError, match="not a checkpoint"):
        checkpoint_file.read_tensors(tmp_path / "m.ckpt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder.*\n.*--model"):
        checkpoint_file.container(tmp_path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"the checkpoint .*m\.ckpt does not exist"):
        checkpoint_file.container(tmp_path / "m.ckpt")


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.ckpt")
    with pytest.raises(ModelError, match="is not a file"):
        checkpoint_file.container(tmp_path / "m.ckpt")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", "/dev/zero", ".", ""])
def test_names_that_are_not_files_are_refused_at_once(name: str) -> None:
    with pytest.raises(ModelError):
        checkpoint_file.shapes(Path(name))


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "m.ckpt", WEIGHTS)
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ModelError, match=r"cannot be read\nPermission denied"):
        checkpoint_file.container(path)


def test_out_of_memory_errors_pass_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    path = save(tmp_path / "m.ckpt", WEIGHTS)
    monkeypatch.setattr(torch, "frombuffer", full)
    with pytest.raises(RuntimeError, match="can't allocate memory") as raised:
        checkpoint_file.read_tensors(path)
    assert is_out_of_memory(raised.value)
