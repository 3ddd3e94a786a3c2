"""What of a run is left to draw."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdcli.jobs import Job, NoisePlace
from sdcli.outputs.claims import Work
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Entry, Journal
from sdcli.settings import Settings

RESUMED = Settings.of(resume="out")

HOLDER = """
import sys
from pathlib import Path
from sdcli.outputs.locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print(all([locks.claim(key) for key in sys.argv[2:]]), flush=True)
sys.stdin.read()
"""


def job(index: int, **changes: object) -> Job:
    values = {
        "prompt": f"cat {index}", "negative_prompt": "", "seed": 7, "rng": "cuda", "noise": NoisePlace(), "height": 64,
        "width": 64, "steps": 20, "sampler": "plms", "scale": 7.5, "eta": 0.0, "precision": "full", "model": "builtin",
        "model_hash": "0", "index": index,
    }  # fmt: skip
    return Job.model_validate(values | changes)


JOBS = [job(index) for index in range(4)]


@contextmanager
def drawn_elsewhere(folder: OutputFolder, *keys: str) -> Iterator[None]:
    """Another process has these jobs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path), *keys],
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
    return OutputFolder(tmp_path / "out", journal=Journal(tmp_path / "out", {}))


@pytest.mark.parametrize("saves", [True, False])
def test_without_resume_all_is_ours(folder: OutputFolder, saves: bool) -> None:
    work = Work(Settings.of(), folder if saves else None)
    keys = work.keys(JOBS)
    folder.save_sample(b"a", key=keys[0])
    assert work.take(keys) == ["ours"] * 4
    with drawn_elsewhere(folder, keys[1]):
        assert work.take(keys) == ["ours"] * 4
    work.release(keys, ["ours"] * 4)
    assert work.find(keys[0]) is None
    assert work.name(keys[0]) is None


def test_with_nothing_saved_all_is_ours() -> None:
    work = Work(RESUMED, None)
    keys = work.keys(JOBS)
    assert work.take(keys) == ["ours"] * 4
    work.release(keys, ["ours"] * 4)


def test_done_ours_and_theirs(folder: OutputFolder) -> None:
    keys = Work(RESUMED, folder).keys(JOBS)
    folder.save_sample(b"a", "cat", key=keys[0])
    folder.note("withheld", key=keys[3])
    work = Work(RESUMED, folder)
    with drawn_elsewhere(folder, keys[1]):
        states = work.take(work.keys(JOBS))
    done = Entry("picture", "samples/cat", hashlib.sha256(b"a").hexdigest())
    assert states == [done, "theirs", "ours", Entry("withheld")]
    with drawn_elsewhere(folder, keys[0], keys[1], keys[3]):
        assert work.take(keys[2:3]) == ["ours"], "only that was kept"
    work.release(keys, states)
    with drawn_elsewhere(folder, *keys):
        assert work.take(keys) == [done, "theirs", "theirs", Entry("withheld")]


def test_jobs_are_given_back_however_their_drawing_ends(folder: OutputFolder) -> None:
    work = Work(RESUMED, folder)
    with pytest.raises(RuntimeError), work.taken(JOBS) as taken:
        assert [(job, state) for job, _, state in taken] == [(job, "ours") for job in JOBS]
        raise RuntimeError
    with drawn_elsewhere(folder, *(key for _, key, _ in taken)):
        pass  # it could have them all


def test_what_is_ours_is_kept_from_others(folder: OutputFolder) -> None:
    work = Work(RESUMED, folder)
    keys = work.keys(JOBS)
    work.take(keys)
    claimed = subprocess.run(
        [sys.executable, "-c", HOLDER, str(folder.path), keys[0]], input="", capture_output=True, text=True, check=True
    )
    assert claimed.stdout == "False\n"


def test_a_image_that_is_gone_or_changed_is_drawn_again_under_its_name(folder: OutputFolder) -> None:
    keys = Work(RESUMED, folder).keys(JOBS)
    for name, key in zip("abc", keys, strict=False):
        folder.save_sample(name.encode(), name, key=key)
    (folder.samples / "a").unlink()
    (folder.samples / "b").write_bytes(b"changed")
    work = Work(RESUMED, folder)
    assert [state == "ours" for state in work.take(keys)] == [True, True, False, True]
    assert [work.name(key) for key in keys] == ["samples/a", "samples/b", "samples/c", None]


def test_what_another_finished_since_the_last_look_is_seen(folder: OutputFolder) -> None:
    work = Work(RESUMED, folder)
    keys = work.keys(JOBS)
    # Another run of the same images, with a record of its own.
    other = OutputFolder(folder.path, journal=Journal(folder.path, {}))
    other.save_sample(b"a", "a", key=keys[0])
    states = work.take(keys[:2])
    assert states == [Entry("picture", "samples/a", hashlib.sha256(b"a").hexdigest()), "ours"]
    with drawn_elsewhere(folder, keys[0]):
        pass  # its claim was given back, or this could not be had
    other.save_sample(b"b", "b", key=keys[2])
    assert isinstance(work.take([keys[2]])[0], Entry)


def test_a_line_that_was_taken_back_hides_none_of_those_after_it(folder: OutputFolder) -> None:
    """A record shrinks when a file does not get its name; whoever had read that line goes on at the right place."""
    work = Work(RESUMED, folder)
    keys = work.keys(JOBS)
    journal = folder.journal
    assert journal is not None
    read: list[object] = []
    with folder.locks.writing():
        journal.append("picture", key=keys[0], file="samples/gone", sha256="0", more="x" * 50)
        # Looks while the other is between its line and its file.
        looking = threading.Thread(target=lambda: read.append(work.take([keys[3]])))
        looking.start()
        looking.join(0.3)
        journal.take_back()
    looking.join(20)
    assert read == [["ours"]]
    folder.save_sample(b"a", "a", key=keys[1])
    assert isinstance(work.take([keys[1]])[0], Entry)


def test_pages_of_the_grid_are_found(folder: OutputFolder) -> None:
    folder.save_grid(b"grid", key="f" * 64)
    work = Work(RESUMED, folder)
    assert work.find("f" * 64) == Entry("grid", "grid-0000.png", hashlib.sha256(b"grid").hexdigest())
    assert work.find("e" * 64) is None
    assert work.name("f" * 64) == "grid-0000.png"
