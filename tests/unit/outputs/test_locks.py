"""Locks between processes: writing, claims on jobs, and their release when a process is killed."""

import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.outputs import locks
from sdcli.outputs.locks import FolderLocks

ONE, OTHER = (hashlib.sha256(name).hexdigest() for name in (b"one", b"other"))

PROCESS = """
import sys
from pathlib import Path
from sdcli.outputs.locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    command, _, key = line.strip().partition(" ")
    if command == "claim":
        print(locks.claim(key), flush=True)
    elif command == "free":
        print(locks.free(key), flush=True)
    else:
        with locks.writing():
            print("writing", flush=True)
            sys.stdin.readline()
        print("done", flush=True)
"""


class Process:
    """Another process that locks the folder on command."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, command: str) -> str:
        self.send(command)
        return self.answer()


@contextmanager
def another(folder: Path) -> Iterator[Process]:
    process = Process(folder)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


def test_a_job_is_claimed_by_one_process_until_it_is_released(tmp_path: Path) -> None:
    folder_locks = FolderLocks(tmp_path)
    with another(tmp_path) as process:
        assert folder_locks.claim(ONE)
        assert process.run(f"claim {ONE}") == "False"
        assert process.run(f"claim {OTHER}") == "True"
        assert not folder_locks.claim(OTHER)
        assert folder_locks.claim(ONE), "a process can claim its job again"
        folder_locks.free(ONE)
        assert process.run(f"claim {ONE}") == "True"
        assert not folder_locks.claim(ONE)
        process.run(f"free {ONE}")
        assert folder_locks.claim(ONE)
        assert not folder_locks.claim(OTHER)


def test_a_killed_process_releases_its_locks(tmp_path: Path) -> None:
    folder_locks = FolderLocks(tmp_path)
    with another(tmp_path) as process:
        assert process.run(f"claim {ONE}") == "True"
        assert process.run("write") == "writing"
        assert not folder_locks.claim(ONE)
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
        assert folder_locks.claim(ONE)
        with folder_locks.writing():
            pass


def test_one_process_writes_at_a_time_and_can_still_claim_jobs(tmp_path: Path) -> None:
    folder_locks = FolderLocks(tmp_path)
    entered = threading.Event()

    def write() -> None:
        with folder_locks.writing():
            entered.set()

    with another(tmp_path) as process:
        with folder_locks.writing():
            process.send("write")
            assert folder_locks.claim(ONE)
        assert process.answer() == "writing"
        assert folder_locks.claim(OTHER), "while another process writes"
        thread = threading.Thread(target=write)
        thread.start()
        assert not entered.wait(0.3)
        process.send("stop")
        assert process.answer() == "done"
        thread.join(20)
        assert entered.is_set()


def test_an_error_releases_the_lock_for_writing(tmp_path: Path) -> None:
    folder_locks = FolderLocks(tmp_path)
    with pytest.raises(ValueError, match="no"), folder_locks.writing():
        raise ValueError("no")
    with another(tmp_path) as process:
        assert process.run("write") == "writing"


def test_two_objects_for_one_folder_share_their_locks(tmp_path: Path) -> None:
    """Closing a file would release all locks of the process on it."""
    first = FolderLocks(tmp_path)
    assert first.claim(ONE)
    (tmp_path / "x").mkdir()
    second = FolderLocks(tmp_path / "x" / "..")
    assert second._file == first._file, "opened once"
    assert second.claim(OTHER)
    with second.writing():
        pass
    del second
    FolderLocks(tmp_path)
    with another(tmp_path) as process:
        assert process.run(f"claim {ONE}") == "False"
        assert process.run(f"claim {OTHER}") == "False"
        first.free(OTHER)
        assert process.run(f"claim {OTHER}") == "True"


def test_locks_of_two_folders_are_independent(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert FolderLocks(tmp_path / "a").claim(ONE)
    with another(tmp_path / "b") as process:
        assert process.run(f"claim {ONE}") == "True"


def test_a_folder_that_was_deleted_and_created_again_has_locks(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert FolderLocks(folder).claim(ONE)
    (folder / locks.NAME).unlink()
    folder.rmdir()
    folder.mkdir()
    again = FolderLocks(folder)
    with another(folder) as process:
        assert process.run(f"claim {ONE}") == "True"
        assert not again.claim(ONE)


def test_the_lock_file_is_hidden_and_empty(tmp_path: Path) -> None:
    folder_locks = FolderLocks(tmp_path)
    folder_locks.claim(ONE)
    with folder_locks.writing():
        pass
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(".")
    assert file.stat().st_size == 0


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_a_valid_offset_other_than_that_for_writing(digest: bytes) -> None:
    offset = locks._offset(digest.hex())
    assert locks._WRITER < offset < 2**63 - 1
