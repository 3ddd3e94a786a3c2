"""The journal: whole lines or none, and what a later run reads from it."""

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
from sdcli.jobs import NoisePlace
from sdcli.outputs.journal import NAME, Journal, Ledger, journaled, latest, seed_of, settings_of
from sdcli.records import SCHEMA, Key, Keys, Line, RunLine
from sdcli.settings import Settings
from tests.jobs import job

OF_OLD = {"steps": 50, "sampler": "ddim"}
"""What journals of older versions leave out."""
START = RunLine(kind="run", settings={"steps": 3}, folder="/")


def kinds(path: Path | None) -> list[str]:
    assert path is not None
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


def line(kind: str, key: str = "a", **fields: object) -> Line:
    return Line.new(kind, Key(key), **fields)


def test_the_seed_of_an_earlier_run_with_the_same_settings(tmp_path: Path) -> None:
    def run(**settings: object) -> Settings:
        return Settings.of(outdir=str(tmp_path), **settings)

    asked = run(prompt=["a cat", "a dog"], seed="random")
    assert seed_of(asked) is None
    for number, settings in enumerate((
        run(prompt=["a cat", "a dog"], seed=5, steps=20),
        run(prompt="a cat", seed=6),
        run(prompt=["a cat", "a dog"], seed=7, n_iter=1),
        run(prompt=["a cat", "a dog"]),
    )):  # fmt: skip
        values = {"kind": "run", "settings": journaled(settings), "folder": "/"}
        (tmp_path / f"run-{number:04}.jsonl").write_text(json.dumps(values) + "\n")
    assert seed_of(asked) == 5, "the steps are the decision of the model"
    assert seed_of(run(prompt=["a cat", "a dog"], seed="random", n_iter=1)) == 7
    assert seed_of(run(prompt=["a fox", "a dog"], seed="random")) is None
    (tmp_path / "run-0009.jsonl").write_text('{"kind": "run", "settings": {"newer": 1}, "folder": "/"}\n')
    assert seed_of(asked) == 5


class TestAppend:
    def test_the_line_of_the_run_comes_first_and_once(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, START)
        assert list(tmp_path.iterdir()) == [], "a run that saves nothing writes nothing"
        journal.append(line("picture", "a", file="samples/a.png"))
        journal.append(line("withheld", "b"))
        assert journal.path == tmp_path / "run-0000.jsonl"
        run, *others = [json.loads(line) for line in journal.path.read_text().splitlines()]
        assert run["kind"] == "run"
        assert datetime.fromisoformat(run.pop("started")).utcoffset() is not None
        assert run == {"kind": "run", "settings": {"steps": 3}, "folder": "/"}
        assert others == [
            {"kind": "picture", "schema": SCHEMA, "key": "a", "file": "samples/a.png"},
            {"kind": "withheld", "schema": SCHEMA, "key": "b"},
        ]

    def test_each_run_has_its_own_journal(self, tmp_path: Path) -> None:
        for number in range(3):
            journal = Journal(tmp_path, START)
            journal.append(line("picture", "a"))
            assert journal.path == tmp_path / f"run-{number:04}.jsonl"
        (tmp_path / "run-0001.jsonl").unlink()
        journal = Journal(tmp_path, START)
        journal.append(line("picture", "a"))
        assert journal.path == tmp_path / "run-0003.jsonl", "another run's journal is never continued"
        assert kinds(tmp_path / "run-0002.jsonl") == ["run", "picture"]

    def test_a_resumed_run_continues_the_newest(self, tmp_path: Path) -> None:
        for name in ("run-9999.jsonl", "run-10000.jsonl", "run-1.jsonl", "run-0000.txt"):
            (tmp_path / name).write_text('{"kind": "old"}\n')
        journal = Journal(tmp_path, START, resume=True)
        journal.append(line("picture", "a"))
        journal.append(line("picture", "b"))
        assert latest(tmp_path) == journal.path == tmp_path / "run-10000.jsonl"
        assert kinds(journal.path) == ["old", "run", "picture", "picture"]

    def test_resume_without_a_journal_starts_one(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, START, resume=True)
        journal.append(line("picture", "a"))
        assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture"]

    @pytest.mark.parametrize("folder", ["nowhere", "file"])
    def test_what_is_not_a_folder_has_no_journal(self, tmp_path: Path, folder: str) -> None:
        """`OutputFolder` reports it later."""
        (tmp_path / "file").touch()
        assert Journal(tmp_path / folder, START, resume=True).path is None
        assert Ledger(tmp_path / folder).find(Key("a")) is None

    def test_any_text_stays_on_one_line(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, START)
        text = "a\nb\u2028c\x85d\x00e\x1b[2J 猫 \ud83d"
        journal.append(line("picture", prompt=text))
        assert journal.path is not None
        assert journal.path.read_bytes().count(b"\n") == 2
        assert len(journal.path.read_text().splitlines()) == 2
        assert json.loads(journal.path.read_text().splitlines()[1])["prompt"] == text

    @pytest.mark.parametrize("torn", [b"{", b'{"kind": "picture", "key": "b"}', b"\xff\0", b"x" * 200_000])
    def test_a_torn_end_is_cut_off(self, tmp_path: Path, torn: bytes) -> None:
        first = Journal(tmp_path, START)
        first.append(line("picture", "a"))
        assert first.path is not None
        with first.path.open("ab") as file:
            file.write(torn)
        second = Journal(tmp_path, START, resume=True)
        second.append(line("picture", "c"))
        assert kinds(first.path) == ["run", "picture", "run", "picture"]

    def test_a_journal_of_one_torn_line_starts_again(self, tmp_path: Path) -> None:
        (tmp_path / "run-0000.jsonl").write_bytes(b"y" * 100_000)
        Journal(tmp_path, START, resume=True).append(line("picture", "c"))
        assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture"]


class TestFailing:
    @pytest.mark.parametrize("size", [10, 20_000])
    @pytest.mark.parametrize("room", [0, 5, 150])
    def test_a_line_that_does_not_fit_leaves_the_journal_unchanged(self, tmp_path: Path, size: int, room: int) -> None:
        """A limit of the system on the size of files stands for a full disk: part of the line is written."""
        journal = Journal(tmp_path, START)
        journal.append(line("picture", "a"))
        assert journal.path is not None
        before = journal.path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + min(room, size), limits[1]))
        try:
            with pytest.raises(OSError) as caught:
                journal.append(line("picture", "b", prompt="x" * size))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        assert journal.path.read_bytes() == before
        journal.append(line("picture", "c"))
        assert kinds(journal.path) == ["run", "picture", "picture"]

    def test_after_a_failed_first_line_the_line_of_the_run_is_written_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        journal = Journal(tmp_path, START)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                journal.append(line("picture", "a"))
        assert journal.path is not None
        assert journal.path.read_bytes() == b""
        journal.append(line("picture", "a"))
        assert kinds(journal.path) == ["run", "picture"]

    def test_a_line_is_removed_alone(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, START)
        journal.append(line("picture", "a"))
        assert journal.path is not None
        before = journal.path.read_bytes()
        journal.append(line("picture", "b"))
        journal.remove_last()
        assert journal.path.read_bytes() == before
        journal.append(line("picture", "c"))
        assert kinds(journal.path) == ["run", "picture", "picture"]

    def test_the_first_line_is_removed_with_the_line_of_the_run(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, START)
        journal.remove_last()
        journal.append(line("picture", "a"))
        journal.remove_last()
        assert journal.path is not None
        assert journal.path.read_bytes() == b""
        journal.append(line("picture", "b"))
        assert kinds(journal.path) == ["run", "picture"]


class TestSettingsOf:
    def write(self, folder: Path, *starts: object) -> None:
        folder.mkdir(exist_ok=True)
        with (folder / "run-0000.jsonl").open("a") as file:
            file.writelines(json.dumps(start) + "\n" for start in starts)

    def start(self, where: Path | str, **settings: object) -> dict[str, object]:
        return {"kind": "run", "settings": settings, "folder": str(where)}

    def test_the_number_of_steps_of_version_0_1_0(self, tmp_path: Path) -> None:
        """It left out its default."""
        self.write(tmp_path, self.start("/"))
        assert settings_of(tmp_path) == OF_OLD | {"steps": 50}

    def test_the_last_start_counts(self, tmp_path: Path) -> None:
        self.write(tmp_path, self.start("/", steps=1), {"kind": "picture", "key": "a"}, self.start("/", steps=2))
        assert settings_of(tmp_path) == OF_OLD | {"steps": 2}
        with (tmp_path / "run-0001.jsonl").open("w") as file:
            file.write(json.dumps(self.start("/", steps=3)) + "\n")
        assert settings_of(tmp_path) == OF_OLD | {"steps": 3}

    def test_relative_paths_start_from_the_folder_of_the_run(self, tmp_path: Path) -> None:
        """A path that does not exist may be a hub id; it stays as it was given."""
        (tmp_path / "prompts.txt").touch()
        (tmp_path / "lists").mkdir()
        (tmp_path / "model").mkdir()
        given_paths = {"from_file": "prompts.txt", "wildcards": "lists", "model": "model", "safety_model": "some/one"}
        self.write(tmp_path / "out", self.start(tmp_path, **given_paths, steps=3, prompt="prompts.txt"))
        assert settings_of(tmp_path / "out") == OF_OLD | {
            "from_file": str(tmp_path / "prompts.txt"), "wildcards": str(tmp_path / "lists"),
            "model": str(tmp_path / "model"), "safety_model": "some/one", "steps": 3, "prompt": "prompts.txt",
        }  # fmt: skip

    def test_absolute_paths_and_standard_input_stay(self, tmp_path: Path) -> None:
        (tmp_path / "-").touch()
        (tmp_path / "a.txt").touch()
        self.write(tmp_path / "out", self.start(tmp_path, from_file="-", wildcards="/"))
        assert settings_of(tmp_path / "out") == OF_OLD | {"from_file": "-", "wildcards": "/", "steps": 50}

    def test_the_home_folder_is_the_current_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "work").mkdir()
        (tmp_path / "work/prompts.txt").touch()
        (tmp_path / "model.ckpt").touch()
        self.write(tmp_path / "out", self.start("~/work", from_file="prompts.txt", ckpt="~/model.ckpt"))
        assert settings_of(tmp_path / "out") == OF_OLD | {
            "from_file": str(tmp_path / "work/prompts.txt"),
            "ckpt": str(tmp_path / "model.ckpt"),
            "steps": 50,
        }

    def test_in_the_same_folder_paths_stay_as_they_were_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Records of images contain them, and must be the same with and without an interruption."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "model.ckpt").touch()
        self.write(tmp_path / "out", self.start(tmp_path, ckpt="model.ckpt"))
        assert settings_of(Path("out")) == OF_OLD | {"ckpt": "model.ckpt", "steps": 50}

    def test_the_default_wildcards_are_found_from_another_folder(self, tmp_path: Path) -> None:
        (tmp_path / "wildcards").mkdir()
        self.write(tmp_path / "out", self.start(tmp_path, prompt="a __cat__"))
        wildcards = str(tmp_path / "wildcards")
        assert settings_of(tmp_path / "out") == OF_OLD | {"prompt": "a __cat__", "wildcards": wildcards, "steps": 50}

    def test_the_default_checkpoint_is_found_from_another_folder(self, tmp_path: Path) -> None:
        default = tmp_path / "models/ldm/stable-diffusion-v1/model.ckpt"
        default.parent.mkdir(parents=True)
        default.touch()
        self.write(tmp_path / "out", self.start(tmp_path, steps=2))
        assert settings_of(tmp_path / "out") == OF_OLD | {"steps": 2, "ckpt": str(default)}
        self.write(tmp_path / "out", self.start(tmp_path, model="some/one"))
        assert settings_of(tmp_path / "out") == OF_OLD | {"model": "some/one", "steps": 50}
        for named in ({"model": "dreamy"}, {"ckpt": "dreamy"}):
            self.write(tmp_path / "out", self.start(tmp_path, **named))
            expected = {"steps": 50, "models_folder": str(tmp_path / "models"), **named}
            assert settings_of(tmp_path / "out") == OF_OLD | expected

    @pytest.mark.parametrize("data", [None, b"", b"\xff\n", b'{"kind": "picture"}\n', b'{"kind": "run"}\n[]\n"run"\n'])
    def test_a_folder_without_a_run_cannot_be_resumed(self, tmp_path: Path, data: bytes | None) -> None:
        if data is not None:
            (tmp_path / "run-0000.jsonl").write_bytes(data)
        with pytest.raises(InputFileError, match="no run to resume") as caught:
            settings_of(tmp_path)
        assert caught.value.exit_code == 3
        with pytest.raises(InputFileError, match="no run to resume"):
            settings_of(tmp_path / "nowhere")

    def test_a_journal_that_cannot_be_read_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "run-0000.jsonl").mkdir()
        with pytest.raises(InputFileError):
            settings_of(tmp_path)

    def test_damaged_lines_are_skipped(self, tmp_path: Path) -> None:
        self.write(tmp_path, self.start("/", steps=2), {"kind": "run", "settings": 5}, {"kind": "run", "settings": {}})
        with (tmp_path / "run-0000.jsonl").open("ab") as file:
            file.write(b'\xff\n{"kind"\n\n' + b"[" * 100_000 + b"\n" + b'{"kind": "run", "settings": {"st')
        assert settings_of(tmp_path) == OF_OLD | {"steps": 2}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_new_journal_starts_before_the_first_image_and_an_old_one_continues_with_it(tmp_path: Path) -> None:
    first = Journal(tmp_path, START)
    first.begin()
    assert kinds(tmp_path / "run-0000.jsonl") == ["run"]
    first.append(line("picture", "a"))
    again = Journal(tmp_path, START, resume=True)
    again.begin()
    assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture"]
    again.append(line("picture", "b"))
    assert kinds(tmp_path / "run-0000.jsonl") == ["run", "picture", "run", "picture"]


class TestLedger:
    def test_finished_gone_changed_and_withheld(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, START)
        for name in "abc":
            (tmp_path / name).write_bytes(name.encode())
            journal.append(line("picture", name, file=name, sha256=digest(name.encode())))
        journal.append(line("withheld", "d"))
        journal.append(line("failed", "e", error="NaN"))
        (tmp_path / "b").unlink()
        (tmp_path / "c").write_bytes(b"changed")
        ledger = Ledger(tmp_path)
        found = ledger.find(Key("a"))
        assert found is not None and (found.kind, found.file, found.sha256) == ("picture", "a", digest(b"a"))
        assert [ledger.find(Key(key)) for key in "bcex"] == [None] * 4
        assert ledger.find(Key("d")) == line("withheld", "d")
        assert [ledger.name(Key(key)) for key in "abcdex"] == ["a", "b", "c", None, None, None]
        journal.append(line("picture", "f", file="a", sha256=digest(b"a"), safety={"flagged": True, "done": "blur"}))
        journal.append(line("picture", "g", file="a", sha256=digest(b"a"), safety={"flagged": True, "done": "keep"}))
        journal.append(line("withheld", "h", safety={"flagged": True, "done": "skip"}))
        ledger.refresh()
        assert [ledger.find(Key(key)).withheld for key in "afgh"] == [False, True, False, True]
        (tmp_path / "b").write_bytes(b"b")
        assert ledger.find(Key("b")), "the present content of the file counts"

    def test_the_last_line_of_all_journals_counts(self, tmp_path: Path) -> None:
        for name in ("old", "new", "newer"):
            (tmp_path / name).write_bytes(name.encode())
        journal = Journal(tmp_path, START)
        journal.append(line("picture", "a", file="old", sha256=digest(b"old")))
        journal.append(line("picture", "a", file="new", sha256=digest(b"new")))
        journal.append(line("failed", "a"))
        assert Ledger(tmp_path).name(Key("a")) == "new"
        Journal(tmp_path, START).append(line("picture", "a", file="newer", sha256=digest(b"newer")))
        assert Ledger(tmp_path).name(Key("a")) == "newer"

    @pytest.mark.parametrize(
        "damage",
        [
            b"\xff", b"", b"{", b"[]", b"5", b'"key"', b"null", b'{"kind": "picture"}', b'{"key": "b"}',
            b'{"kind": "picture", "key": ["b"]}', b'{"kind": "picture", "key": {"b": 1}}',
            b'{"kind": ["a"], "key": "b"}', b'{"kind": "picture", "key": "b", "file": 5, "sha256": "0"}',
            b"[" * 100_000, b'{"kind": "picture", "key": "b", "file": "\\u0000", "sha256": "0"}',
        ],
    )  # fmt: skip
    def test_damaged_lines_are_skipped(self, tmp_path: Path, damage: bytes) -> None:
        (tmp_path / "run-0000.jsonl").write_bytes(
            damage + b'\n{"kind": "withheld", "key": "a"}\n' + damage + b"\n" + damage
        )
        ledger = Ledger(tmp_path)
        found = ledger.find(Key("a"))
        assert found is not None and found.kind == "withheld"
        assert ledger.find(Key("b")) is None

    def test_only_new_whole_lines_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "run-0000.jsonl"
        line = b'{"kind": "withheld", "key": "%s"}\n'
        path.write_bytes(line % b"a" + (line % b"b")[:20])
        ledger = Ledger(tmp_path)
        assert [bool(ledger.find(Key(key))) for key in "abc"] == [True, False, False]
        path.write_bytes(line % b"x" + line % b"b" + line % b"c")
        (tmp_path / "run-0001.jsonl").write_bytes(line % b"d")
        assert [bool(ledger.find(Key(key))) for key in "bcd"] == [False] * 3, "not before refresh()"
        ledger.refresh()
        assert [bool(ledger.find(Key(key))) for key in "abcd"] == [True] * 4
        assert ledger.find(Key("x")) is None, "lines are read once"
        with path.open("ab") as file:
            file.write(line % b"e")
        ledger.refresh()
        assert ledger.find(Key("e"))

    @given(cuts=st.lists(st.integers(0, 400), max_size=6))
    def test_every_line_is_read_however_the_journal_grows(
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
            assert [ledger.find(Key(str(number))) is not None for number in range(10)] == [n < whole for n in range(10)]


class TestKeys:
    def test_repeated_jobs_have_different_keys(self) -> None:
        keys = Keys(Settings.of())
        made = [keys.next(job()) for _ in range(3)]
        assert len({key.key for key in made}) == len({key.old for key in made}) == 3
        assert all(len(key.key) == 64 and int(key.key, 16) >= 0 for key in made)
        again = Keys(Settings.of())
        assert [again.next(job(index=index)) for index in (5, 6, 7)] == made, "the place in the run does not count"

    def test_different_jobs_have_different_keys(self) -> None:
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
    def test_settings_that_change_the_file_change_the_key(self, change: dict[str, object]) -> None:
        assert Keys(Settings.of(**change)).next(job()) != Keys(Settings.of()).next(job())

    def test_other_settings_do_not_change_the_key(self) -> None:
        other = Settings.of(outdir="x", device="cpu", n_iter=9, gallery=True, resume="x", on_error="skip", offline=True)
        assert Keys(other).next(job()) == Keys(Settings.of()).next(job())

    def test_a_long_run_takes_no_memory(self) -> None:
        keys = Keys(Settings.of())
        jobs = [job(noise=NoisePlace(before=((1, number),))) for number in range(1, 3000)]
        tracemalloc.start()
        try:
            made = {int(keys.next(one).key[:8], 16) for one in jobs}
            del made
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert left < 100_000

    @given(st.text(), st.text())
    def test_any_text_has_a_key(self, prompt: str, negative_prompt: str) -> None:
        key = Keys(Settings.of(watermark="x")).next(job(prompt=prompt, negative_prompt=negative_prompt))
        assert len(key.key) == 64


def test_names_of_journals() -> None:
    assert NAME.fullmatch("run-0000.jsonl")
    assert NAME.fullmatch("run-12345.jsonl")
    assert not any(map(NAME.fullmatch, ("run-000.jsonl", "run-0000.json", "my-run-0000.jsonl", "run-.jsonl")))


class TestStrangers:
    """A journal that somebody else wrote decides nothing outside its folder."""

    @pytest.mark.parametrize(
        "name",
        [
            "samples/../../victim/a.png",
            "../victim/a.png",
            "{victim}/a.png",
            "samples/link/a.png",
            "link.png",
        ],
    )
    def test_a_name_outside_the_folder_is_neither_read_nor_used(self, tmp_path: Path, name: str) -> None:
        out, victim = tmp_path / "out", tmp_path / "victim"
        (out / "samples").mkdir(parents=True)
        victim.mkdir()
        (victim / "a.png").write_bytes(b"a")
        (out / "samples/link").symlink_to(victim)
        (out / "link.png").symlink_to(victim / "a.png")
        Journal(out, START).append(line("picture", "a", file=name.format(victim=victim), sha256=digest(b"a")))
        ledger = Ledger(out)
        assert ledger.find(Key("a")) is None
        assert ledger.name(Key("a")) is None

    def test_samples_may_be_a_link_to_another_disk(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk/a.png").write_bytes(b"a")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/samples").symlink_to(tmp_path / "disk")
        Journal(tmp_path / "out", START).append(line("picture", "a", file="samples/a.png", sha256=digest(b"a")))
        assert Ledger(tmp_path / "out").find(Key("a"))

    @pytest.mark.parametrize("fields", [{"file": "gone.png"}, {"file": "a.png"}, {}, {"sha256": "0" * 64}])
    def test_a_line_without_file_and_hash_is_not_finished(self, tmp_path: Path, fields: dict[str, str]) -> None:
        (tmp_path / "a.png").write_bytes(b"a")
        Journal(tmp_path, START).append(line("picture", "a", **fields))
        assert Ledger(tmp_path).find(Key("a")) is None

    @pytest.mark.parametrize("kind", ["fifo", "device", "folder", "dangling"])
    def test_only_regular_files_are_read(self, tmp_path: Path, kind: str) -> None:
        """As an image, and as a journal, which is then skipped."""
        for name in ("a.png", "run-0001.jsonl"):
            path = tmp_path / name
            make = {
                "fifo": lambda path: os.mkfifo(path), "device": lambda path: path.symlink_to("/dev/zero"),
                "folder": lambda path: path.mkdir(), "dangling": lambda path: path.symlink_to("nowhere"),
            }[kind]  # fmt: skip
            make(path)
        journal = Journal(tmp_path, START)
        journal.path = tmp_path / "run-0000.jsonl"
        journal.path.touch()
        journal.append(line("picture", "a", file="a.png", sha256=digest(b"")))
        assert Ledger(tmp_path).find(Key("a")) is None
        assert latest(tmp_path) == tmp_path / "run-0000.jsonl"
        assert settings_of(tmp_path) == OF_OLD | {"steps": 3}
        new = Journal(tmp_path, START)
        new.begin()
        assert new.path == tmp_path / "run-0002.jsonl"

    def test_a_link_to_a_file_of_the_user_is_no_journal(self, tmp_path: Path) -> None:
        (tmp_path / "profile").write_text("no end of line")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/run-0000.jsonl").symlink_to(tmp_path / "profile")
        with pytest.raises(InputFileError, match="no run to resume"):
            settings_of(tmp_path / "out")
        journal = Journal(tmp_path / "out", START, resume=True)
        journal.append(line("withheld"))
        assert journal.path == tmp_path / "out/run-0001.jsonl"
        journal.path = tmp_path / "out/run-0000.jsonl"
        with pytest.raises(OSError, match="symbolic links"):
            journal.append(line("withheld"))
        assert (tmp_path / "profile").read_text() == "no end of line"

    def test_samples_outside_the_folder_are_refused(self, tmp_path: Path) -> None:
        Journal(tmp_path, START).begin()
        (tmp_path / "samples").symlink_to("/usr")
        with pytest.raises(InputFileError, match="is a link to another folder"):
            settings_of(tmp_path)

    def test_odd_settings(self, tmp_path: Path) -> None:
        start = START.model_copy(
            update={"folder": "~nosuchuser/x", "settings": {"ckpt": "~nosuchuser/x", "outdir": "/"}}
        )
        Journal(tmp_path, start).begin()
        assert settings_of(tmp_path) == OF_OLD | {"ckpt": "~nosuchuser/x", "steps": 50}
        Journal(tmp_path, START.model_copy(update={"settings": {"future": 1}})).begin()
        with pytest.raises(InputFileError, match="cannot resume"):
            settings_of(tmp_path)
