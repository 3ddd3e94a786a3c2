"""Prompts that the builtin model does not understand whole: notes, errors, jobs and records."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdcli.dry_run import DryRun, Forecast
from sdcli.errors import InputFileError, SkippedError, UsageError
from sdcli.events import Event, Note
from sdcli.library import txt2img
from sdcli.settings import Settings, default
from tests.unit.pipeline.toy_model import ToySource


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(**settings: object) -> tuple[list[Forecast], list[str]]:
    """The images of a run of the builtin model, and its notes."""
    events: list[Event] = []
    forecasts = list(DryRun(Settings.of(**({"n_samples": 1, "n_iter": 1} | settings)), events.append))
    return forecasts, [event.text for event in events if isinstance(event, Note)]


def read_as(**settings: object) -> list[str | None]:
    return [one.job.read_as for one in planned(**settings)[0]]


def test_the_job_keeps_the_prompt_and_what_it_was_read_as() -> None:
    ((one,), notes) = planned(prompt="a spaceship and an astronaut")
    assert (one.job.prompt, one.job.read_as) == ("a spaceship and an astronaut", "a rocket")
    assert one.job.encoded == "a rocket"
    assert one.reading == {"taken": {"spaceship": "rocket"}, "unknown": ["astronaut"]}
    assert notes == ["spaceship: drawn as rocket", "astronaut: not known to the model, ignored"]


def test_a_prompt_in_words_of_the_model_is_not_changed() -> None:
    ((one,), notes) = planned(prompt="a cat on a blue background")
    assert one.job.read_as is None
    assert "read_as" not in one.job.model_dump(), "earlier versions refuse the field"
    assert (one.reading, notes) == ({}, [])


def test_the_default_prompt_is_a_monster() -> None:
    ((one,), _) = planned(prompt=default("prompt"))
    assert one.job.read_as == "a space invader next to a guitar"


@pytest.mark.parametrize("prompt", ["an aple", "{asdf|qwert}", "Mona Lisa"])
def test_no_word_known_is_an_error_before_the_model_loads(prompt: str) -> None:
    with pytest.raises(UsageError, match="knows no word of the prompt") as caught:
        txt2img(prompt, n_iter=1)
    assert "sdcli models words" in caught.value.fix
    assert "any_words" in caught.value.fix
    assert "model MODEL" in caught.value.fix
    assert ("apple" in caught.value.why) == (prompt == "an aple")


def test_any_words_generates_it_as_it_is() -> None:
    ((one,), notes) = planned(prompt="an aple", any_words=True)
    assert one.job.read_as is None
    assert notes == ["aple: not known to the model, the image is arbitrary"]


def test_a_row_of_a_file() -> None:
    Path("rows.txt").write_text("a cat\nasdf\nein Hund\n", encoding="utf-8")
    with pytest.raises(
        InputFileError, match=r"rows\.txt, line 2: the model builtin knows no word of the prompt 'asdf'"
    ):
        planned(from_file="rows.txt")
    forecasts, notes = planned(from_file="rows.txt", on_error="skip")
    assert [one.job.read_as for one in forecasts] == [None, "a dog"]
    assert notes[0] == "Hund: drawn as dog"
    assert notes[1].startswith("skipped: rows.txt, line 2: ")
    assert read_as(from_file="rows.txt", any_words=True) == [None, None, "a dog"]


def test_a_choice_of_a_template_in_a_file() -> None:
    Path("rows.txt").write_text("a cat\n{asdf|qwert}\n", encoding="utf-8")
    with pytest.raises(InputFileError, match="image 2: the model builtin knows no word"):
        planned(from_file="rows.txt")
    forecasts, notes = planned(from_file="rows.txt", on_error="skip")
    assert [one.job.prompt for one in forecasts] == ["a cat"]
    assert [note.split(":")[:2] for note in notes] == [["skipped", " image 2"]]
    assert issubclass(SkippedError, InputFileError)


def test_each_choice_is_read() -> None:
    assert read_as(prompt="{ein Hund|a cat|a spaceship}", matrix=True) == ["a dog", None, "a rocket"]


def test_an_empty_prompt_is_generated_with_a_note() -> None:
    ((one,), notes) = planned(prompt="")
    assert one.job.read_as is None
    assert notes == ["the prompt is empty: the image is arbitrary"]


def test_notes_are_few_however_many_prompts() -> None:
    words = [
        "gato",
        "perro",
        "manzana",
        "árbol",
        "flor",
        "libro",
        "casa",
        "playa",
        "reloj",
        "avión",
        "barco",
        "pastel",
        "sol",
    ]
    Path("rows.txt").write_text("\n".join([*words, *words]), encoding="utf-8")
    forecasts, notes = planned(from_file="rows.txt")
    assert len(forecasts) == 26
    assert len(notes) == len(set(notes)) == 12
    assert notes[-1] == "further words are drawn as others or ignored; see --dry-run"


def test_negative_prompts_are_not_read() -> None:
    ((one,), notes) = planned(prompt="a cat", negative_prompt="asdf")
    assert (one.job.negative_prompt, notes) == ("asdf", [])


def test_other_models_have_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcli.models.find_for", lambda settings: ToySource())
    settings = {"device": "cpu", "no_watermark": True, "safety_checker": "off", "steps": 2, "precision": "full"}
    (image,) = txt2img("a", n_samples=1, n_iter=1, **settings)
    assert image.job.read_as is None
    assert "reading" not in image.record.values()
