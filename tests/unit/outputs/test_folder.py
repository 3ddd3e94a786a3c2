"""The output folder: the original's numbers, and nothing ever overwritten or half there."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdcli.errors import OutputError
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Journal


def test_names_begin_at_what_the_folder_holds(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    assert folder.save_sample(b"a") == tmp_path / "out/samples/00000.png"
    assert folder.save_sample(b"b") == tmp_path / "out/samples/00001.png"
    assert folder.save_grid(b"c") == tmp_path / "out/grid-0000.png"
    again = OutputFolder(tmp_path / "out")
    assert again.save_sample(b"d") == tmp_path / "out/samples/00002.png"
    assert again.save_grid(b"e") == tmp_path / "out/grid-0001.png"


def test_numbers_go_on_over_formats(tmp_path: Path) -> None:
    OutputFolder(tmp_path).save_sample(b"a")
    folder = OutputFolder(tmp_path, ".webp")
    assert folder.save_sample(b"b").name == "00001.webp"
    assert folder.save_grid(b"c").name == "grid-0000.webp"


def test_other_entries_count_as_in_the_original_and_hidden_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "samples/x.jpg").touch()
    (tmp_path / "samples/.sdcli-1").touch()
    folder = OutputFolder(tmp_path)
    assert folder.save_sample(b"a").name == "00001.png"
    assert folder.save_grid(b"a").name == "grid-0001.png"


def test_what_is_not_of_the_original_is_not_counted(tmp_path: Path) -> None:
    """Records, galleries, locks and hidden files; a page or a record of another name is."""
    folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
    folder.new_gallery()
    folder.save_sample(b"a", key="a")
    folder.save_grid(b"a", key="b")
    (tmp_path / "run-10000.jsonl").touch()
    (tmp_path / "gallery-0007.html").touch()
    assert {".sdcli-lock", "run-0000.jsonl", "gallery-0000.html"} <= {path.name for path in tmp_path.iterdir()}
    folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
    assert folder.save_sample(b"a", key="c").name == "00001.png"
    assert folder.save_grid(b"a", key="d").name == "grid-0001.png"
    for name in ("my-run-0000.jsonl", "gallery.html"):
        (tmp_path / name).touch()
    assert OutputFolder(tmp_path).save_grid(b"a").name == "grid-0004.png"


def test_galleries_are_numbered_on_their_own(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.save_grid(b"a")
    assert [folder.new_gallery().name for _ in range(2)] == ["gallery-0000.html", "gallery-0001.html"]
    (tmp_path / "gallery-0000.html").unlink()
    assert OutputFolder(tmp_path).new_gallery().name == "gallery-0002.html"


class TestNamed:
    """Files with a name of their own."""

    def test_they_may_lie_in_folders(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        assert folder.save_sample(b"a", "cats/black/one.png") == tmp_path / "samples/cats/black/one.png"
        assert folder.save_sample(b"b", "cats/two.webp").read_bytes() == b"b"
        assert folder.save_grid(b"c", "sheet.png") == tmp_path / "sheet.png"
        assert not [path for path in tmp_path.rglob(".sdcli-*") if path.name != ".sdcli-lock"]

    def test_where_one_is_taken_a_number_is_put_to_it(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        paths = [folder.save_sample(b"%d" % number, "a/one.x.png") for number in range(3)]
        assert [path.name for path in paths] == ["one.x.png", "one.x-2.png", "one.x-3.png"]
        assert [path.read_bytes() for path in paths] == [b"0", b"1", b"2"]
        (tmp_path / "samples/link.png").symlink_to("nowhere")
        assert folder.save_sample(b"a", "link.png").name == "link-2.png", "a link to nothing has the name too"

    def test_numbers_step_over_them(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        folder.save_sample(b"named", "00001.png")
        assert [folder.save_sample(b"a").name for _ in range(2)] == ["00000.png", "00002.png"]
        assert (tmp_path / "samples/00001.png").read_bytes() == b"named"

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
        folder.save_sample(b"a", "one.png", key="a")
        before = (tmp_path / "run-0000.jsonl").read_bytes()
        with pytest.raises(OutputError, match="cannot write"):
            folder.save_sample(b"b", "one.png/two.png", key="b")
        assert (tmp_path / "run-0000.jsonl").read_bytes() == before


def record_of(folder: Path, number: int = 0) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / f"run-{number:04}.jsonl").read_text().splitlines()]


class TestRecord:
    def test_every_file_has_a_line(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {"settings": {}}))
        folder.save_sample(b"one", key="a", index=0)
        folder.save_sample(b"two", "cats/two.png", key="b", index=1)
        folder.note("withheld", key="c")
        folder.save_grid(b"sheet", key="d")
        run, *lines = record_of(tmp_path)
        assert run["kind"] == "run"
        digests = [hashlib.sha256(data).hexdigest() for data in (b"one", b"two", b"sheet")]
        assert lines == [
            {"kind": "picture", "file": "samples/00000.png", "key": "a", "index": 0, "sha256": digests[0]},
            {"kind": "picture", "file": "samples/cats/two.png", "key": "b", "index": 1, "sha256": digests[1]},
            {"kind": "withheld", "key": "c"},
            {"kind": "grid", "file": "grid-0000.png", "key": "d", "sha256": digests[2]},
        ]

    def test_without_a_record_none_is_written(self, tmp_path: Path) -> None:
        folder = OutputFolder(tmp_path)
        folder.save_sample(b"one", key="a")
        folder.note("withheld", key="c")
        assert not list(tmp_path.glob("*.jsonl"))

    def test_the_line_is_there_before_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a run that is killed between the two leaves no file without one."""
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
        told: list[str] = []
        link = os.link

        def watched(source: Path, path: Path) -> None:
            told.append(str(record_of(tmp_path)[-1]["file"]))
            link(source, path)

        monkeypatch.setattr(os, "link", watched)
        folder.save_sample(b"one", key="a")
        assert told == ["samples/00000.png"]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_file_that_gets_no_name_leaves_no_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
    ) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
        if not first:
            folder.save_sample(b"one", key="a")

        def failing(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(os, "link", failing)
            with pytest.raises(OutputError, match="cannot write"):
                folder.save_sample(b"two", key="b")
        assert [line.get("key") for line in record_of(tmp_path)] == ([] if first else [None, "a"])
        assert [path.name for path in folder.samples.iterdir()] == ([] if first else ["00000.png"])
        folder.save_sample(b"three", key="c")
        assert [line.get("key") for line in record_of(tmp_path)] == ([None, "c"] if first else [None, "a", "c"])

    def test_a_stranger_who_is_faster_costs_a_number_and_no_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One who knows of no locks: the name is taken between the look and the link."""
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
        link = os.link

        def raced(source: Path, path: Path) -> None:
            if path.name == "00000.png":
                path.write_bytes(b"theirs")
            link(source, path)

        monkeypatch.setattr(os, "link", raced)
        assert folder.save_sample(b"ours", key="a").name == "00001.png"
        assert (folder.samples / "00000.png").read_bytes() == b"theirs"
        assert [line.get("file") for line in record_of(tmp_path)] == [None, "samples/00001.png"]

    def test_a_record_that_cannot_be_written_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = OutputFolder(tmp_path, journal=Journal(tmp_path, {}))
        folder.save_sample(b"one", key="a")
        (tmp_path / "run-0000.jsonl").unlink()
        (tmp_path / "run-0000.jsonl").mkdir()
        with pytest.raises(OutputError) as caught:
            folder.save_sample(b"two", key="b")
        assert caught.value.exit_code == 7
        with pytest.raises(OutputError):
            folder.note("withheld", key="c")
        assert [path.name for path in folder.samples.iterdir()] == ["00000.png"]


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from sdcli.outputs import folder as room
real = room.written_aside
@contextmanager
def held(*arguments):
    with real(*arguments) as aside:
        print(aside.name, flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
        yield aside
room.written_aside = held
room.OutputFolder(Path(sys.argv[1])).save_sample(b"a")
"""


def test_what_a_killed_run_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        aside = tmp_path / "samples" / writer.stdout.readline().strip()
        (tmp_path / "samples/.sdcli-one-0123").touch()
        OutputFolder(tmp_path)
        assert aside.exists(), "its writer lives"
        writer.stdin.write("\n")
    assert writer.returncode == -signal.SIGKILL
    OutputFolder(tmp_path)
    assert not aside.exists()
    assert (tmp_path / "samples/.sdcli-one-0123").exists(), "that of another command, which holds no lock"
    OutputFolder(tmp_path).save_sample(b"a")
    assert (tmp_path / "samples/00000.png").exists()


def test_a_file_that_another_finishes_while_this_one_looks_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / f"samples/.sdcli-{'0' * 32}").touch()
    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path: (real(path), real(path)))
    OutputFolder(tmp_path).save_sample(b"a")


SAVING = """
import sys
from pathlib import Path
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Journal
path, who, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
folder = OutputFolder(path, journal=Journal(path, {"settings": {}, "folder": "/"}, resume=resume))
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    name = "same.png" if number % 2 else None
    print(folder.save_sample(f"{who} {number}".encode(), name, key=f"{who} {number}"), flush=True)
"""


@pytest.mark.parametrize("resume", ["resume", "new"])
def test_two_processes_share_no_name_and_the_record_has_all(tmp_path: Path, resume: str) -> None:
    OutputFolder(tmp_path, journal=Journal(tmp_path, {})).save_sample(b"first", key="first")
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
    records = sorted(tmp_path.glob("run-*.jsonl"))
    assert len(records) == (1 if resume == "resume" else 3)
    lines = [json.loads(line) for path in records for line in path.read_text().splitlines()]
    told = {line["key"]: line for line in lines if line["kind"] == "picture"}
    assert told.keys() == {"first", *written}
    assert [line["kind"] for line in lines].count("run") == 3
    for what, path in written.items():
        assert tmp_path / told[what]["file"] == Path(path)
        assert told[what]["sha256"] == hashlib.sha256(what.encode()).hexdigest()
    assert len(list((tmp_path / "samples").iterdir())) == 101, "nothing is left lying about"


def test_a_gap_never_leads_to_overwriting(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    for data in (b"a", b"b", b"c"):
        folder.save_sample(data)
    (tmp_path / "samples/00000.png").unlink()
    assert OutputFolder(tmp_path).save_sample(b"new").name == "00003.png"
    assert (tmp_path / "samples/00002.png").read_bytes() == b"c"


@pytest.mark.parametrize("links", [True, False])
def test_many_at_once_never_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_links)

    def write(who: int) -> list[tuple[Path, bytes]]:
        folder = OutputFolder(tmp_path)
        return [(folder.save_sample(data), data) for data in (b"%d-%d" % (who, n) for n in range(20))]

    with ThreadPoolExecutor(8) as pool:
        written = [entry for entries in pool.map(write, range(8)) for entry in entries]
    assert len({path for path, _ in written}) == 160
    assert all(path.read_bytes() == data for path, data in written)
    assert len(list((tmp_path / "samples").iterdir())) == 160, "nothing is left lying about"


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder(tmp_path)
    folder.save_sample(b"kept")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        folder.save_sample(b"lost")
    assert caught.value.exit_code == 7
    assert "Free some space" in caught.value.fix
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["00000.png"]


def test_an_outdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        OutputFolder(tmp_path / "file")
