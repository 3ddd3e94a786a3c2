"""`sdcli inspect`: exit code, standard output, standard error."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdcli import rerun
from sdcli.metadata import a1111
from sdcli.outputs import formats
from sdcli.records import ImageRecord
from sdcli.stages.watermark import Mark, write
from tests.jobs import job

if TYPE_CHECKING:
    from tests.cli.conftest import Run

JOB = job(
    prompt="a [bold]red[/] apple, \x1b]0;owned\x07 ein Apfel 🍎", seed=42, scale=3.0, model_hash="ab" * 32, index=4,
    noise={"before": [[3, 20]], "rows": 3, "row": 1}, height=128, width=128,
)  # fmt: skip
IMAGES = Path(__file__).parents[1] / "data/images"
MARK = Mark("StableDiffusionV1", "robust")


def generated(path: Path, format: str) -> Path:
    """An image file of sdcli."""
    pixels = write(np.full((128, 128, 3), 200, dtype=np.uint8), MARK)
    record = ImageRecord.new(
        words_cut=None,
        job=JOB.model_dump(mode="json"),
        settings={},
        safety={"checker": "opennsfw", "flagged": False, "scores": {"nsfw": 0.01}, "source": "x", "done": None},
        watermark={"text": MARK.text, "method": MARK.method, "found": True, "wrong_bits": 0, "bits": 136},
        device="cpu",
        precision="full",
    )
    path.write_bytes(formats.encode(pixels, record.values(), a1111.write(JOB), format))
    return path


def foreign(path: Path, **chunks: str) -> Path:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key, value)
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    return path


def test_tables_fit_80_columns_and_do_not_control_the_terminal(run: Run, tmp_path: Path) -> None:
    generated(tmp_path / "a.jpg", "jpeg")
    foreign(
        tmp_path / "b.png",
        parameters="a \x9b31mcat\nSteps: 20, Sampler: Restart, Schedule type: KL Optimal, Seed: 1, Hires: \x1b[2J",
    )
    shown = run("inspect", "a.jpg", "b.png", COLUMNS="80")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert not {"\x1b", "\x07", "\x9b", "…"} & set(shown.stdout)
    lines = " ".join(shown.stdout.split())
    for words in (
        "JPEG, 128 x 128 pixels", r"a [bold]red[/] apple, \x1b]0;owned\x07 ein Apfel 🍎", "42, random numbers of CUDA",
        "image 5 of its run, 2 of 3 in its batch", "Sampler PLMS", "Model builtin",
        "Model hash abababababababab Computed on cpu", "safe by opennsfw",
        "'StableDiffusionV1' by robust; wrong bits of 136: 0 when saved, 0 now", "AUTOMATIC1111's web UI",
        r"a \u009b31mcat", "Sampler Restart (sdcli does not have it)", r"Hires \x1b[2J",
        "Schedule KL Optimal (sdcli does not have it)",
        "Unknown height, width, scale, model",
    ):  # fmt: skip
        assert words in lines, words


def test_json_and_a_bad_file_among_good_ones(run: Run, tmp_path: Path) -> None:
    generated(tmp_path / "a.webp", "webp")
    (tmp_path / "words.png").write_text("not an image")
    foreign(tmp_path / "bare.png")
    shown = run("inspect", "--json", "none.png", "a.webp", "words.png", "bare.png")
    assert shown.returncode == 3
    assert "none.png" in shown.stderr
    assert "words.png" in shown.stderr
    ours, bare = map(json.loads, shown.stdout.splitlines())
    assert (ours["file"], ours["format"], ours["tool"], ours["unknown"]) == ("a.webp", "WEBP", "sdcli", [])
    assert ours["record"]["job"] == JOB.model_dump(mode="json")
    assert ours["settings"]["prompt"] == JOB.prompt
    assert (ours["watermark"]["found"], ours["watermark"]["wrong_bits"]) == (True, 0)
    assert (bare["file"], bare["tool"], bare["settings"], bare["record"]) == ("bare.png", None, {}, None)


def test_pixels_are_needed_for_the_watermark_only(refuse: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = generated(tmp_path / "cut.png", "png")
    cut.write_bytes(cut.read_bytes()[:-40])
    generated(tmp_path / "large.png", "png")
    with monkeypatch.context() as patch:
        patch.setattr(import_module("sdcli.cli.inspect"), "_MOST_PIXELS", 128 * 128 - 1)
        large = json.loads(refuse("inspect", "--json", "large.png").stdout)
    small = json.loads(refuse("inspect", "--json", "cut.png").stdout)
    for values, note in ((large, "more than 16,383 pixels"), (small, "the pixels cannot be decoded: ")):
        assert (values["width"], values["height"], values["watermark"]) == (128, 128, None)
        assert values["settings"]["prompt"] == JOB.prompt
        assert note in values["notes"][0]
    assert "the pixels cannot be decoded" in " ".join(refuse("inspect", "cut.png").stdout.split())
    assert refuse("inspect", "--command", "cut.png").returncode == 0


def test_a_grid(run: Run, tmp_path: Path) -> None:
    record = ImageRecord.new(grid={"n_samples": 4}, page=0, job=JOB.model_dump(mode="json"), watermark=None)
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    (tmp_path / "grid.png").write_bytes(formats.encode(pixels, record.values(), a1111.write(JOB)))
    shown = run("inspect", "grid.png")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "of the images of one run" in shown.stdout
    assert not {"None", "Safety", "Computed", "Place"} & set(shown.stdout.split())


def test_an_image_without_metadata_ends_with_1(run: Run, tmp_path: Path) -> None:
    foreign(tmp_path / "bare.png")
    shown = run("inspect", "bare.png")
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "unknown" in shown.stdout


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_command_of_a_foreign_file_executes_nothing(run: Run, tmp_path: Path, shell: str) -> None:
    """The prompt of the file leaves the quotes of a shell that does not know $'...'."""
    shown = run("inspect", "--command", IMAGES / "inj_own.png")
    assert "touch PWNED" in shown.stdout
    script = f'sdcli() {{ printf "%s" "$3"; }}\n{shown.stdout}'
    ended = subprocess.run([shell, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == (r"\x01'; touch PWNED #", "")
    assert not list(tmp_path.iterdir())


def test_the_command_line_of_an_image(run: Run, tmp_path: Path) -> None:
    generated(tmp_path / "a.png", "png")
    foreign(tmp_path / "b.png", Dream='"a cat" -s 20 -S 7 -A k_lms -U2')
    foreign(tmp_path / "bare.png")
    shown = run("inspect", "--command", "a.png", "b.png", "bare.png")
    assert shown.returncode == 1
    first, comment, second = shown.stdout.splitlines()
    assert comment.startswith("# not the same image, because control characters are written as escapes")
    assert [first, second] == [
        r"sdcli txt2img --prompt 'a [bold]red[/] apple, '\\'x1b]0;owned'\\'x07 ein Apfel 🍎' --compat --H 128 --W 128 "
        "--n_samples 2 --n_iter 2 --ddim_steps 20 --sampler plms --scale 3.0 --seed 42 --precision full "
        "--model builtin --safety-checker opennsfw --watermark-method robust",
        "sdcli txt2img --prompt 'a cat' --n_samples 1 --n_iter 1 --ddim_steps 20 --sampler lms --seed 7",
    ]
    assert "-U 2 is ignored" in shown.stderr
    assert "sampler" not in shown.stderr
    assert "bare.png" in shown.stderr


HOSTILE_NAME = "a\x1b[2J\x9b31m\u202egnp\n[bold]x.png"


@pytest.mark.slow
def test_names_of_keys_and_files_do_not_control_the_terminal(run: Run, tmp_path: Path) -> None:
    """Neither escape sequences nor the markup of rich; each file name is one line."""
    name = HOSTILE_NAME
    text = "a cat\nSteps: 20, Sampler: DDIM, \x1b[2J\x9bKey\u202e: 1, [bold]: 2, [/x]: 3"
    foreign(tmp_path / name, parameters=text)
    for command in (
        ["inspect"],
        ["inspect", "--json"],
        ["inspect", "--command"],
        ["watermark"],
        ["watermark", "--json"],
    ):
        ended = run(*command, name, IMAGES / "key_markup.png", f"none {name}")
        assert ended.returncode == 3, ended.stderr
        for stream in (ended.stdout, ended.stderr):
            assert not {"\x1b", "\x9b", "\u202e"} & set(stream), command
        if "--json" in command:
            assert json.loads(ended.stdout.splitlines()[0])["file"] == name
    table = run("inspect", name, IMAGES / "key_markup.png").stdout
    assert r"a\x1b[2J\u009b31m\u202egnp\n[bold]x.png" in table.splitlines()
    assert {"[bold]", "[/x]"} <= {line.split()[0] for line in table.splitlines() if line}
    assert run("watermark", "--add", "--watermark", "ab", name).stdout.splitlines() == [
        r"a\x1b[2J\u009b31m\u202egnp\n[bold]x.marked.png"
    ]


def test_a_bug_with_one_file_does_not_stop_the_others(
    refuse: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated(tmp_path / "a.png", "png")
    read = rerun.read

    def fail(path: Path) -> rerun.Source:
        if path.name == "bad.png":
            raise ZeroDivisionError("one by none")
        return read(path)

    monkeypatch.setattr(rerun, "read", fail)
    ended = refuse("inspect", "--json", "none.png", "bad.png", "a.png")
    assert ended.returncode == 70, "the highest of 3, 70 and 0"
    assert json.loads(ended.stdout)["file"] == "a.png"
    assert "a bug in sdcli with bad.png: ZeroDivisionError: one by none" in ended.stderr
    assert "none.png" in ended.stderr
