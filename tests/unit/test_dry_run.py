"""A dry run: its forecasts and its costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sdcli import estimates
from sdcli.cli.dry_run import _summary, _time
from sdcli.dry_run import DryRun, Forecast
from sdcli.errors import InputFileError, OutputError, UsageError
from sdcli.events import Event, Note, ignore
from sdcli.jobs import Job, NoisePlace
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Journal
from sdcli.records import Key, Keys, RunLine
from sdcli.settings import Settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def forecasts(**settings: object) -> list[Forecast]:
    return list(DryRun(Settings.of(**settings), ignore))


def test_a_forecast_has_job_name_tokens_and_watermark() -> None:
    first, *_, last = forecasts(prompt="a red apple", n_samples=2, n_iter=2)
    assert [str(one.file) for one in (first, last)] == [
        "outputs/txt2img-samples/samples/00000.png",
        "outputs/txt2img-samples/samples/00003.png",
    ]
    assert (first.words.tokens, first.words.limit, first.words.cut) == (5, 77, "")
    assert first.mark is not None
    assert first.mark.method == "robust"
    assert last.job.noise == NoisePlace(before=((2, 21),), rows=2, row=1)
    assert not Path("outputs").exists(), "nothing is written"


def test_the_end_of_a_long_prompt_is_cut() -> None:
    (one,) = forecasts(prompt="cat " * 80 + "and a dog", n_samples=1, n_iter=1)
    assert one.words.tokens == 85
    assert one.words.cut == "cat " * 5 + "and a dog"


def test_what_to_know_before_a_run_is_noted() -> None:
    events: list[Event] = []
    DryRun(Settings.of(prompt="a cat", scale=1, negative_prompt="red"), events.append)
    assert events == [Note("--negative-prompt has no effect at a guidance scale of 1")]


def test_names_are_free() -> None:
    samples = Path("out/samples")
    samples.mkdir(parents=True)
    for name in ("00000.png", "00003.png", "a-cat.png"):
        (samples / name).touch()
    numbered = forecasts(prompt="a cat", outdir="out", n_samples=2, n_iter=1)
    assert [one.file.name for one in numbered if one.file] == ["00004.png", "00005.png"]
    named = forecasts(prompt="a cat", outdir="out", n_samples=2, n_iter=1, output_name="{prompt:slug}")
    assert [one.file.name for one in named if one.file] == ["a-cat-2.png", "a-cat-3.png"]


def test_images_that_are_not_saved_have_no_name() -> None:
    assert {one.file for one in forecasts(prompt="a cat", skip_save=True)} == {None}
    assert [one.file for one in forecasts(prompt="a cat", output="cat.webp")] == [Path("cat.webp")]


@pytest.mark.parametrize("schema", [1, 2])
def test_images_of_a_resumed_run_exist(schema: int) -> None:
    """Also if sdcli 0.1.0, which wrote keys of schema 1, started the run."""
    settings = Settings.of(prompt="a cat", outdir="out", n_samples=3, n_iter=1, resume="", seed_mode="image")
    key = Keys(settings).next(next(iter(DryRun(settings, ignore))).job)
    if schema == 1:
        assert key.old is not None
        key = Key(key.old)
    folder = OutputFolder(Path("out"), journal=Journal(Path("out"), RunLine(settings={}, folder="/")))
    folder.save_sample(b"an image", key=key)
    run = DryRun(settings, ignore)
    assert [(one.exists, one.file.name if one.file else None) for one in run] == [
        (True, "00000.png"), (False, "00001.png"), (False, "00002.png"),
    ]  # fmt: skip
    assert (run.images, run.existing) == (3, 1)
    assert _summary(run)[0].startswith("dry run: 2 images would be generated with builtin, ddim; 1 already exist")


def test_an_invalid_row_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a cat"}\n{"prompt": "a dog", "steps": 0}\n')
    events: list[Event] = []
    run = DryRun(Settings.of(from_file=str(path), on_error="skip"), events.append)
    assert [one.job.prompt for one in run] == ["a cat"]
    (note,) = events
    assert isinstance(note, Note)
    assert f"{path}, line 2" in note.text
    assert run.run.skipped == 1


def test_a_dry_run_refuses_what_a_run_refuses() -> None:
    with pytest.raises(UsageError, match="--W 100"):
        DryRun(Settings.of(width=100), ignore)


def job(**changes: object) -> Job:
    (one,) = forecasts(prompt="a cat", n_samples=1, n_iter=1)
    return one.job.model_copy(update=changes)


class TestEstimates:
    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def test_unknown_values_are_none(self) -> None:
        unknown = estimates.estimate(job(), "auto", 1, None)
        assert unknown == estimates.Estimate(None, None, measured=False)
        run = DryRun(Settings.of(prompt="a cat"), ignore)
        list(run)
        assert run.seconds is None

    def test_a_measured_batch_keeps_its_time(self) -> None:
        one = job(steps=20)
        estimates.remember(one, "cpu", 2, 8.0)
        again = estimates.estimate(one, "auto", 2, 10**9)
        assert again.seconds == pytest.approx(4.0)
        assert again.measured
        assert again.memory is not None
        assert again.memory > 10**7, "of this process"

    def test_other_steps_and_sizes_are_estimated_from_the_nearest(self) -> None:
        estimates.remember(job(steps=20), "cpu", 1, 4.0)
        estimates.remember(job(steps=20, height=512, width=512), "cpu", 1, 64.0)
        assert estimates.estimate(job(steps=10), "cpu", 1, None).seconds == pytest.approx(2.0)
        larger = estimates.estimate(job(steps=20, height=512, width=576), "cpu", 1, 10**9)
        assert larger.seconds == pytest.approx(64.0 * 576 / 512)
        assert not larger.measured
        assert larger.memory == estimates.BASE + 10**9 + 512 * 576 * estimates.BYTES_PER_PIXEL

    def test_loading_is_part_of_the_time(self) -> None:
        one = job(steps=20)
        estimates.remember(one, "cpu", 1, 4.0)
        estimates.remember_loading(one, "cpu", 9.0)
        assert (estimates.loading(one, "auto"), estimates.loading(one, "cuda")) == (9.0, 0.0)
        run = DryRun(Settings.of(prompt="a cat", steps=20, n_samples=1, n_iter=2), ignore)
        list(run)
        assert (run.seconds, run.loading) == (pytest.approx(8.0), 9.0)
        assert _summary(run)[-1] == "time: about 17 seconds, 9 seconds of it for loading, as in earlier runs"
        assert _time(0.6, 0.0) == "about 1 second, without loading, as in earlier runs"

    def test_another_model_or_device_is_not_used(self) -> None:
        estimates.remember(job(), "cpu", 1, 4.0)
        assert estimates.estimate(job(model_hash="another"), "cpu", 1, None).seconds is None
        assert estimates.estimate(job(), "cuda", 1, None).seconds is None


PRODUCER = """
import sys
from pathlib import Path
from sdcli.cli import main
try:
    main()
finally:
    # ru_maxrss would be that of the process which started this one, if it is larger.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) // 1024, "torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.slow
def test_a_long_stream_needs_little_memory() -> None:
    """8,000 lines need hardly more memory than one, because each is planned as it arrives, without PyTorch."""
    peaks = []
    for lines in (1, 8_000):
        prompts = "".join(f"a cat, number {number}\n" for number in range(lines))
        done = subprocess.run(
            [sys.executable, "-c", PRODUCER, "txt2img", "--from-file", "-", "--dry-run", "--json", "--quiet"],
            input=prompts, capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        rows = done.stdout.splitlines()
        assert len(rows) == lines
        last = json.loads(rows[-1])
        assert last["job"]["prompt"] == f"a cat, number {lines - 1}"
        assert last["index"] == lines - 1
        peak, torch = done.stderr.split()[-2:]
        assert torch == "False"
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] + 30, "MiB"


@pytest.mark.parametrize("outdir", ["file", "file/below", "/proc/sdcli/out"])
def test_an_output_folder_that_cannot_be_written_is_refused(outdir: str) -> None:
    Path("file").touch()
    with pytest.raises(OutputError, match="cannot write to") as caught:
        DryRun(Settings.of(outdir=outdir), ignore)
    assert caught.value.exit_code == 7
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_an_output_folder_is_not_created() -> None:
    assert forecasts(outdir="new/out", n_samples=1, n_iter=1)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("outdir", "out"), [("out", "taken/b"), ("o/" * 700, "a/" * 1400 + "b")])
def test_names_of_rows_that_cannot_be_in_the_output_folder(outdir: str, out: str) -> None:
    Path("out/samples").mkdir(parents=True)
    Path("out/samples/taken").touch()
    Path("rows.jsonl").write_text(json.dumps({"prompt": "a cat", "out": out}))
    with pytest.raises(InputFileError, match=r"rows.jsonl, line 1: out 'a|rows.jsonl, line 1: out 'taken/b.png' is in"):
        DryRun(Settings.of(from_file="rows.jsonl", outdir=outdir), ignore)


def test_one_note_for_flags_of_other_tools() -> None:
    Path("rows.txt").write_text("a cat --w 128\na dog --w 128\n")
    events: list[Event] = []
    assert len(list(DryRun(Settings.of(from_file="rows.txt", n_iter=1), events.append))) == 2
    notes = [event.text for event in events if isinstance(event, Note)]
    assert ["--prompt-format kohya" in note for note in notes] == [False, True]
    assert notes[0] == "w, 128: not known to the model, ignored"
