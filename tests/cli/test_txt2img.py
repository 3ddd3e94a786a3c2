"""`sdcli txt2img`: exit code, standard output, standard error, files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sdcli import txt2img
from sdcli.settings import flags
from tests.cli.runs import opened, samples

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import SmallCheckpoint

FAST = ("--steps", "2", "--H", "128", "--W", "128", "--n_samples", "1", "--n_iter", "1", "--precision", "full")


def model(checkpoint: SmallCheckpoint) -> list[str]:
    return ["--ckpt", str(checkpoint.ckpt), "--config", str(checkpoint.config)]


@pytest.mark.slow
def test_images_paths_and_records(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    """The same prompt twice: new names, the same pixels, nothing but paths on standard output."""
    arguments = [*model(small_checkpoint), *FAST, "--prompt", "a cat", "--n_samples", "2", "--outdir", "out"]
    first = run("txt2img", *arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == ["out/samples/00000.png", "out/samples/00001.png", "out/grid-0000.png"]
    assert "\x1b" not in first.stderr, "no colours or bars off a terminal"
    assert "2 images" in first.stderr

    image = opened(tmp_path / "out/samples/00001.png")
    assert image.size == (128, 128)
    record = json.loads(image.text["sdcli"])
    assert record["job"]["prompt"] == "a cat"
    assert record["job"]["seed"] == 42
    assert record["job"]["noise"]["row"] == 1
    assert record["safety"]["checker"] == "opennsfw"
    assert record["safety"]["scores"].keys() == {"nsfw"}
    assert record["safety"]["done"] is None
    assert record["watermark"] == {
        "text": "StableDiffusionV1", "method": "robust", "found": True, "wrong_bits": 0, "bits": 136,
    }  # fmt: skip
    assert image.text["parameters"].startswith(
        "a cat\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 128x128"
    )
    sheet = opened(tmp_path / "out/grid-0000.png")
    assert sheet.size == (2 * 130 + 2, 130 + 2)
    assert sheet.text["parameters"] == image.text["parameters"]
    assert json.loads(sheet.text["sdcli"])["job"]["model"] == "v1-small.ckpt"

    second = run("txt2img", *arguments, "--json", "--quiet")
    assert second.returncode == 0
    assert second.stderr == ""
    lines = [json.loads(line) for line in second.stdout.splitlines()]
    assert [line["file"] for line in lines] == ["out/samples/00002.png", "out/samples/00003.png", "out/grid-0001.png"]
    assert lines[0]["job"] == record["job"] | {"index": 0, "noise": record["job"]["noise"] | {"row": 0}}
    for old, new in (("00000", "00002"), ("00001", "00003")):
        assert (tmp_path / f"out/samples/{old}.png").read_bytes() == (tmp_path / f"out/samples/{new}.png").read_bytes()


@pytest.mark.slow
def test_the_library_generates_the_same_images(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    ended = run("txt2img", *model(small_checkpoint), *FAST, "--prompt", "a cat", "--outdir", "out", "--skip-grid")
    assert ended.stdout.splitlines() == ["out/samples/00000.png"]
    (image,) = txt2img(
        "a cat", ckpt=str(small_checkpoint.ckpt), config=str(small_checkpoint.config),
        steps=2, height=128, width=128, n_samples=1, n_iter=1, precision="full",
    )  # fmt: skip
    assert image.path is None
    assert np.array_equal(np.asarray(opened(tmp_path / "out/samples/00000.png")), image.pixels)
    assert image.image.size == (128, 128)


@pytest.mark.slow
def test_spellings(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    """Dashes and underscores are the same, and modern names are aliases of the original ones."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na fox\n")
    ended = run(
        "txt2img", *model(small_checkpoint), "--from_file", "prompts.txt", "--ddim-steps", "2", "--height", "128",
        "--width=128", "--batch_size", "2", "--n-iter", "1", "--guidance_scale", "3", "--sampler", "dpm-solver",
        "--skip-save", "--n-rows", "3", "--outdir", "out",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["out/grid-0000.png"]
    record = json.loads(opened(tmp_path / "out/grid-0000.png").text["sdcli"])
    assert record["grid"]["sampler"] == "dpm_solver"
    assert record["grid"]["scale"] == 3.0
    assert list((tmp_path / "out/samples").iterdir()) == []
    assert opened(tmp_path / "out/grid-0000.png").size == (3 * 130 + 2, 132)


@pytest.mark.slow
def test_a_sampler_by_its_names_in_other_tools(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    """The names give the same files, which have sdcli's own names and those of the web UI."""
    names = (["--sampler", "DPM++ 2M SDE Karras"], ["--sampler", "dpmpp_2m_sde_gpu", "--schedule", "karras"])
    for number, name in enumerate(names):
        ended = run("txt2img", *model(small_checkpoint), *FAST, *name, "--n_iter", "1", "--outdir", f"{number}")
        assert ended.returncode == 0, ended.stderr
    one, other = (samples(tmp_path / f"{number}") for number in range(2))
    assert one == other
    texts = opened(next((tmp_path / "0/samples").iterdir())).text
    job = json.loads(texts["sdcli"])["job"]
    assert (job["sampler"], job["schedule"]) == ("dpmpp_2m_sde", "karras")
    assert "Sampler: DPM++ 2M SDE, Schedule type: Karras, " in texts["parameters"]


@pytest.mark.slow
def test_an_interrupted_process_keeps_what_is_saved(small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sdcli", "txt2img", *model(small_checkpoint), *FAST, "--n_iter", "10000", "--quiet",
         "--outdir", "out"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        # In a background job of a shell, the tests and their children ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout
    path = process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    rest, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert "interrupted" in message
    assert "Traceback" not in message
    saved = [path, *rest.split()]
    assert sorted(saved) == sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "out/samples").iterdir())
    for name in saved:
        opened(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--sampler", "eulr"], 2, ["--sampler", "ddim"]),
        (["--plms", "--ddim_eta", "0.5"], 2, ["--ddim_eta 0.5 cannot be used with the sampler plms", "ddim, tcd"]),
        (["--steps", "0"], 2, ["--steps 0"]),
        (["--steps", "-3"], 2, ["--steps -3"]),
        (["--steps", "105"], 2, ["--steps 105", "100 and 112"]),
        (["--dpm_solver", "--steps", "1"], 2, ["--steps 1", "2 or more"]),
        (["--scale", "much"], 2, ["--scale 'much' is not valid", "Pass a number"]),
        (["--scale", "nan"], 2, ["--scale nan", "finite"]),
        (["--model", "builtin", "--H", "128"], 2, ["--H 128", "256 x 256 pixels only"]),
        (["--model", "builtin", "--W", "1000"], 2, ["--W 1000", "Leave out --W"]),
        (["--original-size", "1024"], 2, ["--original-size '1024' is not valid", "Pass WxH"]),
        (["--crop", "4,4"], 2, ["--crop 4,4 does not work with the model", "Only Stable Diffusion XL"]),
        (["--C", "3"], 2, ["--C 3 contradicts"]),
        (["--f", "4"], 2, ["--f 4 contradicts"]),
        (["--skip_g"], 2, ["--skip_g", "Did you mean --skip_grid"]),
        (["--negativ-promt", "x"], 2, ["--negative-prompt"]),
        (["--model", "x", "--ckpt", "y"], 2, ["--model and --ckpt"]),
        (["--model", "x", "--config", "y"], 2, ["--model and --config"]),
        (["--watermark-method", "dwtDct", "--H", "64"], 2, ["dwtDct"]),
        (["--from-file", "none.txt"], 3, ["none.txt does not exist"]),
        (["--from-file", "empty.txt"], 3, ["empty.txt is empty"]),
        (["--from-file", "binary.txt"], 3, ["binary.txt, line 1: the file is binary"]),
        (["--from-file", "latin1.txt"], 3, ["latin1.txt, line 2: the line is not UTF-8", "iconv"]),
        (["--config", "no.yaml"], 4, ["no.yaml"]),
        (["--config", "list.yaml"], 4, ["list.yaml"]),
        (["--config", "broken.yaml"], 4, ["broken.yaml"]),
        (["--ckpt", "none.ckpt"], 4, ["none.ckpt"]),
        (["--ckpt", "page.ckpt"], 4, ["page.ckpt", "web page"]),
        (["--ckpt", "cut.ckpt"], 4, ["cut.ckpt"]),
        (["--ckpt", "sdxl.safetensors"], 4, ["sdxl.safetensors seems to be a Stable Diffusion XL refiner"]),
        (["--device", "mps"], 5, ["--device mps is not available"]),
        (["--outdir", "empty.txt"], 7, ["cannot write to empty.txt"]),
    ],
)  # fmt: skip
def test_errors_before_the_model_is_loaded(
    refuse: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path, arguments: list[str], code: int, says: list[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"a\0b\n")
    (tmp_path / "latin1.txt").write_bytes(b"ok\ncaf\xe9\n")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "broken.yaml").write_text("model: [\n")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html>\n<html><body>Sign in to download</body></html>\n")
    (tmp_path / "cut.ckpt").write_bytes(small_checkpoint.ckpt.read_bytes()[:100_000])
    write_header(
        tmp_path / "sdxl.safetensors",
        {"conditioner.embedders.0.model.ln_final.weight": [1280], "model.diffusion_model.label_emb.0.0.weight": [4, 4]},
    )
    given = model(small_checkpoint)
    if "--ckpt" in arguments or "--model" in arguments:
        given = given[2:] if "--ckpt" in arguments and "--model" not in arguments else []
    if "--config" in arguments:
        given = given[:2]
    failed = refuse("txt2img", *given, "--outdir", "out", *arguments)
    assert failed.returncode == code, failed.stderr
    assert failed.stdout == ""
    for words in says:
        assert words in failed.stderr, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "loading" not in failed.stderr
    assert not list(tmp_path.glob("out/samples/*"))


def write_header(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file of float32 zeros."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))


def test_a_safety_model_that_is_not_in_the_cache(run: Run) -> None:
    """The cache of the tests is empty, in a forked process too."""
    failed = run("txt2img", "--safety-checker", "clip", "--offline")
    assert (failed.returncode, failed.stdout) == (4, "")
    assert "--safety-checker opennsfw" in failed.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "nobody/nothing"],
        pytest.param(["--safety-checker", "clip", "--safety-model", "nobody/nothing"], marks=pytest.mark.slow),
    ],
)
def test_offline_opens_no_connection(run_python: Run, arguments: list[str]) -> None:
    """The hub is a server that would accept a connection."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        failed = run_python("txt2img", *arguments, "--offline", HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint)
        hub.settimeout(0.1)
        with pytest.raises(TimeoutError):
            hub.accept()
    assert failed.returncode == 4
    assert "nobody/nothing" in failed.stderr


def test_a_hub_id_without_a_network(run_python: Run) -> None:
    failed = run_python("txt2img", "--model", "nobody/nothing", HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert failed.returncode == 4
    assert "the hub cannot be reached" in failed.stderr
    assert "--ckpt" in failed.stderr


@pytest.mark.slow
def test_laion400m_has_another_default_checkpoint_and_folder(
    run: Run, small_laion_checkpoint: SmallCheckpoint, tmp_path: Path
) -> None:
    missing = run("txt2img", "--laion400m")
    assert missing.returncode == 4
    assert "models/ldm/text2img-large/model.ckpt" in missing.stderr
    default = tmp_path / "models/ldm/text2img-large/model.ckpt"
    default.parent.mkdir(parents=True)
    default.symlink_to(small_laion_checkpoint.ckpt)
    ended = run("txt2img", "--laion400m", "--config", small_laion_checkpoint.config, *FAST, "--skip_grid")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["outputs/txt2img-samples-laion400m/samples/00000.png"]


@pytest.mark.slow
def test_every_image_withheld(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    ended = run(
        "txt2img", *model(small_checkpoint), *FAST, "--safety-checker", "opennsfw", "--nsfw-threshold", "0",
        "--no-watermark", "--outdir", "out",
    )  # fmt: skip
    assert ended.returncode == 6, ended.stderr
    assert "the safety checker withheld every image" in ended.stderr
    image = opened(tmp_path / "out/samples/00000.png")
    assert not np.asarray(image).any(), "replaced by a black one"
    record = json.loads(image.text["sdcli"])
    assert record["safety"]["flagged"] is True
    assert record["safety"]["done"] == "replace"
    assert record["watermark"] is None


@pytest.mark.slow
def test_unsafe_images_can_be_skipped(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    ended = run(
        "txt2img", *model(small_checkpoint), *FAST, "--safety-checker", "opennsfw", "--nsfw-threshold", "0",
        "--on-unsafe", "skip", "--outdir", "out",
    )  # fmt: skip
    assert ended.returncode == 6, ended.stderr
    assert ended.stdout == ""
    assert not list(tmp_path.glob("out/**/*.png"))


@pytest.mark.slow
def test_weights_that_are_not_numbers(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    import torch

    saved = torch.load(small_checkpoint.ckpt)
    saved["state_dict"]["model.diffusion_model.out.2.bias"].fill_(float("nan"))
    torch.save(saved, tmp_path / "nan.ckpt")
    failed = run("txt2img", "--ckpt", "nan.ckpt", "--config", small_checkpoint.config, *FAST, "--outdir", "out")
    assert failed.returncode == 4
    assert "generates NaN" in failed.stderr
    assert not list((tmp_path / "out/samples").iterdir())


@pytest.mark.parametrize("command", [[], ["txt2img"], ["watermark"], ["inspect"], ["rerun"]])
def test_help_is_light_and_fits_80_columns(command: list[str]) -> None:
    """Help imports nothing heavy, and no line is longer than a narrow terminal."""
    probe = (
        "import sys\nfrom sdcli.cli import main\n"
        f"sys.argv = ['sdcli', *{command!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as left:\n"
        "    heavy = {'torch', 'diffusers', 'transformers', 'cv2', 'onnxruntime', 'imwatermark'} & sys.modules.keys()\n"
        "    sys.exit(f'imported {heavy}' if heavy else left.code)\n"
    )
    environment = os.environ | {"COLUMNS": "80"}
    helped = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=False)
    assert helped.returncode == 0, helped.stderr
    assert max(len(line) for line in helped.stdout.splitlines()) <= 80
    assert "…" not in helped.stdout, "nothing is cut off"


def test_help_names_every_flag(refuse: Run) -> None:
    text = refuse("txt2img", "--help", COLUMNS="80").stdout
    missing = [name for _, flag, _, _ in flags() for name in flag.names if name not in text]
    assert not missing
