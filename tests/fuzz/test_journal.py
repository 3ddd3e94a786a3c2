"""Journal lines, and folders with a journal that comes from somebody else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdcli.errors import SdcliError
from sdcli.json_text import read_object
from sdcli.outputs import journal
from sdcli.records import Key, Line, UnreadableRecord, read_line, read_record
from sdcli.settings import Settings
from sdcli.terminal import json_line
from tests.fuzz.inputs import ANY_JSON, DATA, SEEDS, changed, damaged, json_text
from tests.fuzz.program import run

JOURNALS = sorted([*DATA.glob("old_runs/*/run-*.jsonl"), *SEEDS.glob("run-*.jsonl")])
LINES = [line for path in JOURNALS for line in path.read_bytes().splitlines()][:40]
VALUES = [json.loads(line) for line in LINES]
PARTS = ANY_JSON | st.sampled_from(
    [
        "../../x",
        "/etc/passwd",
        "samples/../../x",
        "/dev/zero",
        "~nosuchuser/x",
        "\0",
        "x" * 5000,
        "picture",
        "run",
        "grid",
    ]
)
PIECES = [b'"', b"\\ud800", b"1e999", b"null", b"[" * 20_000, b"9" * 5000, b"\xff", b"{", b",", b"true", b"-1"]


@st.composite
def line(draw: Callable[..., Any]) -> bytes:
    """A line of the journals of the test data with changes."""
    if draw(st.booleans()):
        return json_text(draw(changed(VALUES, PARTS))).encode()
    return bytes(
        draw(damaged(LINES, [b'"', b"\\ud800", b"1e999", b"null", b"[" * 20_000, b"9" * 5000, b"\xff", b"{", b","]))
    )


@given(data=line())
@example(b"[" * 100_000)
@example(b'{"kind": "picture", "key": "\\ud800", "safety": {"scores": {"a": 1e999}}}')
@example(b'{"kind": "picture", "file": "a.png", "key": "a", "watermark": {"\\ud800": 1}}')
@example(b'{"kind": "run", "settings": {}, "folder": "\\u0000"}')
@example(b"\xff\xfe{\0}\0")
def test_a_line_is_read_and_written_back(data: bytes) -> None:
    read = read_line(data)
    if read is not None:
        written = json_line(read.values())
        assert "\n" not in written
        assert read_line(written.encode()) == read


@given(values=changed([value["job"] and value for value in VALUES if "job" in value] or [{}], PARTS))
@example({"schema": True})
@example({"schema": 2, "grid": 1})
def test_a_record_is_read_and_written_back(values: Any) -> None:
    parsed = read_object(json_text(values))
    if parsed is None:
        return
    with suppress(UnreadableRecord):
        record = read_record(parsed)
        assert read_record(json.loads(json_line(record.values()))) == record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder beside a file that no journal may name, and with links and folders that it may."""
    folder = tmp_path_factory.mktemp("journal") / "out"
    (folder / "samples").mkdir(parents=True)
    (folder.parent / "x").write_text("outside")
    (folder / "samples" / "a.png").write_bytes(b"a")
    (folder / "samples" / "link.png").symlink_to(folder.parent / "x")
    os.mkfifo(folder / "samples" / "pipe.png")
    return folder


@given(lines=st.lists(line(), max_size=4), torn=st.binary(max_size=4))
@example([b'{"kind": "picture", "key": "k", "file": "samples/../../x", "sha256": "0"}'], b"")
@example([b'{"kind": "picture", "key": "k", "file": "samples/pipe.png", "sha256": "0"}'], b"")
@example([b'{"kind": "picture", "key": "k", "file": "/dev/zero", "sha256": "0"}'], b"")
@example([b'{"kind": "picture", "key": "k", "file": "' + b"x" * 5000 + b'", "sha256": "0"}'], b"")
@example([b'{"kind": "picture", "key": "k", "file": "\\ud800", "sha256": "0"}'], b"")
@example([b'{"kind": "run", "settings": {"from_file": "/dev/zero"}, "folder": "~nosuchuser/x"}'], b"")
@example([b'{"kind": "run", "settings": {"outdir": "\\u0000", "prompt": 1}, "folder": "\\u0000"}'], b"")
def test_a_journal_names_only_files_of_its_folder(folder: Path, lines: list[bytes], torn: bytes) -> None:
    path = folder / "run-0000.jsonl"
    path.write_bytes(b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines) + torn)
    ledger = journal.Ledger(folder)
    for each in map(read_line, lines):
        if isinstance(each, Line):
            key = Key(each.key)
            found = ledger.find(key)
            name = ledger.name(key)
            if name is not None:
                assert (folder / name).resolve().is_relative_to(folder.resolve())
            if found is not None and found.kind != "withheld":
                assert name is not None
    with suppress(SdcliError):
        Settings.of(**journal.settings_of(folder))


@given(lines=st.lists(line(), min_size=1, max_size=3))
def test_a_folder_of_somebody_else_is_resumed_dry(folder: Path, lines: list[bytes]) -> None:
    (folder / "run-0000.jsonl").write_bytes(b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines))
    run("txt2img", "--resume", str(folder), "--dry-run")
    assert (folder.parent / "x").read_text() == "outside"
