"""Locks between processes: who writes, who draws which job, and that the dead hold nothing."""

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

ONE, OTHER = (hashlib.sha256(word).hexdigest() for word in (b"one", b"other"))

PROCESS = """
import sys
from pathlib import Path
from sdcli.outputs.locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    what, _, key = line.strip().partition(" ")
    if what == "claim":
        print(locks.claim(key), flush=True)
    elif what == "free":
        print(locks.free(key), flush=True)
    else:
        with locks.writing():
            print("writing", flush=True)
            sys.stdin.readline()
        print("done", flush=True)
"""


class Process:
    """Another process with its own locks of a folder, which does as it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, words: str) -> str:
        self.tell(words)
        return self.answer()


@contextmanager
def another(folder: Path) -> Iterator[Process]:
    process = Process(folder)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


def test_a_job_is_one_process_s_until_it_is_freed(tmp_path: Path) -> None:
    ours = FolderLocks(tmp_path)
    with another(tmp_path) as process:
        assert ours.claim(ONE)
        assert process.ask(f"claim {ONE}") == "False"
        assert process.ask(f"claim {OTHER}") == "True"
        assert not ours.claim(OTHER)
        assert ours.claim(ONE), "one's own stays one's own"
        ours.free(ONE)
        assert process.ask(f"claim {ONE}") == "True"
        assert not ours.claim(ONE)
        process.ask(f"free {ONE}")
        assert ours.claim(ONE)
        assert not ours.claim(OTHER)


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    ours = FolderLocks(tmp_path)
    with another(tmp_path) as process:
        assert process.ask(f"claim {ONE}") == "True"
        assert process.ask("write") == "writing"
        assert not ours.claim(ONE)
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
        assert ours.claim(ONE)
        with ours.writing():
            pass


def test_one_process_writes_at_a_time_and_jobs_are_no_matter(tmp_path: Path) -> None:
    ours = FolderLocks(tmp_path)
    entered = threading.Event()

    def write() -> None:
        with ours.writing():
            entered.set()

    with another(tmp_path) as process:
        with ours.writing():
            process.tell("write")
            assert ours.claim(ONE)
        assert process.answer() == "writing"
        assert ours.claim(OTHER), "while another writes"
        thread = threading.Thread(target=write)
        thread.start()
        assert not entered.wait(0.3)
        process.tell("enough")
        assert process.answer() == "done"
        thread.join(20)
        assert entered.is_set()


def test_writing_ends_with_an_error_too(tmp_path: Path) -> None:
    ours = FolderLocks(tmp_path)
    with pytest.raises(ValueError, match="no"), ours.writing():
        raise ValueError("no")
    with another(tmp_path) as process:
        assert process.ask("write") == "writing"


def test_two_of_one_folder_in_one_process_keep_each_other_s_locks(tmp_path: Path) -> None:
    """Closing a file frees all that its process has locked in it."""
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
        assert process.ask(f"claim {ONE}") == "False"
        assert process.ask(f"claim {OTHER}") == "False"
        first.free(OTHER)
        assert process.ask(f"claim {OTHER}") == "True"


def test_folders_are_no_matter_to_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert FolderLocks(tmp_path / "a").claim(ONE)
    with another(tmp_path / "b") as process:
        assert process.ask(f"claim {ONE}") == "True"


def test_a_folder_made_again_has_locks_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert FolderLocks(folder).claim(ONE)
    (folder / locks.NAME).unlink()
    folder.rmdir()
    folder.mkdir()
    again = FolderLocks(folder)
    with another(folder) as process:
        assert process.ask(f"claim {ONE}") == "True"
        assert not again.claim(ONE)


def test_the_file_is_hidden_and_stays_empty(tmp_path: Path) -> None:
    ours = FolderLocks(tmp_path)
    ours.claim(ONE)
    with ours.writing():
        pass
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(".")
    assert file.stat().st_size == 0


@given(st.binary(min_size=32, max_size=32))
def test_any_key_has_a_place_that_files_have_and_that_is_not_the_writer_s(digest: bytes) -> None:
    place = locks._place(digest.hex())
    assert locks._WRITER < place < 2**63 - 1
