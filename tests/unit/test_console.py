"""What the console prints for the events of a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sdcli.cli import viewer
from sdcli.cli.console import RunConsole, duration
from sdcli.events import BatchStarted, Event, Finished, Note, Phase, Saved, Started, StepDone
from sdcli.signals import Stopped

IMAGE = Saved(Path("out/samples/00000.png"), {})
SECOND = Saved(Path("out/samples/00001.png"), {})
GRID = Saved(Path("out/grid-0000.png"), {"page": 0})


@pytest.fixture(autouse=True)
def every_line_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcli.cli.console._SECONDS_BETWEEN_LINES", 0)


class Printed:
    """The lines on standard error that events give."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *events: Event, quiet: bool = False, **how: Any) -> list[str]:
        with RunConsole(quiet=quiet, as_json=False, **how) as console:
            for event in events:
                console(event)
        return [line.removeprefix("sdcli: ") for line in self.capsys.readouterr().err.splitlines()]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Started(1, "m", "cpu"), "generating 1 image with m on cpu"),
        (Started(None, "m", "cpu"), "generating images with m on cpu"),
        (
            Started(6, "m", "cpu", "3 prompts x 2 iterations", 2),
            "generating 3 prompts x 2 iterations = 6 images with m on cpu",
        ),
        (
            Started(6, "m", "cpu", "3 prompts x 2 iterations", 2, missing=2),
            "generating 2 of 6 images (4 exist) with m on cpu",
        ),
    ],
)
def test_the_first_line(printed: Printed, event: Started, line: str) -> None:
    assert printed(event) == [line]


def test_steps_have_their_batch_and_a_reason_once(printed: Printed) -> None:
    why = "30 steps take 31 evaluations of the model: as it is"
    batches = [BatchStarted(3, 31, 1, why), StepDone(11), BatchStarted(1, 31, 2, why), StepDone(0)]
    assert printed(Started(4, "m", "cpu", "", 2), *batches)[1:] == [
        why, "batch 1 of 2: 3 images, step 12 of 31", "batch 2 of 2: 1 image, step 1 of 31",
    ]  # fmt: skip
    assert printed(Started(None, "m", "cpu"), *batches)[2] == "batch 1: 3 images, step 12 of 31"
    assert printed(Started(3, "m", "cpu", "", 1), *batches[:2])[2] == "3 images, step 12 of 31"


def test_further_lines_of_a_note_are_indented(printed: Printed) -> None:
    assert printed(Note("skipped: it is wrong\nPass another.")) == ["skipped: it is wrong", "  Pass another."]


def test_a_phase_is_printed_once(printed: Printed) -> None:
    """The process has printed the first one when it started."""
    names = ("importing libraries", "hashing model", "hashing model", "loading model")
    assert printed(*map(Phase, names)) == ["hashing model", "loading model"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Finished(6, "in out", (42,)), "6 images in 1 second, in out, seed 42"),
        (Finished(1, "saved as cat.png", (1,)), "1 image in 1 second, saved as cat.png, seed 1"),
        (Finished(3, "not saved", (1, 2, 3)), "3 images in 1 second, not saved, seeds 1, 2, 3"),
        (Finished(9, "in out", (1, 2), more_seeds=True), "9 images in 1 second, in out, seeds 1, 2 and more"),
        (
            Finished(2, "in out", (42,), existing=3, elsewhere=1, withheld=1, failed=2, skipped_rows=1),
            "2 images in 1 second, in out, seed 42, 3 already existed, 1 left to another process, 1 withheld, 2 failed,"
            " 1 row skipped",
        ),
        (Finished(0, "in out", failed=2), "0 images in 1 second, 2 failed"),
        (Finished(0, "in out", existing=6), "all 6 images exist; nothing to generate"),
        (Finished(0, "in out", existing=2), "both images exist; nothing to generate"),
        (Finished(0, "in out", existing=1), "the image exists; nothing to generate"),
    ],
)
def test_the_last_line(printed: Printed, event: Finished, line: str) -> None:
    assert printed(event) == [line]
    assert printed(event, quiet=True) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 second"),
        (1.4, "1 second"),
        (94, "94 seconds"),
        (150, "2.5 minutes"),
        (3600, "60 minutes"),
        (7200, "2.0 hours"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("resumable", "events", "advised"), [(True, [IMAGE], True), (True, [], False), (False, [IMAGE], False)]
)
def test_resume_is_advised_where_it_helps(resumable: bool, events: list[Event], advised: bool) -> None:
    with pytest.raises(Stopped) as stopped, RunConsole(quiet=True, as_json=False, resumable=resumable) as console:
        for event in events:
            console(event)
        raise Stopped(2)
    assert ("--resume" in stopped.value.advice) is advised


class TestOpen:
    @pytest.mark.parametrize(
        ("saved", "opened"),
        [
            ([IMAGE], "out/samples/00000.png"),
            ([IMAGE, SECOND], "out/samples"),
            ([IMAGE, SECOND, GRID], "out/grid-0000.png"),
            ([GRID], "out/grid-0000.png"),
        ],
    )
    def test_one_window(
        self, printed: Printed, monkeypatch: pytest.MonkeyPatch, saved: list[Event], opened: str
    ) -> None:
        calls: list[Path] = []
        monkeypatch.setattr(viewer, "open_in_viewer", lambda path: calls.append(path) or "")
        assert len(printed(*saved, Finished(1), open_last=True)) == 1
        assert calls == [Path(opened)]

    def test_what_cannot_be_opened_is_a_note(self, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setenv("PATH", "")
        start = "--open: nothing is opened, because "
        assert printed(IMAGE, Finished(1), open_last=True)[1] == f"{start}there is no program xdg-open"
        assert printed(Finished(1), open_last=True)[1] == f"{start}no image was saved"

    def test_the_viewer_is_not_waited_for_and_prints_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        program = tmp_path / "xdg-open"
        program.write_text(f'#!/bin/sh\necho noise\necho "$1" > {tmp_path}/opened\n')
        program.chmod(0o755)
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("DISPLAY", ":0")
        assert viewer.open_in_viewer(tmp_path / "a.png") == ""
        for _ in range(1000):
            if (tmp_path / "opened").exists() and (tmp_path / "opened").read_text():
                break
            time.sleep(0.01)
        assert (tmp_path / "opened").read_text() == f"{tmp_path}/a.png\n"
        assert capfd.readouterr() == ("", "")


def test_show_without_a_terminal_is_a_note(printed: Printed) -> None:
    assert printed(IMAGE, show=True) == ["--show: no image is shown, because this is not a terminal"]
