"""`sdcli watermark`: exit code, standard output, standard error, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from tests.cli.conftest import Ended, Run

IMAGES = Path(__file__).parents[1] / "data/images"
TEXT = "StableDiffusionV1"


Watermark = Callable[..., "Ended"]


@pytest.fixture
def watermark(run: Run) -> Watermark:
    """`sdcli watermark` in the test's folder."""
    return partial(run, "watermark")


def draw(path: Path, size: int = 128, **chunks: str) -> Path:
    """A shaded disc on a light ground; `chunks` become PNG text."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    disc = np.stack([240 - 60 * y, 120 + 200 * x, 30 + 90 * y], axis=-1)
    pixels = np.where((x**2 + y**2 < 0.12)[..., None], disc, 245).clip(0, 255).round().astype(np.uint8)
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key, value)
    Image.fromarray(pixels).save(path, pnginfo=info if path.suffix == ".png" else None)
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_write_then_read(watermark: Watermark, tmp_path: Path) -> None:
    source = draw(tmp_path / "a.png")
    before = source.read_bytes()
    written = watermark("--add", "a.png")
    assert (written.returncode, written.stdout, written.stderr) == (0, "a.marked.png\n", "")
    assert source.read_bytes() == before
    read = watermark("a.marked.png", "a.png")
    assert read.returncode == 1  # because of the second
    first, second = read.stdout.splitlines()
    assert first == f"a.marked.png: found '{TEXT}' (robust, 0 of 136 bits wrong)"
    assert second.startswith(f"a.png: no '{TEXT}'")
    assert "a.png has no record" in read.stderr
    assert "--expect" in read.stderr
    assert watermark("a.marked.png").returncode == 0


@pytest.mark.slow
def test_another_text_is_read_from_the_record_of_the_image(watermark: Watermark, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    text = "Ätelier № 7"
    written = watermark("--add", "--watermark", text, "-o", "b.PNG", "a.png")
    assert (written.returncode, written.stdout) == (0, "b.PNG\n")
    with Image.open(tmp_path / "b.PNG") as image:
        image.save(tmp_path / "bare.webp", lossless=True)
    read = watermark("--json", "b.PNG", "bare.webp")
    kept, bare = map(json.loads, read.stdout.splitlines())
    bits = 8 * len(text.encode())
    assert kept["file"] == "b.PNG"
    mark = {"text": text, "method": "robust", "found": True, "wrong_bits": 0, "bits": bits}
    assert kept == {"file": "b.PNG"} | mark
    assert bare == bare | {"file": "bare.webp", "text": TEXT, "found": False}
    assert read.returncode == 1
    expected = watermark("--expect", text, "--quiet", "bare.webp")
    assert expected.returncode == 0
    assert f"found '{text}'" in expected.stdout
    wrong = watermark("--expect", "another text", "--quiet", "b.PNG")
    assert (wrong.returncode, wrong.stderr) == (1, "")


@pytest.mark.slow
def test_the_method_of_the_original(watermark: Watermark, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    written = watermark("--add", "--watermark-method", "dwtDct", "--json", "a.png")
    assert written.returncode == 0
    output = json.loads(written.stdout)
    assert (output["file"], output["method"], output["found"]) == ("a.marked.png", "dwtDct", True)
    with Image.open(tmp_path / "a.marked.png") as image:
        image.save(tmp_path / "bare.png")  # without the record
    read = watermark("a.marked.png", "bare.png")
    assert read.returncode == 0
    assert read.stdout.count(f"found '{TEXT}' (dwtDct, {output['wrong_bits']} of 136 bits wrong)") == 2


def test_a_copy_keeps_text_and_transparency_and_records_the_new_watermark(watermark: Watermark, tmp_path: Path) -> None:
    old = {"sdcli": "0.1.0", "job": {"prompt": "a ☂"}, "watermark": {"text": "old", "method": "dwtDct", "found": True}}
    source = draw(tmp_path / "a.png", parameters="a ☂\nSteps: 20", Title="Zürich", sdcli=json.dumps(old))
    with Image.open(source) as image:
        image.load()
        info = PngInfo()
        for key, value in image.text.items():  # type: ignore[attr-defined]
            info.add_itxt(key, value)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(source, pnginfo=info)
        alpha = np.asarray(image.getchannel("A"))
    assert watermark("--add", "a.png", "--output", "marked/").returncode == 0
    with Image.open(tmp_path / "marked" / "a.png") as copy:
        copy.load()
        text = copy.text  # type: ignore[attr-defined]
        assert (text["parameters"], text["Title"]) == ("a ☂\nSteps: 20", "Zürich")
        record = json.loads(text["sdcli"])
        assert np.array_equal(np.asarray(copy.getchannel("A")), alpha)
    mark = {"text": TEXT, "method": "robust", "found": True, "wrong_bits": 0, "bits": 136}
    assert record == old | {"watermark": mark}
    assert watermark("marked/a.png").returncode == 0
    # In the image's own folder its name is taken.
    assert watermark("--add", "a.png", "--output", "./").stdout == "a.marked.png\n"


def test_no_file_is_overwritten(watermark: Watermark, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.marked.png").write_text("mine")
    done = watermark("--add", "a.png")
    assert done.returncode == 7
    assert "a.marked.png already exists" in done.stderr
    assert "--output" in done.stderr
    assert (tmp_path / "a.marked.png").read_text() == "mine"
    assert files(tmp_path) == {"a.png", "a.marked.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere.png"], 3, "nowhere.png"),
        (["--add", "--watermark", "x" * 40, "a.png"], 2, "320 bits"),
        (["--add", "--watermark-method", "dwtDct", "a.png"], 2, "65,536"),
        (["--add", "--watermark", "", "a.png"], 2, "empty"),
        (["--expect", "", "a.png"], 2, "empty"),
        (["--add", "-o", "a.jpg", "a.png"], 2, ".png"),
        (["--add", "-o", "b.png", "a.png", "a.png"], 2, "folder"),
        (["--add", "--expect", "x", "a.png"], 2, "--watermark"),
        (["--watermark", "x", "-o", "b.png", "a.png"], 2, "--add"),
        (["--add", "-o", "a.png/deeper/", "a.png"], 7, "a.png/deeper"),
    ],
)
def test_errors_leave_no_file(refuse: Run, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    draw(tmp_path / "a.png")
    done = refuse("watermark", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert files(tmp_path) == {"a.png"}


def test_a_bad_file_does_not_stop_the_others(watermark: Watermark, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    watermark("--add", "a.png")
    good = (tmp_path / "a.marked.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "words.png").write_text("not an image")
    draw(tmp_path / "tiny.png", 64)
    done = watermark("cut.png", "words.png", "tiny.png", "a.marked.png")
    assert done.returncode == 3
    tiny, found = done.stdout.splitlines()
    assert tiny == f"tiny.png: too small for '{TEXT}'"
    assert found.startswith("a.marked.png: found")
    assert "cut.png" in done.stderr
    assert "words.png" in done.stderr


@pytest.mark.parametrize("record", ["", "[]", "{", '{"watermark": 7}', '{"watermark": {"text": ["x"]}}', "null"])
def test_a_damaged_record_is_ignored(watermark: Watermark, tmp_path: Path, record: str) -> None:
    draw(tmp_path / "a.png", sdcli=record)
    done = watermark("a.png", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["text"] == TEXT


def test_a_copy_of_a_16_bit_grey_image_keeps_its_look(watermark: Watermark, tmp_path: Path) -> None:
    photo = IMAGES / "grey-16-bit.png"
    assert watermark("--add", photo, "-o", "a.png").returncode == 0
    with Image.open(photo) as image, Image.open(tmp_path / "a.png") as copy:
        assert np.abs(np.asarray(copy).mean(axis=-1) - np.asarray(image) / 257).mean() < 2


def test_a_copy_keeps_the_color_profile_and_the_orientation(watermark: Watermark, tmp_path: Path) -> None:
    with Image.open(draw(tmp_path / "a.png")) as image:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        image.save(tmp_path / "a.jpg", exif=exif, icc_profile=profile, quality=95)
        image.convert("CMYK").save(tmp_path / "b.jpg", icc_profile=profile[:16] + b"CMYK" + profile[20:], quality=95)
    assert watermark("--add", "a.jpg", "b.jpg").returncode == 0
    with Image.open(tmp_path / "a.marked.png") as copy:
        assert copy.getexif()[ExifTags.Base.Orientation] == 6
        assert copy.info["icc_profile"] == profile
    with Image.open(tmp_path / "b.marked.png") as copy:
        assert "icc_profile" not in copy.info, "that of CMYK does not belong to RGB"


def test_a_palette_image_without_palette(watermark: Watermark, tmp_path: Path) -> None:
    written = watermark("--add", IMAGES / "add_assertion_palette.png", "-o", "a.png")
    assert written.returncode in (0, 1), "the image has only one color, so the watermark may not be readable"
    assert written.stdout == "a.png\n"
    assert (tmp_path / "a.png").is_file()


def test_half_characters_in_the_record_are_kept(watermark: Watermark, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", sdcli=r'{"job": {"prompt": "\ud83d"}, "watermark": {"text": "\udc00"}}')
    assert watermark("--add", "a.png").returncode == 0
    with Image.open(tmp_path / "a.marked.png") as copy:
        assert json.loads(copy.text["sdcli"])["job"] == {"prompt": "\ud83d"}  # type: ignore[attr-defined]
    assert watermark("a.png", "a.marked.png", "--json").returncode == 1


@pytest.mark.parametrize("method", ["[]", "{}", "7", "null", '"evil"', '["robust"]'])
def test_a_method_that_does_not_exist_in_the_record(run: Run, tmp_path: Path, method: str) -> None:
    draw(tmp_path / "a.png", sdcli=f'{{"watermark": {{"text": "StableDiffusionV1", "method": {method}}}}}')
    for command in (["watermark"], ["inspect"], ["inspect", "--json"]):
        done = run(*command, "a.png")
        assert done.returncode in (0, 1), done.stderr
        assert done.stdout


def test_a_copy_that_cannot_be_written_does_not_stop_the_others(watermark: Watermark, tmp_path: Path) -> None:
    draw(tmp_path / "tiny.png", 64)
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    (tmp_path / "a.marked.png").write_text("mine")
    done = watermark("--add", "tiny.png", "a.png", "none.png", "b.png")
    assert done.returncode == 7, "the highest of 2, 7, 3 and 0"
    assert done.stdout == "b.marked.png\n"
    for says in ("64x64", "a.marked.png already exists", "none.png"):
        assert says in done.stderr
    assert (tmp_path / "a.marked.png").read_text() == "mine"
