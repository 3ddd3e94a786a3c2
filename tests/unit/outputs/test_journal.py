"""The run's record: whole lines or none, and what a later run learns from it."""

import errno
import hashlib
import json
import os
import resource
import tracemalloc
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import InputFileError
from sdcli.jobs import Job, NoisePlace
from sdcli.outputs import journal
from sdcli.outputs.journal import Entry, Journal, Keys, Ledger, latest, settings_of
from sdcli.settings import Settings

START = {"settings": {"steps": 3}, "folder": "/"}


def kinds(path: Path | None) -> list[str]:
    assert path is not None
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


def job(**changes: object) -> Job:
    values = {
        "prompt": "a cat", "negative_prompt": "", "seed": 7, "rng": "cuda", "noise": NoisePlace(), "height": 64,
        "width": 64, "steps": 20, "sampler": "plms", "scale": 7.5, "eta": 0.0, "precision": "full", "model": "builtin",
        "model_hash": "0", "index": 0,
    }  # fmt: skip
    return Job.model_validate(values | changes)


class TestAppend:
    def test_the_run_heads_its_lines_once(self, tmp_path: Path) -> None:
        record = Journal(tmp_path, START)
        assert list(tmp_path.iterdir()) == [], "nothing is written for a run that saves nothing"
        record.append("picture", key="a", file="samples/a.png")
        record.append("withheld", key="b")
        assert record.path == tmp_path / "run-0000.jsonl"
        run, *others = [json.loads(line) for line in record.path.read_text().splitlines()]
        assert run["kind"] == "run"
        assert datetime.fromisoformat(run.pop("started")).utcoffset() is not None
        assert run == {"kind": "run", **START}
        assert others == [{"kind": "picture", "key": "a", "file": "samples/a.png"}, {"kind": "withheld", "key": "b"}]

    def test_each_run_has_a_record_of_its_own(self, tmp_path: Path) -> None:
        for number in range(3):
            record = Journal(tmp_path, START)
            record.append("picture", key="a")
            assert record.path == tmp_path / f"run-{number:04}.jsonl"
        (tmp_path / "run-0001.jsonl").unlink()
        record = Journal(tmp_path, START)
        record.append("picture", key="a")
        assert record.path == tmp_path / "run-0003.jsonl", "one that is there is never written into"
        assert kinds(tmp_path / "run-0002.jsonl") == ["run", "picture"]

    def test_a_resumed_run_goes_on_in_the_newest(self, tmp_path: Path) -> None:
        for name in ("run-9999.jsonl", "run-10000.jsonl", "run-1.jsonl", "run-0000.txt"):
            (tmp_path / name).write_text('{"kind": "old"}\n')
        record = Journal(tmp_path, START, resume=True)
        record.append("picture", key="a")
        record.append("picture", key="b")
        assert latest(tmp_path) == record.path == tmp_path / "run-10000.jsonl"
        assert kinds(record.path) == ["old", "run", "picture", "picture"]

    def test_resume_without_a_record_begins_one(self, tmp_path: Path) -> None:
        record = Journal(tmp_path, START, resume=True)
        record.append("picture", key="a")
        assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture"]

    @pytest.mark.parametrize("folder", ["nowhere", "file"])
    def test_a_folder_that_is_none_has_no_records(self, tmp_path: Path, folder: str) -> None:
        """The output folder says so in words, later."""
        (tmp_path / "file").touch()
        assert Journal(tmp_path / folder, START, resume=True).path is None
        assert Ledger(tmp_path / folder).find("a") is None

    def test_a_line_is_one_whatever_is_in_it(self, tmp_path: Path) -> None:
        record = Journal(tmp_path, START)
        words = "a\nb\u2028c\x85d\x00e\x1b[2J 猫 \ud83d"
        record.append("picture", prompt=words)
        assert record.path is not None
        assert record.path.read_bytes().count(b"\n") == 2
        assert len(record.path.read_text().splitlines()) == 2
        assert json.loads(record.path.read_text().splitlines()[1])["prompt"] == words

    @pytest.mark.parametrize("torn", [b"{", b'{"kind": "picture", "key": "b"}', b"\xff\0", b"x" * 200_000])
    def test_a_torn_end_is_cut_off(self, tmp_path: Path, torn: bytes) -> None:
        first = Journal(tmp_path, START)
        first.append("picture", key="a")
        assert first.path is not None
        with first.path.open("ab") as file:
            file.write(torn)
        second = Journal(tmp_path, START, resume=True)
        second.append("picture", key="c")
        assert kinds(first.path) == ["run", "picture", "run", "picture"]

    def test_a_record_that_is_one_torn_line_begins_anew(self, tmp_path: Path) -> None:
        (tmp_path / "run-0000.jsonl").write_bytes(b"y" * 100_000)
        Journal(tmp_path, START, resume=True).append("picture", key="c")
        assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture"]


class TestFailing:
    @pytest.mark.parametrize("size", [10, 20_000])
    @pytest.mark.parametrize("room", [0, 5, 150])
    def test_no_room_leaves_the_record_as_it_was(self, tmp_path: Path, size: int, room: int) -> None:
        """A limit of the system on the size of files stands for a full disk: part of the line is written."""
        record = Journal(tmp_path, START)
        record.append("picture", key="a")
        assert record.path is not None
        before = record.path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + min(room, size), limits[1]))
        try:
            with pytest.raises(OSError) as caught:
                record.append("picture", key="b", prompt="x" * size)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        assert record.path.read_bytes() == before
        record.append("picture", key="c")
        assert kinds(record.path) == ["run", "picture", "picture"]

    def test_a_first_line_that_fails_leaves_the_run_s_to_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        record = Journal(tmp_path, START)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                record.append("picture", key="a")
        assert record.path is not None
        assert record.path.read_bytes() == b""
        record.append("picture", key="a")
        assert kinds(record.path) == ["run", "picture"]

    def test_a_line_is_taken_back_alone(self, tmp_path: Path) -> None:
        record = Journal(tmp_path, START)
        record.append("picture", key="a")
        assert record.path is not None
        before = record.path.read_bytes()
        record.append("picture", key="b")
        record.take_back()
        assert record.path.read_bytes() == before
        record.append("picture", key="c")
        assert kinds(record.path) == ["run", "picture", "picture"]

    def test_the_first_line_is_taken_back_with_the_run_s(self, tmp_path: Path) -> None:
        record = Journal(tmp_path, START)
        record.take_back()
        record.append("picture", key="a")
        record.take_back()
        assert record.path is not None
        assert record.path.read_bytes() == b""
        record.append("picture", key="b")
        assert kinds(record.path) == ["run", "picture"]


class TestSettingsOf:
    def record(self, folder: Path, *starts: object) -> None:
        folder.mkdir(exist_ok=True)
        with (folder / "run-0000.jsonl").open("a") as file:
            file.writelines(json.dumps(start) + "\n" for start in starts)

    def start(self, where: Path | str, **settings: object) -> dict[str, object]:
        return {"kind": "run", "settings": settings, "folder": str(where)}

    def test_those_of_the_last_start(self, tmp_path: Path) -> None:
        self.record(tmp_path, self.start("/", steps=1), {"kind": "picture", "key": "a"}, self.start("/", steps=2))
        assert settings_of(tmp_path) == {"steps": 2}
        with (tmp_path / "run-0001.jsonl").open("w") as file:
            file.write(json.dumps(self.start("/", steps=3)) + "\n")
        assert settings_of(tmp_path) == {"steps": 3}

    def test_files_lie_where_the_run_was_called(self, tmp_path: Path) -> None:
        """Whatever is not there is a hub id, or gone; it stays as it was said."""
        (tmp_path / "prompts.txt").touch()
        (tmp_path / "lists").mkdir()
        (tmp_path / "model").mkdir()
        said = {"from_file": "prompts.txt", "wildcards": "lists", "model": "model", "safety_model": "some/one"}
        self.record(tmp_path / "out", self.start(tmp_path, **said, steps=3, prompt="prompts.txt"))
        assert settings_of(tmp_path / "out") == {
            "from_file": str(tmp_path / "prompts.txt"), "wildcards": str(tmp_path / "lists"),
            "model": str(tmp_path / "model"), "safety_model": "some/one", "steps": 3, "prompt": "prompts.txt",
        }  # fmt: skip

    def test_absolute_paths_and_standard_input_stay(self, tmp_path: Path) -> None:
        (tmp_path / "-").touch()
        (tmp_path / "a.txt").touch()
        self.record(tmp_path / "out", self.start(tmp_path, from_file="-", wildcards="/"))
        assert settings_of(tmp_path / "out") == {"from_file": "-", "wildcards": "/"}

    def test_the_home_folder_is_the_one_of_now(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "work").mkdir()
        (tmp_path / "work/prompts.txt").touch()
        (tmp_path / "model.ckpt").touch()
        self.record(tmp_path / "out", self.start("~/work", from_file="prompts.txt", ckpt="~/model.ckpt"))
        assert settings_of(tmp_path / "out") == {
            "from_file": str(tmp_path / "work/prompts.txt"),
            "ckpt": str(tmp_path / "model.ckpt"),
        }

    def test_in_the_same_place_paths_stay_as_they_were_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They stand in the records of images, which are to be the same with and without a stop."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "model.ckpt").touch()
        self.record(tmp_path / "out", self.start(tmp_path, ckpt="model.ckpt"))
        assert settings_of(Path("out")) == {"ckpt": "model.ckpt"}

    def test_wildcards_that_were_a_default_are_found_from_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "wildcards").mkdir()
        self.record(tmp_path / "out", self.start(tmp_path, prompt="a __cat__"))
        assert settings_of(tmp_path / "out") == {"prompt": "a __cat__", "wildcards": str(tmp_path / "wildcards")}

    def test_the_checkpoint_that_was_a_default_is_found_from_elsewhere(self, tmp_path: Path) -> None:
        default = tmp_path / "models/ldm/stable-diffusion-v1/model.ckpt"
        default.parent.mkdir(parents=True)
        default.touch()
        self.record(tmp_path / "out", self.start(tmp_path, steps=2))
        assert settings_of(tmp_path / "out") == {"steps": 2, "ckpt": str(default)}
        self.record(tmp_path / "out", self.start(tmp_path, model="some/one"))
        assert settings_of(tmp_path / "out") == {"model": "some/one"}

    @pytest.mark.parametrize("data", [None, b"", b"\xff\n", b'{"kind": "picture"}\n', b'{"kind": "run"}\n[]\n"run"\n'])
    def test_without_a_run_there_is_nothing_to_resume(self, tmp_path: Path, data: bytes | None) -> None:
        if data is not None:
            (tmp_path / "run-0000.jsonl").write_bytes(data)
        with pytest.raises(InputFileError, match="no run to resume") as caught:
            settings_of(tmp_path)
        assert caught.value.exit_code == 3
        with pytest.raises(InputFileError, match="no run to resume"):
            settings_of(tmp_path / "nowhere")

    def test_a_record_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "run-0000.jsonl").mkdir()
        with pytest.raises(InputFileError):
            settings_of(tmp_path)

    def test_damaged_lines_are_passed_over(self, tmp_path: Path) -> None:
        self.record(tmp_path, self.start("/", steps=2), {"kind": "run", "settings": 5}, {"kind": "run", "settings": {}})
        with (tmp_path / "run-0000.jsonl").open("ab") as file:
            file.write(b'\xff\n{"kind"\n\n' + b"[" * 100_000 + b"\n" + b'{"kind": "run", "settings": {"st')
        assert settings_of(tmp_path) == {"steps": 2}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_new_record_begins_before_the_first_image_and_an_old_one_with_it(tmp_path: Path) -> None:
    first = Journal(tmp_path, START)
    first.begin()
    assert kinds(tmp_path / "run-0000.jsonl") == ["run"]
    first.append("picture", key="a")
    again = Journal(tmp_path, START, resume=True)
    again.begin()
    assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture"]
    again.append("picture", key="b")
    assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture", "run", "picture"]


class TestLedger:
    def test_done_gone_changed_and_withheld(self, tmp_path: Path) -> None:
        record = Journal(tmp_path, START)
        for name in "abc":
            (tmp_path / name).write_bytes(name.encode())
            record.append("picture", key=name, file=name, sha256=digest(name.encode()))
        record.append("withheld", key="d")
        record.append("failed", key="e", error="no numbers")
        (tmp_path / "b").unlink()
        (tmp_path / "c").write_bytes(b"changed")
        ledger = Ledger(tmp_path)
        assert ledger.find("a") == Entry("picture", "a", digest(b"a"))
        assert [ledger.find(key) for key in "bcex"] == [None] * 4
        assert ledger.find("d") == Entry("withheld")
        assert [ledger.name(key) for key in "abcdex"] == ["a", "b", "c", None, None, None]
        record.append("picture", key="f", file="a", sha256=digest(b"a"), safety={"flagged": True, "done": "blur"})
        record.append("picture", key="g", file="a", sha256=digest(b"a"), safety={"flagged": True, "done": "keep"})
        record.append("withheld", key="h", safety={"flagged": True, "done": "skip"})
        ledger.refresh()
        assert [ledger.find(key).withheld for key in "afgh"] == [False, True, False, True]
        (tmp_path / "b").write_bytes(b"b")
        assert ledger.find("b"), "the file counts as it is now"

    def test_the_last_line_counts_over_all_records(self, tmp_path: Path) -> None:
        for name in ("old", "new", "newer"):
            (tmp_path / name).write_bytes(name.encode())
        record = Journal(tmp_path, START)
        record.append("picture", key="a", file="old", sha256=digest(b"old"))
        record.append("picture", key="a", file="new", sha256=digest(b"new"))
        record.append("failed", key="a")
        assert Ledger(tmp_path).name("a") == "new"
        Journal(tmp_path, START).append("picture", key="a", file="newer", sha256=digest(b"newer"))
        assert Ledger(tmp_path).name("a") == "newer"

    @pytest.mark.parametrize(
        "damage",
        [
            b"\xff", b"", b"{", b"[]", b"5", b'"key"', b"null", b'{"kind": "picture"}', b'{"key": "b"}',
            b'{"kind": "picture", "key": ["b"]}', b'{"kind": "picture", "key": {"b": 1}}',
            b'{"kind": ["a"], "key": "b"}', b'{"kind": "picture", "key": "b", "file": 5, "sha256": "0"}',
            b"[" * 100_000, b'{"kind": "picture", "key": "b", "file": "\\u0000", "sha256": "0"}',
        ],
    )  # fmt: skip
    def test_damaged_lines_are_passed_over(self, tmp_path: Path, damage: bytes) -> None:
        (tmp_path / "run-0000.jsonl").write_bytes(
            damage + b'\n{"kind": "withheld", "key": "a"}\n' + damage + b"\n" + damage
        )
        ledger = Ledger(tmp_path)
        assert ledger.find("a") == Entry("withheld")
        assert ledger.find("b") is None

    def test_only_what_is_new_and_whole_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "run-0000.jsonl"
        line = b'{"kind": "withheld", "key": "%s"}\n'
        path.write_bytes(line % b"a" + (line % b"b")[:20])
        ledger = Ledger(tmp_path)
        assert [bool(ledger.find(key)) for key in "abc"] == [True, False, False]
        path.write_bytes(line % b"x" + line % b"b" + line % b"c")
        (tmp_path / "run-0001.jsonl").write_bytes(line % b"d")
        assert [bool(ledger.find(key)) for key in "bcd"] == [False] * 3, "not before it is asked to"
        ledger.refresh()
        assert [bool(ledger.find(key)) for key in "abcd"] == [True] * 4
        assert ledger.find("x") is None, "what was read is not read again"
        with path.open("ab") as file:
            file.write(line % b"e")
        ledger.refresh()
        assert ledger.find("e")

    @given(cuts=st.lists(st.integers(0, 400), max_size=6))
    def test_however_it_grows_every_line_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
    ) -> None:
        folder = tmp_path_factory.mktemp("grows")
        data = b"".join(b'{"kind": "withheld", "key": "%d"}\n' % number for number in range(10))
        path = folder / "run-0000.jsonl"
        path.touch()
        ledger = Ledger(folder)
        for cut in [*sorted(cuts), len(data)]:
            path.write_bytes(data[:cut])
            ledger.refresh()
            whole = data[:cut].count(b"\n")
            assert [ledger.find(str(number)) is not None for number in range(10)] == [n < whole for n in range(10)]


class TestKeys:
    def test_the_same_job_twice_is_two(self) -> None:
        keys = Keys(Settings.of())
        made = [keys.next(job()) for _ in range(3)]
        assert len(set(made)) == 3
        assert all(len(key) == 64 and int(key, 16) >= 0 for key in made)
        again = Keys(Settings.of())
        assert [again.next(job(index=index)) for index in (5, 6, 7)] == made, "wherever in the run"

    def test_another_job_is_another(self) -> None:
        keys = Keys(Settings.of())
        jobs = [job(), job(prompt="a dog"), job(seed=8), job(out="x"), job(noise=NoisePlace(rows=2, row=1))]
        assert len({keys.next(one) for one in jobs}) == len(jobs)

    @pytest.mark.parametrize(
        "change",
        [
            {"format": "webp"}, {"watermark": "x"}, {"no_watermark": True}, {"watermark_method": "robust"},
            {"safety_checker": "off"}, {"safety_model": "x"}, {"nsfw_threshold": 0.6}, {"on_unsafe": "blur"},
        ],
    )  # fmt: skip
    def test_what_makes_another_file_makes_another_key(self, change: dict[str, object]) -> None:
        assert Keys(Settings.of(**change)).next(job()) != Keys(Settings.of()).next(job())

    def test_what_does_not_does_not(self) -> None:
        other = Settings.of(outdir="x", device="cpu", n_iter=9, gallery=True, resume="x", on_error="skip", offline=True)
        assert Keys(other).next(job()) == Keys(Settings.of()).next(job())

    def test_a_long_run_fills_no_memory(self) -> None:
        keys = Keys(Settings.of())
        jobs = [job(noise=NoisePlace(before=((1, number),))) for number in range(1, 5000)]
        tracemalloc.start()
        try:
            made = {int(keys.next(one)[:8], 16) for one in jobs}
            del made
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert left < 100_000

    @given(st.text(), st.text())
    def test_any_words_have_a_key(self, prompt: str, negative_prompt: str) -> None:
        key = Keys(Settings.of(watermark="x")).next(job(prompt=prompt, negative_prompt=negative_prompt))
        assert len(key) == 64


def test_names_of_records() -> None:
    assert journal.NAME.fullmatch("run-0000.jsonl")
    assert journal.NAME.fullmatch("run-12345.jsonl")
    assert not any(map(journal.NAME.fullmatch, ("run-000.jsonl", "run-0000.json", "my-run-0000.jsonl", "run-.jsonl")))
