"""The output folder: the original's numbers, complete files, and nothing overwritten."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdcli.errors import OutputError
from sdcli.outputs import files
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Journal
from sdcli.records import SCHEMA, Key, Line, RunLine

START = RunLine(kind="run", settings={}, folder="/")
KEY = Key("0" * 64)
VERSIONED = {"schema": SCHEMA}


def test_numbers_start_at_the_number_of_entries(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    assert folder.save_sample(b"a", KEY) == tmp_path / "out/samples/00000.png"
    assert folder.save_sample(b"b", KEY) == tmp_path / "out/samples/00001.png"
    assert folder.save_grid(b"c", KEY) == tmp_path / "out/grid-0000.png"
    again = OutputFolder(tmp_path / "out")
    assert again.save_sample(b"d", KEY) == tmp_path / "out/samples/00002.png"
    assert again.save_grid(b"e", KEY) == tmp_path / "out/grid-0001.png"


def test_numbers_continue_across_formats(tmp_path: Path) -> None:
    OutputFolder(tmp_path).save_sample(b"a", KEY)
    folder = OutputFolder(tmp_path, ".webp")
    assert folder.save_sample(b"b", KEY).name == "00001.webp"
    assert folder.save_grid(b"c", KEY).name == "grid-0000.webp"


def test_other_files_count_as_in_the_original_but_hidden_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "samples/x.jpg").touch()
    (tmp_path / "samples/.sdcli-1").touch()
    folder = OutputFolder(tmp_path)
    assert folder.save_sample(b"a", KEY).name == "00001.png"
    assert folder.save_grid(b"a", KEY).name == "grid-0001.png"


def test_files_that_the_original_does_not_write_are_not_counted(tmp_path: Path) -> None:
    """Journals, galleries and locks are not counted; files with similar names are."""
    folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
    folder.new_gallery()
    folder.save_sample(b"a", Key("a"))
    folder.save_grid(b"a", Key("b"))
    (tmp_path / "run-10000.jsonl").touch()
    (tmp_path / "gallery-0007.html").touch()
    assert {".sdcli-lock", "run-0000.jsonl", "gallery-0000.html"} <= {path.name for path in tmp_path.iterdir()}
    folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
    assert folder.save_sample(b"a", Key("c")).name == "00001.png"
    assert folder.save_grid(b"a", Key("d")).name == "grid-0001.png"
    for name in ("my-run-0000.jsonl", "gallery.html"):
        (tmp_path / name).touch()
    assert OutputFolder(tmp_path).save_grid(b"a", KEY).name == "grid-0004.png"


def test_galleries_have_their_own_numbers(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.save_grid(b"a", KEY)
    assert [folder.new_gallery().name for _ in range(2)] == ["gallery-0000.html", "gallery-0001.html"]
    (tmp_path / "gallery-0000.html").unlink()
    assert OutputFolder(tmp_path).new_gallery().name == "gallery-0002.html"


class TestNamed:
    """Files with a given name."""

    def test_a_name_may_contain_folders(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        assert folder.save_sample(b"a", KEY, "cats/black/one.png") == tmp_path / "samples/cats/black/one.png"
        assert folder.save_sample(b"b", KEY, "cats/two.webp").read_bytes() == b"b"
        assert folder.save_grid(b"c", KEY, "sheet.png") == tmp_path / "sheet.png"
        assert not [path for path in tmp_path.rglob(".sdcli-*") if path.name != ".sdcli-lock"]

    def test_a_number_is_appended_to_a_name_that_is_taken(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        paths = [folder.save_sample(b"%d" % number, KEY, "a/one.x.png") for number in range(3)]
        assert [path.name for path in paths] == ["one.x.png", "one.x-2.png", "one.x-3.png"]
        assert [path.read_bytes() for path in paths] == [b"0", b"1", b"2"]
        (tmp_path / "samples/link.png").symlink_to("nowhere")
        assert folder.save_sample(b"a", KEY, "link.png").name == "link-2.png", "a broken link has the name, too"

    def test_numbers_skip_names_that_are_taken(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        folder.save_sample(b"named", KEY, "00001.png")
        assert [folder.save_sample(b"a", KEY).name for _ in range(2)] == ["00000.png", "00002.png"]
        assert (tmp_path / "samples/00001.png").read_bytes() == b"named"

    def test_a_file_cannot_be_used_as_a_folder(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
        folder.save_sample(b"a", Key("a"), "one.png")
        before = (tmp_path / "run-0000.jsonl").read_bytes()
        with pytest.raises(OutputError, match="cannot write"):
            folder.save_sample(b"b", Key("b"), "one.png/two.png")
        assert (tmp_path / "run-0000.jsonl").read_bytes() == before


def lines_of(folder: Path, number: int = 0) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / f"run-{number:04}.jsonl").read_text().splitlines()]


class TestJournal:
    def test_every_file_has_a_line(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
        folder.save_sample(b"one", Key("a"), index=0)
        folder.save_sample(b"two", Key("b"), "cats/two.png", index=1)
        folder.note(Line.new("withheld", Key("c")))
        folder.save_grid(b"sheet", Key("d"))
        run, *lines = lines_of(tmp_path)
        assert run["kind"] == "run"
        digests = [hashlib.sha256(data).hexdigest() for data in (b"one", b"two", b"sheet")]
        assert lines == [
            {"kind": "picture", **VERSIONED, "file": "samples/00000.png", "key": "a", "index": 0, "sha256": digests[0]},
            {
                "kind": "picture",
                **VERSIONED,
                "file": "samples/cats/two.png",
                "key": "b",
                "index": 1,
                "sha256": digests[1],
            },
            {"kind": "withheld", **VERSIONED, "key": "c"},
            {"kind": "grid", **VERSIONED, "file": "grid-0000.png", "key": "d", "sha256": digests[2]},
        ]

    def test_without_a_journal_no_line_is_written(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        folder.save_sample(b"one", Key("a"))
        folder.note(Line.new("withheld", Key("c")))
        assert not list(tmp_path.glob("*.jsonl"))

    def test_the_line_is_written_before_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that is killed between the two leaves no file without a line."""
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
        written: list[str] = []
        link = os.link

        def watched(source: Path, path: Path) -> None:
            written.append(str(lines_of(tmp_path)[-1]["file"]))
            link(source, path)

        monkeypatch.setattr(os, "link", watched)
        folder.save_sample(b"one", Key("a"))
        assert written == ["samples/00000.png"]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_file_that_cannot_be_named_leaves_no_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
    ) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
        if not first:
            folder.save_sample(b"one", Key("a"))

        def failing(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(os, "link", failing)
            with pytest.raises(OutputError, match="cannot write"):
                folder.save_sample(b"two", Key("b"))
        assert [line.get("key") for line in lines_of(tmp_path)] == ([] if first else [None, "a"])
        assert [path.name for path in folder.samples.iterdir()] == ([] if first else ["00000.png"])
        folder.save_sample(b"three", Key("c"))
        assert [line.get("key") for line in lines_of(tmp_path)] == ([None, "c"] if first else [None, "a", "c"])

    def test_a_program_without_locks_that_takes_the_name_leaves_no_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The name is taken between the check and the link; the file gets the next number."""
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
        link = os.link

        def raced(source: Path, path: Path) -> None:
            if path.name == "00000.png":
                path.write_bytes(b"other")
            link(source, path)

        monkeypatch.setattr(os, "link", raced)
        assert folder.save_sample(b"this", Key("a")).name == "00001.png"
        assert (folder.samples / "00000.png").read_bytes() == b"other"
        assert [line.get("file") for line in lines_of(tmp_path)] == [None, "samples/00001.png"]

    def test_a_journal_that_cannot_be_written_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
        folder.save_sample(b"one", Key("a"))
        (tmp_path / "run-0000.jsonl").unlink()
        (tmp_path / "run-0000.jsonl").mkdir()
        with pytest.raises(OutputError) as caught:
            folder.save_sample(b"two", Key("b"))
        assert caught.value.exit_code == 7
        with pytest.raises(OutputError):
            folder.note(Line.new("withheld", Key("c")))
        assert [path.name for path in folder.samples.iterdir()] == ["00000.png"]


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from sdcli.outputs import folder as module
from sdcli.records import Key
real = module.written_aside
@contextmanager
def held(*arguments):
    with real(*arguments) as aside:
        print(aside.name, flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
        yield aside
module.written_aside = held
module.OutputFolder(Path(sys.argv[1])).save_sample(b"a", Key("0"))
"""


def test_incomplete_files_of_killed_runs_are_removed_and_those_of_others_are_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        aside = tmp_path / "samples" / writer.stdout.readline().strip()
        (tmp_path / "samples/.sdcli-one-0123").touch()
        OutputFolder(tmp_path)
        assert aside.exists(), "its process is alive"
        writer.stdin.write("\n")
    assert writer.returncode == -signal.SIGKILL
    OutputFolder(tmp_path)
    assert not aside.exists()
    assert (tmp_path / "samples/.sdcli-one-0123").exists(), "another command wrote it, without a lock"
    OutputFolder(tmp_path).save_sample(b"a", KEY)
    assert (tmp_path / "samples/00000.png").exists()


def test_a_file_that_another_process_finishes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / f"samples/.sdcli-{'0' * 32}").touch()
    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path: (real(path), real(path)))
    OutputFolder(tmp_path).save_sample(b"a", KEY)


SAVING = """
import sys
from pathlib import Path
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Journal
from sdcli.records import Key, RunLine
start = RunLine(kind="run", settings={}, folder="/")
path, who, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
folder = OutputFolder(path, journal=Journal(path, start, resume=resume))
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    name = "same.png" if number % 2 else None
    print(folder.save_sample(f"{who} {number}".encode(), Key(f"{who} {number}"), name), flush=True)
"""


@pytest.mark.parametrize("resume", ["resume", "new"])
def test_two_processes_never_get_the_same_name_and_journals_list_every_file(tmp_path: Path, resume: str) -> None:
    OutputFolder(tmp_path, journal=Journal(tmp_path, START)).save_sample(b"first", Key("first"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tmp_path), who, resume],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("one", "other")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    saved = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    paths = [Path(path) for paths in saved for path in paths]
    assert len(set(paths)) == 100
    written = {
        who + f" {number}": path
        for who, paths in zip(("one", "other"), saved, strict=True)
        for number, path in enumerate(paths)
    }
    assert all(Path(path).read_bytes() == what.encode() for what, path in written.items())
    journals = sorted(tmp_path.glob("run-*.jsonl"))
    assert len(journals) == (1 if resume == "resume" else 3)
    lines = [json.loads(line) for path in journals for line in path.read_text().splitlines()]
    listed = {line["key"]: line for line in lines if line["kind"] == "picture"}
    assert listed.keys() == {"first", *written}
    assert [line["kind"] for line in lines].count("run") == 3
    for what, path in written.items():
        assert tmp_path / listed[what]["file"] == Path(path)
        assert listed[what]["sha256"] == hashlib.sha256(what.encode()).hexdigest()
    assert len(list((tmp_path / "samples").iterdir())) == 101, "no hidden file is left"


def test_a_gap_in_the_numbers_is_not_filled(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    for data in (b"a", b"b", b"c"):
        folder.save_sample(data, KEY)
    (tmp_path / "samples/00000.png").unlink()
    assert OutputFolder(tmp_path).save_sample(b"new", KEY).name == "00003.png"
    assert (tmp_path / "samples/00002.png").read_bytes() == b"c"


@pytest.mark.parametrize("links", [True, False])
def test_many_threads_never_get_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_links)

    def write(who: int) -> list[tuple[Path, bytes]]:
        folder = OutputFolder(tmp_path)
        return [(folder.save_sample(data, KEY), data) for data in (b"%d-%d" % (who, n) for n in range(20))]

    with ThreadPoolExecutor(8) as pool:
        written = [entry for entries in pool.map(write, range(8)) for entry in entries]
    assert len({path for path, _ in written}) == 160
    assert all(path.read_bytes() == data for path, data in written)
    assert len(list((tmp_path / "samples").iterdir())) == 160, "no hidden file is left"


def test_a_full_disk_leaves_no_incomplete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder(tmp_path)
    folder.save_sample(b"kept", KEY)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        folder.save_sample(b"lost", KEY)
    assert caught.value.exit_code == 7
    assert "Free some space" in caught.value.fix
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["00000.png"]


def test_an_outdir_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        OutputFolder(tmp_path / "file")


def no_hard_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def no_renameat2(*_: object) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture(params=["renameat2", "rename"])
def without_hard_links(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A file system such as exFAT; "rename": one that cannot rename without replacing, either."""
    monkeypatch.setattr(os, "link", no_hard_links)
    if request.param == "rename":
        monkeypatch.setattr(files, "_rename_without_replacing", no_renameat2)


@pytest.mark.usefixtures("without_hard_links")
class TestWithoutHardLinks:
    def test_a_name_that_is_taken_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "new").write_bytes(b"new")
        for name in ("old", "link"):
            (tmp_path / "old").write_bytes(b"old")
            (tmp_path / "link").unlink(missing_ok=True)
            (tmp_path / "link").symlink_to("nowhere")
            with pytest.raises(FileExistsError):
                files.claim_name(tmp_path / "new", tmp_path / name)
        assert (tmp_path / "old").read_bytes() == b"old"
        assert (tmp_path / "new").read_bytes() == b"new"
        files.claim_name(tmp_path / "new", tmp_path / "free")
        assert (tmp_path / "free").read_bytes() == b"new"

    def test_a_kill_leaves_no_empty_file_under_the_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed at the last moment before the file has its name."""

        class Killed(BaseException):
            pass

        def kill(*_: object) -> bool:
            raise Killed

        monkeypatch.setattr(files, "_rename_without_replacing", kill)
        for save in (
            lambda: files.write_new(tmp_path / "one.png", b"data"),
            lambda: OutputFolder(tmp_path).save_sample(b"data", KEY),
        ):
            with pytest.raises(Killed):
                save()
        assert [path.name for path in tmp_path.rglob("*.png")] == []

    def test_threads_never_get_the_same_name(self, tmp_path: Path) -> None:
        def write(who: int) -> bool:
            try:
                files.write_new(tmp_path / "one.png", b"%d" % who)
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(write, range(32))) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_each_file_is_complete_in_the_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`samples/`, or a folder in it, may be a link to another disk, where no file can be moved from here."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/samples").symlink_to(tmp_path / "disk")
    link = os.link

    def between_disks(source: Path, path: Path) -> None:
        if source.parent.resolve() != path.parent.resolve():
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, path)

    monkeypatch.setattr(os, "link", between_disks)
    folder = OutputFolder(tmp_path / "out")
    folder.save_grid(b"grid", KEY)
    folder.save_sample(b"one", KEY)
    folder.save_sample(b"cat", KEY, "cats/one.png")
    assert (tmp_path / "out/grid-0000.png").read_bytes() == b"grid"
    assert (tmp_path / "disk/cats/one.png").read_bytes() == b"cat"


def test_incomplete_files_are_removed_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "samples/cats").mkdir(parents=True)
    left = [tmp_path / folder / f".sdcli-{'0' * 32}" for folder in ("", "samples", "samples/cats")]
    for path in left:
        path.touch()
    OutputFolder(tmp_path)
    assert [path for path in left if path.exists()] == []


def test_a_name_is_on_the_disk_before_its_path_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the file has its name its folder is synced, and so is the folder of each new folder."""
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            events.append(f"sync {path.relative_to(tmp_path)}")
        fsync(descriptor)

    def linked(source: Path, path: Path) -> None:
        link(source, path)
        events.append(f"name {path.relative_to(tmp_path)}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    folder = OutputFolder(tmp_path / "out", journal=Journal(tmp_path / "out", START))
    assert events == ["sync out", "sync ."]
    events.clear()
    folder.save_sample(b"a", KEY, "cats/one.png")
    assert events == ["sync out/samples", "sync out", "name out/samples/cats/one.png", "sync out/samples/cats"]
    events.clear()
    folder.save_grid(b"a", KEY)
    files.write_new(tmp_path / "one.png", b"a")
    assert events == ["name out/grid-0000.png", "sync out", "name one.png", "sync ."]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def folders_fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", folders_fail)
    if number == errno.EINVAL:
        files.write_new(tmp_path / "one.png", b"a")
    else:
        with pytest.raises(OSError, match="Input/output"):
            files.write_new(tmp_path / "one.png", b"a")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_second_start_keeps_what_the_first_is_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    (tmp_path / "samples").mkdir()
    fresh, old = (tmp_path / f"samples/.sdcli-{digit * 32}" for digit in "01")
    for path in (fresh, old):
        path.touch()
    os.utime(old, (0, time.time() - 2 * 3600))
    folder = OutputFolder(tmp_path, journal=Journal(tmp_path, START))
    assert fresh.exists()
    assert not old.exists()
    assert folder.save_sample(b"a", KEY).read_bytes() == b"a"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_lock_file_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    lock, victim = tmp_path / "out/.sdcli-lock", tmp_path / "victim"
    lock.parent.mkdir()
    {"link": lambda: lock.symlink_to(victim), "fifo": lambda: os.mkfifo(lock), "folder": lock.mkdir}[kind]()
    with pytest.raises(OutputError, match="cannot write") as caught:
        OutputFolder(lock.parent)
    assert "not a regular file" in caught.value.why
    assert not victim.exists()
