"""The library call, with a toy model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcli.errors import OutputError, SdcliError, UsageError
from sdcli.library import iter_txt2img, txt2img
from sdcli.metadata import texts
from sdcli.metadata.record import record_in
from tests.unit.pipeline.toy_model import ToySource

TOY: dict[str, Any] = {"device": "cpu", "no_watermark": True, "safety_checker": "off", "steps": 2, "precision": "full"}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ToySource:
    """The toy model in place of the builtin one."""
    toy = ToySource()
    monkeypatch.setattr("sdcli.models.find_for", lambda settings: toy)
    return toy


def test_a_library_call_saves_nothing_by_default(
    source: ToySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = txt2img("a red apple", n_samples=2, n_iter=1, **TOY)
    assert [image.job.prompt for image in images] == ["a red apple"] * 2
    assert [image.path for image in images] == [None, None]
    for image in images:
        assert image.pixels.shape == (16, 16, 3) and image.pixels.dtype == np.uint8
        assert isinstance(image.image, Image.Image) and image.image.size == (16, 16)
        assert image.record.job == image.job
    assert list(tmp_path.iterdir()) == []


def test_a_library_call_saves_into_outdir(source: ToySource, tmp_path: Path) -> None:
    images = txt2img("a red apple", outdir=tmp_path, n_samples=2, n_iter=2, **TOY)
    assert [image.path for image in images] == [tmp_path / f"samples/0000{number}.png" for number in range(4)]
    for image in images:
        assert image.path is not None
        with Image.open(image.path) as file:
            assert np.array_equal(np.asarray(file), image.pixels)
    assert (tmp_path / "grid-0000.png").exists()
    assert source.loads == 1


@pytest.mark.parametrize("name", ["new.png", "new.jpg", "new.webp"])
def test_a_saved_image_keeps_its_record(source: ToySource, tmp_path: Path, name: str) -> None:
    (image,) = txt2img("a red apple", n_samples=1, n_iter=1, **TOY)
    path = image.save(tmp_path / name)
    assert path == tmp_path / name
    with Image.open(path) as file:
        assert file.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[4:]]
        assert record_in(texts.read(file)) == image.record
    with pytest.raises(OutputError, match=f"cannot write to .*{name}"):
        image.save(path)


def test_an_image_is_not_saved_under_a_suffix_of_no_format(source: ToySource, tmp_path: Path) -> None:
    (image,) = txt2img("a red apple", n_samples=1, n_iter=1, **TOY)
    with pytest.raises(OutputError, match=r"new\.gif has the suffix of no image format") as caught:
        image.save(tmp_path / "new.gif")
    assert ".png, .jpg" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_an_image_prints_as_one_line(source: ToySource, tmp_path: Path) -> None:
    (image,) = txt2img("a red\napple", n_samples=1, n_iter=1, **TOY)
    assert repr(image) == r"<GeneratedImage 'a red\napple' 16x16 seed=42>"
    (image,) = txt2img("a red apple", outdir=tmp_path, n_samples=1, n_iter=1, **TOY)
    assert repr(image) == f"<GeneratedImage 'a red apple' 16x16 seed=42, path='{tmp_path}/samples/00000.png'>"


def test_a_prompt_has_one_image_unless_a_number_is_given(source: ToySource) -> None:
    assert len(txt2img("a cat", **TOY)) == 1
    assert len(txt2img("a cat", images_per_prompt=2, **TOY)) == 2
    assert len(txt2img("a cat", n_samples=2, **TOY)) == 4, "twice, as on the command line"


def test_several_prompts_are_generated_in_order(source: ToySource) -> None:
    images = txt2img(["a cat", "a dog"], images_per_prompt=2, **TOY)
    assert [image.job.prompt for image in images] == ["a cat", "a cat", "a dog", "a dog"]
    images = txt2img(["a cat", "a dog"], seed=[1, 2], **TOY)
    assert [(image.job.prompt, image.job.seed) for image in images] == [
        ("a cat", 1), ("a cat", 2), ("a dog", 1), ("a dog", 2),
    ]  # fmt: skip


def test_images_are_given_as_soon_as_they_are_finished(source: ToySource) -> None:
    events: list[Any] = []
    images = iter_txt2img(["a cat", "a dog"], n_samples=1, n_iter=1, progress=events.append, **TOY)
    assert source.loads == 0
    first = next(images)
    assert (first.job.prompt, source.loads) == ("a cat", 1)
    seen = len(events)
    assert [image.job.prompt for image in images] == ["a dog"]
    assert len(events) > seen


def test_an_error_is_raised_by_the_call_itself(source: ToySource) -> None:
    with pytest.raises(UsageError):
        iter_txt2img("a cat", **TOY | {"steps": 0})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, ["steps 0 is out of range"]),
        ({"height": 13}, ["height 13 is not a size"]),
        ({"negative": "x", "scale": "much"}, ["scale 'much' is not valid"]),
        ({"step": 3}, ["txt2img() has no setting step", "Did you mean steps?"]),
        ({"guidnce_scale": 3}, ["has no setting guidnce_scale"]),
        ({"controlnet": "x"}, ["has no setting controlnet", "ControlNet"]),
        ({"sampler": "eulr"}, ["sampler 'eulr' is not valid"]),
        ({"eta": 0.5, "sampler": "plms"}, ["eta 0.5 cannot be used", "pass sampler with one of: ddim, tcd"]),
    ],
)
def test_errors_name_keywords(source: ToySource, settings: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(SdcliError) as caught:
        txt2img("a cat", **TOY | settings)
    for text in says:
        assert text in str(caught.value)
    assert "--" not in str(caught.value)


def test_no_prompt_is_an_error(source: ToySource) -> None:
    with pytest.raises(UsageError, match="prompt is an empty list"):
        txt2img([], **TOY)


def test_settings_have_the_names_of_other_tools_too(source: ToySource) -> None:
    rest = {name: value for name, value in TOY.items() if name != "steps"}
    (image,) = txt2img("a cat", num_inference_steps=4, guidance_scale=2.0, **rest)
    assert (image.job.steps, image.job.scale) == (4, 2.0)
