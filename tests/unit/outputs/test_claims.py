"""Claims: which jobs of a run are still to be generated, and by which process."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdcli.outputs.claims import Claims
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Journal
from sdcli.records import Key, Keys, Line, RunLine
from sdcli.settings import Settings
from tests.jobs import job

START = RunLine(kind="run", settings={}, folder="/")
KEYS = [Keys(Settings.of()).next(job(index=index, prompt=f"cat {index}")) for index in range(4)]

HOLDER = """
import sys
from pathlib import Path
from sdcli.outputs.locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print(all([locks.claim(key) for key in sys.argv[2:]]), flush=True)
sys.stdin.read()
"""


@contextmanager
def claimed_elsewhere(folder: OutputFolder, *keys: Key) -> Iterator[None]:
    """Another process claims these jobs; an error if it cannot have them all."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path), *(key.key for key in keys)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield
    finally:
        process.communicate("")


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out", journal=Journal(tmp_path / "out", START))


def saved(line: object) -> tuple[str, str | None, str | None]:
    assert isinstance(line, Line)
    return line.kind, line.file, line.sha256


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_run_that_is_not_resumed_claims_every_job(folder: OutputFolder) -> None:
    claims = Claims(None)
    folder.save_sample(b"a", KEYS[0])
    assert claims.claim(KEYS) == ["claimed"] * 4
    with claimed_elsewhere(folder, KEYS[1]):
        assert claims.claim(KEYS) == ["claimed"] * 4
    claims.release(KEYS)
    assert claims.find(KEYS[0]) is None
    assert claims.name(KEYS[0]) is None


def test_finished_and_claimed_jobs_of_a_resumed_run(folder: OutputFolder) -> None:
    folder.save_sample(b"a", KEYS[0], "cat")
    folder.note(Line.new("withheld", KEYS[3]))
    claims = Claims(folder)
    with claimed_elsewhere(folder, KEYS[1]):
        finished, elsewhere, claimed, withheld = claims.claim(KEYS)
    assert saved(finished) == ("picture", "samples/cat", digest(b"a"))
    assert (elsewhere, claimed) == ("elsewhere", "claimed")
    assert saved(withheld) == ("withheld", None, None)
    with claimed_elsewhere(folder, KEYS[0], KEYS[1], KEYS[3]):
        assert claims.claim(KEYS[2:3]) == ["claimed"], "only this one is closed to other processes"
    claims.release(KEYS[2:3])
    with claimed_elsewhere(folder, *KEYS):
        assert claims.claim(KEYS[1:3]) == ["elsewhere", "elsewhere"]


def test_claimed_jobs_are_closed_to_other_processes(folder: OutputFolder) -> None:
    Claims(folder).claim(KEYS)
    other = subprocess.run(
        [sys.executable, "-c", HOLDER, str(folder.path), KEYS[0].key],
        input="",
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == "False\n"


def test_an_image_that_is_gone_or_changed_is_generated_again_under_its_name(folder: OutputFolder) -> None:
    for name, key in zip("abc", KEYS, strict=False):
        folder.save_sample(name.encode(), key, name)
    (folder.samples / "a").unlink()
    (folder.samples / "b").write_bytes(b"changed")
    claims = Claims(folder)
    assert [state == "claimed" for state in claims.claim(KEYS)] == [True, True, False, True]
    assert [claims.name(key) for key in KEYS] == ["samples/a", "samples/b", "samples/c", None]


def test_a_job_that_another_process_finished_meanwhile_is_found(folder: OutputFolder) -> None:
    claims = Claims(folder)
    # Another run with the same images and its own journal.
    other = OutputFolder(folder.path, journal=Journal(folder.path, START))
    other.save_sample(b"a", KEYS[0], "a")
    finished, claimed = claims.claim(KEYS[:2])
    assert saved(finished) == ("picture", "samples/a", digest(b"a"))
    assert claimed == "claimed"
    with claimed_elsewhere(folder, KEYS[0]):
        pass  # the claim was released again
    other.save_sample(b"b", KEYS[2], "b")
    assert isinstance(claims.claim([KEYS[2]])[0], Line)


def test_a_line_that_is_removed_does_not_hide_the_lines_after_it(folder: OutputFolder) -> None:
    """A journal gets shorter if a file does not get its name. A reader must not continue after the removed line."""
    claims = Claims(folder)
    journal = folder.journal
    assert journal is not None
    states: list[object] = []
    with folder.locks.writing():
        journal.append(Line.new("picture", KEYS[0], file="samples/gone", sha256="0", more="x" * 50))
        # Reads while the writer is between its line and its file.
        reader = threading.Thread(target=lambda: states.append(claims.claim([KEYS[3]])))
        reader.start()
        reader.join(0.3)
        journal.remove_last()
    reader.join(20)
    assert states == [["claimed"]]
    folder.save_sample(b"a", KEYS[1], "a")
    assert isinstance(claims.claim([KEYS[1]])[0], Line)


def test_pages_of_the_grid_are_found(folder: OutputFolder) -> None:
    page = Key("f" * 64)
    folder.save_grid(b"grid", page)
    claims = Claims(folder)
    assert saved(claims.find(page)) == ("grid", "grid-0000.png", digest(b"grid"))
    assert claims.find(Key("e" * 64)) is None
    assert claims.name(page) == "grid-0000.png"


def test_lines_with_the_key_of_schema_1_are_found(folder: OutputFolder) -> None:
    folder.save_sample(b"a", Key("a" * 64), "cat")
    claims = Claims(folder)
    (line,) = claims.claim([Key("b" * 64, "a" * 64)])
    assert saved(line) == ("picture", "samples/cat", digest(b"a"))
    assert claims.name(Key("b" * 64, "a" * 64)) == "samples/cat"
