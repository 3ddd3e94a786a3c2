"""Machines on which something is short or odd: memory, open files, home and current folder, encodings, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run, Sdcli

ONE = ("--prompt", "a red apple", "--n_samples", "1", "--n_iter", "1")
NO_HOME = """
import os, pwd
def unknown(*_):
    raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = unknown
"""


def default_signals() -> None:
    """A process in the background inherits ignored signals, which sdcli leaves ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def starting(tmp_path: Path) -> subprocess.Popen[str]:
    """`python -m sdcli` in the middle of its imports."""
    process = subprocess.Popen(
        [sys.executable, "-v", "-P", "-m", "sdcli", "--help"], cwd=tmp_path, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=default_signals,
    )  # fmt: skip
    assert process.stderr
    for line in process.stderr:
        if line.startswith("import 'typer"):
            break
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_prints_no_traceback(starting: subprocess.Popen[str], number: int) -> None:
    time.sleep(0.1)
    starting.send_signal(number)
    _, error = starting.communicate(timeout=60)
    assert starting.returncode == 128 + number
    assert "Traceback" not in error


def test_a_second_signal_ends_the_process_at_once(sdcli: Sdcli) -> None:
    before = """
import os, signal
from sdcli.outputs.writer import Writer
def stop_twice(*_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            print("goes on")
Writer.save = stop_twice
"""
    run = sdcli(*ONE, code=130, before=before)
    assert run.stderr.endswith("sdcli: interrupted\n")
    assert run.stdout == ""


def test_memory_ends_while_an_image_is_saved(sdcli: Sdcli) -> None:
    before = """
from sdcli.outputs import writer
def encode(*_):
    raise MemoryError
writer.encode = encode
"""
    run = sdcli(*ONE, code=5, before=before)
    assert "out of memory" in run.stderr
    assert "bug" not in run.stderr


def test_open_files_end(sdcli: Sdcli) -> None:
    limit = """
import os, resource
used = len(os.listdir('/proc/self/fd')) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
"""
    run = sdcli(*ONE, code=5, before=limit)
    assert "too many open files" in run.stderr
    assert "ulimit" in run.stderr


@pytest.mark.slow
def test_the_address_space_ends(sdcli: Sdcli) -> None:
    limit = """
import os, resource
size = int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGE_SIZE') + 150_000_000
resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""
    run = sdcli("--prompt", "a red apple", "--n_samples", "16", "--n_iter", "1", code=5, before=limit)
    assert "memory" in run.stderr


def test_without_home_folder(sdcli: Sdcli) -> None:
    """And without an entry in the list of users, as in many containers."""
    shorter = "".join(f"del os.environ[{name!r}]\n" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"))
    run = sdcli(*ONE, before=f"import os\nos.environ.update(XDG_CONFIG_HOME='', XDG_CACHE_HOME='')\n{shorter}{NO_HOME}")
    assert run.paths[0] == "outputs/txt2img-samples/samples/00000.png"


def test_a_home_folder_that_is_unknown_or_a_file(refuse: Run) -> None:
    assert refuse("txt2img", "--prompt", "a", "--ckpt", "~nosuchuser/m.ckpt").returncode == 4
    assert refuse("txt2img", "--prompt", "a", "--model", "~nosuchuser/m").returncode == 4


def test_deleted_current_folder(sdcli: Sdcli, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    deleted = f"import os; os.rmdir({str(gone)!r})"
    run = sdcli(*ONE, "--outdir", tmp_path / "out", cwd=gone, code=7, before=deleted)
    assert "no current folder" in run.stderr
    assert not (tmp_path / "out").exists()


def test_standard_output_in_ascii(sdcli: Sdcli) -> None:
    """Paths are those of the files, and JSON is whole, whatever encoding Python is made to use."""
    ascii_only = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"
    run = sdcli(*ONE, "--outdir", "ö中", "--json", before=ascii_only)
    assert json.loads(run.paths[0])["file"] == "ö中/samples/00000.png"


@pytest.mark.parametrize("content", [b"[]", b'{"a": 1, "b c d 0x0x0": [1, 2]}', b"\xff\0", b"{"])
def test_damaged_cache(sdcli: Sdcli, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "cache" / "sdcli"
    cache.mkdir(parents=True)
    for name in ("hashes", "speeds"):
        (cache / f"{name}.json").write_bytes(content)
    run = sdcli(*ONE, "--dry-run", environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert "1 image" in run.stderr


def test_a_killed_run_with_output_leaves_nothing_for_ever(sdcli: Sdcli, tmp_path: Path) -> None:
    killed = "import os, signal; os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    sdcli(*ONE, "-o", "a.png", code=-signal.SIGKILL, before=killed)
    assert len(list(tmp_path.glob(".sdcli-one-*"))) == 1
    sdcli(*ONE, "-o", "a.png")
    assert os.listdir(tmp_path) == ["a.png"]  # noqa: PTH208


@pytest.mark.parametrize("make", ["samples is a file", "samples is a loop", "outdir is a loop", "lock is a folder"])
def test_output_folders_that_are_none(sdcli: Sdcli, tmp_path: Path, make: str) -> None:
    out = tmp_path / "out"
    if make == "outdir is a loop":
        out.symlink_to("out")
    else:
        out.mkdir()
    match make:
        case "samples is a file":
            (out / "samples").touch()
        case "samples is a loop":
            (out / "samples").symlink_to("samples")
        case "lock is a folder":
            (out / ".sdcli-lock").mkdir()
    run = sdcli(*ONE, "--outdir", "out", code=7)
    assert "cannot write to out" in run.stderr
    assert "loading" not in run.stderr


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_journals_that_are_none(sdcli: Sdcli, tmp_path: Path, resume: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run-0000.jsonl").mkdir()
    (out / "run-0001.jsonl").symlink_to("nowhere")
    os.mkfifo(out / "run-0002.jsonl")
    (out / "run-0003.jsonl").write_text('{"kind": "run", "folder": "~nosuchuser/a", "settings": {}}\n')
    sdcli(*ONE, "--outdir", "out", *resume)
    assert (out / "samples" / "00000.png").exists()
    assert not (out / "nowhere").exists()
