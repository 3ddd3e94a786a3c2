"""Checkpoint files: headers of safetensors, and pickles in both containers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from sdcli.errors import ModelError
from sdcli.models import checkpoint_file, find, recognition
from sdcli.models.model import ModelRequest
from tests.fuzz.inputs import LARGEST, SEEDS, changed, damaged, json_text
from tests.fuzz.limits import limited

TENSORS = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 4, 1, 1),
    "first_stage_model.decoder.conv_in.weight": torch.zeros(2),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(1, dtype=torch.int64),
}


def _saved(**options: Any) -> bytes:
    data = io.BytesIO()
    torch.save({"state_dict": TENSORS, "global_step": 1}, data, **options)
    return data.getvalue()


ZIP, LEGACY = _saved(), _saved(_use_new_zipfile_serialization=False)
SAFETENSORS = save_safetensors(TENSORS)
_LENGTH = int.from_bytes(SAFETENSORS[:8], "little")
HEADER = json.loads(SAFETENSORS[8 : 8 + _LENGTH])
with zipfile.ZipFile(io.BytesIO(ZIP)) as _archive:
    RECORDS = {name: _archive.read(name) for name in _archive.namelist()}

# Operations of pickles, with arguments that ask for more than the file contains, or call something.
OPERATIONS = [
    b"(", b")", b"]", b"}", b"N", b"0", b"2", b"1", b"t", b"l", b"d", b"e", b"u", b"s", b"a", b"b", b"R", b"Q", b"\x81",
    b"\x85", b"\x86", b"\x87", b"\x88", b"K\x01", b"J\xff\xff\xff\x7f", b"\x8a\x01\xff", b"\x8b\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x96\xff\xff\xff\x7f\0\0\0\0", b"X\xff\xff\xff\x7f", b"q\x01", b"h\x01",
    b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nbytearray\n",
    b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nStorage\n", b"V" + b"a" * 99 + b"\n", b"I9999999999\n", b"L" + b"9" * 5000 + b"L\n", b"F1e999\n", b".",
    b"\x80\x05", b"\x95\xff\0\0\0\0\0\0\0", b"c_codecs\nencode\n", b"\x8c\x01a", b"G\x7f\xf0\0\0\0\0\0\0", b"P1\n",
]  # fmt: skip


@st.composite
def safetensors(draw: Callable[..., Any]) -> bytes:
    """A safetensors file with any header."""
    header = json_text(draw(changed([HEADER]))).encode()
    length = draw(st.sampled_from([len(header), len(header), len(header), 0, 1, 2**31, 2**63, 2**64 - 1, 99_999_999]))
    return struct.pack("<Q", length) + header + bytes(draw(st.sampled_from([0, 1, 48, 999])))


@st.composite
def zipped(draw: Callable[..., Any]) -> bytes:
    """A zip archive with the records of torch.save, some of them damaged, missing or under another name."""
    data = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in RECORDS.items():
            if draw(st.integers(0, 9)) == 0:
                continue
            other = draw(st.integers(0, 5)) == 0
            archive.writestr(name, draw(damaged([content], OPERATIONS)) if other else content)
    return data.getvalue()


@st.composite
def pickled(draw: Callable[..., Any]) -> bytes:
    """A zip archive with a pickle of any operations."""
    program = b"\x80\x02" + b"".join(draw(st.lists(st.sampled_from(OPERATIONS), max_size=12))) + b"."
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in RECORDS.items():
            archive.writestr(name, program if name.endswith("data.pkl") else content)
    return data.getvalue()


KINDS: dict[str, st.SearchStrategy[bytes]] = {
    "safetensors": safetensors(),
    "damaged safetensors": damaged([SAFETENSORS], [b"{", b"}", b'"', b",", b"\xff" * 8, b"\0" * 8, b"[" * 20_000]),
    "zip": zipped(),
    "damaged zip": damaged([ZIP], [b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02", b"\xff" * 4, b"\0" * 4]),
    "pickle": pickled(),
    "legacy": damaged([LEGACY], OPERATIONS),
}
PAST = sorted(SEEDS.glob("*.ckpt")) + sorted(SEEDS.glob("*.safetensors"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints") / "model.ckpt"


def check(file: Path) -> None:
    """Read a checkpoint in every way."""
    with suppress(ModelError):
        shapes = checkpoint_file.shapes(file)
        assert all(isinstance(name, str) for name in shapes)
        recognition.check(file, shapes)
        assert checkpoint_file.size(file) >= 0
    with suppress(ModelError):
        find(ModelRequest(ckpt=str(file)))
    with suppress(ModelError):
        tensors = checkpoint_file.read_tensors(file)
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_checkpoint_is_read_or_refused(file: Path, kind: str, data: st.DataObject) -> None:
    file.write_bytes(data.draw(KINDS[kind])[:LARGEST])
    check(file)


@given(header=changed([HEADER]))
@example([])
@example({"a": 1})
@example({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})
@example({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}})
@example({"a": {"dtype": "F32", "shape": "ab", "data_offsets": [0, "4"]}})
@example({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}})
@example({"__metadata__": {}, "a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}})
@example({"a": {"dtype": "F32", "shape": [[]], "data_offsets": [-1, 0]}})
def test_any_header_is_read_or_refused(file: Path, header: Any) -> None:
    text = json_text(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    check(file)


@pytest.mark.parametrize("seed", PAST, ids=lambda path: path.name)
def test_a_past_crash_is_refused(seed: Path) -> None:
    with limited():
        check(seed)
