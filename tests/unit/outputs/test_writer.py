"""The writer: results of each kind become files, lines of the journal, pages of the grid, and released claims."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcli.errors import ModelError, OutputError, SkippedError, WithheldError
from sdcli.events import Event, Finished, Note, Output, Saved, Started
from sdcli.images import Batch, FailedImage, GeneratedImage, UnneededImage, WithheldImage
from sdcli.jobs import Job
from sdcli.metadata import record_in, texts
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.writer import Writer
from sdcli.records import ImageRecord, Key, Keys, SafetyRecord
from sdcli.run import Run
from sdcli.settings import Settings
from sdcli.txt2img import execute
from tests.unit.pipeline.toy_model import ToySource

HOLDER = """
import sys
from pathlib import Path
from sdcli.outputs.locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print(all([locks.claim(key) for key in sys.argv[2:]]), flush=True)
sys.stdin.read()
"""


@contextmanager
def claimed_elsewhere(folder: Path, *keys: Key) -> Iterator[None]:
    """Another process claims these jobs; an error if it cannot have them all."""
    command = [sys.executable, "-c", HOLDER, str(folder), *(key.key for key in keys)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield
    finally:
        process.communicate("")


class Setup:
    """A run of three images of 16 x 16 pixels in one batch, and its writer."""

    def __init__(self, outdir: Path, **settings: Any) -> None:
        self.outdir = outdir
        self.events: list[Event] = []
        given = {"n_samples": 3, "n_iter": 1, "steps": 2, "no_watermark": True, "safety_checker": "off"}
        source: Any = ToySource()
        self.run = Run(Settings.of(outdir=str(outdir), device="cpu", **(given | settings)), self.events.append, source)
        self.jobs: list[Job] = [job for batch in self.run.batches() for job in batch]
        keys = Keys(self.run.settings)
        self.keys = [keys.next(job) for job in self.jobs]

    def writer(self) -> tuple[Writer, Batch]:
        """A new writer, and the run's batch as it marks it."""
        self.run.stages.prepare("cpu")
        writer = Writer(
            self.run.settings,
            self.run.stages,
            model=self.run.spec.name,
            total=self.run.total,
            device="cpu, precision full",
            progress=self.events.append,
        )
        (batch,) = writer.unfinished([self.jobs])
        return writer, batch

    def execute(self) -> list[GeneratedImage]:
        return list(execute(self.run, self.events.append))

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]

    @property
    def saved(self) -> list[str]:
        return [event.path.relative_to(self.outdir).as_posix() for event in self.events if isinstance(event, Saved)]

    def lines(self) -> list[dict[str, Any]]:
        paths = sorted(self.outdir.glob("run-*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def generated(job: Job, value: float = 0.5, **record: Any) -> GeneratedImage:
    pixels = np.full((16, 16, 3), value, np.float32)
    return GeneratedImage(job, pixels, ImageRecord.new(job=job, **record), {"seconds": 1.5, "batch": 3})


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def unsafe(done: str) -> SafetyRecord:
    return SafetyRecord(checker="toy", flagged=True, scores={}, source="", done=done)


class TestKinds:
    def test_a_generated_image_becomes_a_file_with_its_record_and_a_line(self, tmp_path: Path) -> None:
        run = Setup(tmp_path)
        writer, batch = run.writer()
        assert batch.needed == [True] * 3
        image = writer.save(generated(run.jobs[0], 0.999))
        assert image is not None and image.path == tmp_path / "samples/00000.png"
        with Image.open(image.path) as file:
            record = record_in(texts.read(file))
        read_back = pixels(image.path)
        assert read_back[0, 0, 0] == 254, "truncated as in the original, not rounded"
        assert np.array_equal(image.pixels, read_back) and image.pixels.dtype == np.uint8
        assert record == image.record
        assert image.record.job == run.jobs[0]
        start, line = run.lines()
        assert (start["kind"], start["device"]) == ("run", "cpu, precision full")
        assert start["settings"]["n_samples"] == 3
        assert (line["kind"], line["file"], line["index"]) == ("picture", "samples/00000.png", 0)
        assert (line["seconds"], line["batch"], line["key"]) == (1.5, 3, run.keys[0].key)
        assert line["job"] == run.jobs[0].model_dump(mode="json")
        assert run.events[-1] == Saved(image.path, image.record.values())

    def test_a_failed_image_becomes_a_note_and_a_line(self, tmp_path: Path) -> None:
        run = Setup(tmp_path)
        writer, _ = run.writer()
        assert writer.save(FailedImage(run.jobs[1], ModelError("NaN", why="It is so."))) is None
        assert run.notes[-1].startswith("image 2 skipped: NaN")
        line = run.lines()[-1]
        assert (line["kind"], line["index"], line["key"]) == ("failed", 1, run.keys[1].key)
        assert line["error"].startswith("NaN")
        assert list((tmp_path / "samples").iterdir()) == []

    def test_a_withheld_image_becomes_a_line_with_its_verdict(self, tmp_path: Path) -> None:
        run = Setup(tmp_path)
        writer, _ = run.writer()
        assert writer.save(WithheldImage(run.jobs[2], ImageRecord.new(safety=unsafe("skip")))) is None
        line = run.lines()[-1]
        assert (line["kind"], line["index"]) == ("withheld", 2)
        assert (line["safety"]["checker"], line["safety"]["done"]) == ("toy", "skip")

    def test_an_unneeded_image_is_read_from_disk_for_the_grid(self, tmp_path: Path) -> None:
        Setup(tmp_path).execute()
        before = pixels(tmp_path / "grid-0000.png")
        (tmp_path / "grid-0000.png").unlink()
        run = Setup(tmp_path, resume=str(tmp_path))
        writer, batch = run.writer()
        assert batch.needed == [False] * 3
        for job in run.jobs:
            assert writer.save(UnneededImage(job)) is None
        writer.close()
        assert run.saved == ["grid-0000.png"]
        assert np.array_equal(pixels(tmp_path / "grid-0000.png"), before)
        assert run.events[-1] == Finished(0, f"in {tmp_path}", existing=3)


class TestOutput:
    def test_standard_output_gets_the_file_as_an_event(self, tmp_path: Path) -> None:
        run = Setup(tmp_path / "out", n_samples=1, output="-", skip_grid=True)
        (image,) = run.execute()
        (data,) = [event.data for event in run.events if isinstance(event, Output)]
        assert run.events[-1] == Finished(1, "to standard output", (42,))
        assert data.startswith(b"\x89PNG")
        assert image.path is None
        assert not (tmp_path / "out").exists()

    def test_output_names_the_file(self, tmp_path: Path) -> None:
        run = Setup(tmp_path / "out", n_samples=1, output=str(tmp_path / "one.png"))
        (image,) = run.execute()
        assert image.path == tmp_path / "one.png"
        assert run.events[-1] == Finished(1, f"saved as {image.path}", (42,))
        assert not (tmp_path / "out").exists()

    def test_a_file_that_appears_meanwhile_is_not_overwritten(self, tmp_path: Path) -> None:
        run = Setup(tmp_path / "out", n_samples=1, output=str(tmp_path / "one.png"))
        (tmp_path / "one.png").write_bytes(b"other")
        with pytest.raises(OutputError, match="cannot write"):
            run.execute()
        assert (tmp_path / "one.png").read_bytes() == b"other"

    def test_with_skip_save_nothing_is_written(self, tmp_path: Path) -> None:
        run = Setup(tmp_path / "out", skip_save=True, skip_grid=True)
        assert [image.path for image in run.execute()] == [None] * 3
        assert run.events[-1] == Finished(3, "not saved", (42,))
        assert not (tmp_path / "out").exists()

    def test_the_grid_has_its_own_record(self, tmp_path: Path) -> None:
        run = Setup(tmp_path)
        run.execute()
        assert run.saved == ["samples/00000.png", "samples/00001.png", "samples/00002.png", "grid-0000.png"]
        with Image.open(tmp_path / "grid-0000.png") as file:
            record = record_in(texts.read(file))
        assert record is not None and record.values()["grid"]["n_samples"] == 3
        assert record.job == run.jobs[0]
        assert [line["kind"] for line in run.lines()] == ["run", "picture", "picture", "picture", "grid"]

    def test_the_gallery_is_announced_and_finished(self, tmp_path: Path) -> None:
        run = Setup(tmp_path, gallery=True)
        run.execute()
        assert f"the gallery is {tmp_path / 'gallery-0000.html'}" in run.notes
        assert "<p>3 images</p>" in (tmp_path / "gallery-0000.html").read_text("utf-8")

    def test_what_is_missing_is_known_before_it_is_generated(self, tmp_path: Path) -> None:
        Setup(tmp_path).execute()
        (tmp_path / "samples/00001.png").unlink()
        run = Setup(tmp_path, resume=str(tmp_path), gallery=True)
        assert [image.path for image in run.execute()] == [tmp_path / "samples/00001.png"]
        (started,) = [event for event in run.events if isinstance(event, Started)]
        assert (started.images, started.missing) == (3, 1)
        assert run.events[-1] == Finished(1, f"in {tmp_path}", (42,), existing=2)
        again = Setup(tmp_path, resume=str(tmp_path), gallery=True)
        assert again.execute() == []
        assert [event.missing for event in again.events if isinstance(event, Started)] == [0]
        assert [path.name for path in tmp_path.glob("gallery*")] == ["gallery-0000.html"]

    def test_the_journal_exists_before_the_model_s_checksum_is_computed(self, tmp_path: Path) -> None:
        run = Setup(tmp_path)
        run.run = Run(run.run.settings, run.events.append, run.run.source)
        existed: list[bool] = []
        source: Any = run.run.source

        def checksum() -> str:
            existed.append((tmp_path / "run-0000.jsonl").exists())
            return "0" * 64

        source.hash = checksum
        run.execute()
        assert existed == [True]


class TestClose:
    def test_skipped_images_are_counted(self, tmp_path: Path) -> None:
        run = Setup(tmp_path)
        writer, _ = run.writer()
        writer.save(generated(run.jobs[0]))
        for job in run.jobs[1:]:
            writer.save(FailedImage(job, ModelError("NaN")))
        with pytest.raises(SkippedError, match="2"):
            writer.close()
        assert (tmp_path / "grid-0000.png").exists(), "of the images that were generated"

    @pytest.mark.parametrize("done", ["replace", "blur", "skip"])
    def test_it_is_an_error_if_every_image_is_withheld(self, tmp_path: Path, done: str) -> None:
        run = Setup(tmp_path)
        writer, _ = run.writer()
        for job in run.jobs:
            image = generated(job, safety=unsafe(done))
            writer.save(WithheldImage(job, image.record) if done == "skip" else image)
        with pytest.raises(WithheldError):
            writer.close()

    @pytest.mark.parametrize("last", [None, unsafe("keep")])
    def test_it_is_no_error_if_one_image_is_saved_as_generated(self, tmp_path: Path, last: SafetyRecord | None) -> None:
        run = Setup(tmp_path)
        writer, _ = run.writer()
        writer.save(generated(run.jobs[0], safety=unsafe("replace")))
        writer.save(WithheldImage(run.jobs[1], ImageRecord.new(safety=unsafe("skip"))))
        writer.save(generated(run.jobs[2], safety=last))
        writer.close()

    def test_withheld_images_of_an_earlier_start_count(self, tmp_path: Path) -> None:
        first = Setup(tmp_path)
        writer, _ = first.writer()
        for job in first.jobs:
            writer.save(WithheldImage(job, ImageRecord.new(safety=unsafe("skip"))))
        with pytest.raises(WithheldError):
            Setup(tmp_path, resume=str(tmp_path)).execute()


class TestClaims:
    def resumed(self, tmp_path: Path, **settings: Any) -> Setup:
        return Setup(tmp_path, resume=str(tmp_path), **settings)

    def test_each_claim_is_released_once_its_image_is_saved(self, tmp_path: Path) -> None:
        run = self.resumed(tmp_path)
        writer, _ = run.writer()
        writer.save(generated(run.jobs[0]))
        writer.save(FailedImage(run.jobs[1], ModelError("NaN")))
        with claimed_elsewhere(tmp_path, *run.keys[:2]):
            pass
        with pytest.raises(AssertionError), claimed_elsewhere(tmp_path, run.keys[2]):
            pass

    def test_all_claims_are_released_if_saving_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OutputError("the disk is full")

        run = self.resumed(tmp_path)
        monkeypatch.setattr(OutputFolder, "save_sample", full)
        with pytest.raises(OutputError):
            run.execute()
        with claimed_elsewhere(tmp_path, *run.keys):
            pass

    def test_all_claims_are_released_if_the_caller_stops(self, tmp_path: Path) -> None:
        run = self.resumed(tmp_path)
        images = execute(run.run, run.events.append)
        next(images)
        images.close()
        with claimed_elsewhere(tmp_path, *run.keys):
            pass

    def test_images_of_another_process_are_left_to_it_and_there_is_no_grid(self, tmp_path: Path) -> None:
        run = self.resumed(tmp_path)
        tmp_path.joinpath("samples").mkdir()
        with claimed_elsewhere(tmp_path, run.keys[1]):
            images = run.execute()
        assert [image.job.index for image in images] == [0, 2]
        assert run.saved == ["samples/00000.png", "samples/00001.png"]
        assert sum("no grid" in note for note in run.notes) == 1
        assert isinstance(run.events[-1], Finished) and run.events[-1].elsewhere == 1
        again = self.resumed(tmp_path)
        (missing,) = again.execute()
        assert missing.job.index == 1
        assert again.saved == ["samples/00002.png", "grid-0000.png"]

    def test_a_lost_image_is_generated_again_under_its_name_with_the_same_bytes(self, tmp_path: Path) -> None:
        Setup(tmp_path).execute()
        lost = tmp_path / "samples/00001.png"
        before = lost.read_bytes()
        lost.unlink()
        run = self.resumed(tmp_path)
        (image,) = run.execute()
        assert image.path == lost and lost.read_bytes() == before
        assert run.saved == ["samples/00001.png"], "the grid is not written again"
