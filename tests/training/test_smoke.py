"""A short training from npm packages to an image: every script, on a few drawings made here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import compare_steps
import distil
import evaluate
import export
import prepare
import pytest
import redraw
import safety
import torch
import train_text
import train_unet
import train_vae
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "training"
VOCABULARY = ROOT / "sdcli" / "models" / "vocabularies" / "clip"

# Each training holds out one or two of these drawings.
CONCEPTS = {
    # label: hexcode, tags, colour
    "red apple": ("1F34E", ["fruit"], "#d22"),
    "banana": ("1F34C", ["fruit", "potassium"], "#fd2"),
    "blueberries": ("1FAD0", ["bilberry"], "#26d"),
    "taco": ("1F32E", ["mexican"], "#2a4"),
    "grapes": ("1F347", ["wine"], "#83b"),
    "ghost": ("1F47B", ["boo"], "#eee"),
}  # fmt: skip


def write_packages(data: Path) -> None:
    """Writes the four npm packages with a few drawings: circles and squares."""
    folder = data / "emojibase-data-17.0.0" / "package" / "en"
    folder.mkdir(parents=True)
    entries = [
        {"label": label, "hexcode": hexcode, "tags": tags, "group": 4} for label, (hexcode, tags, _) in CONCEPTS.items()
    ]
    (folder / "data.json").write_text(json.dumps(entries), "utf-8")
    solid = data / "lobehub-fluent-emoji-3d-1.1.0" / "package" / "assets"
    flat = data / "lobehub-fluent-emoji-flat-1.1.0" / "package" / "assets"
    outlined = data / "iconify-json-fluent-emoji-high-contrast-1.2.6" / "package"
    for folder in (solid, flat, outlined):
        folder.mkdir(parents=True)
    names, icons = {}, {}
    for index, (label, (hexcode, _, colour)) in enumerate(CONCEPTS.items()):
        code, radius = hexcode.lower(), 6 + index
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).ellipse((32 - 2 * radius, 8, 32 + 2 * radius, 56), fill=colour)
        image.save(solid / f"{code}.webp", lossless=True)
        square = f'<rect x="{16 - radius}" y="4" width="{2 * radius}" height="24" fill="{colour}"/>'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{square}</svg>'
        (flat / f"{code}.svg").write_text(svg, "utf-8")
        names[code] = label.replace(" ", "-")
        circle = f'<circle cx="16" cy="16" r="{radius}" fill="none" stroke="currentColor" stroke-width="3"/>'
        icons[names[code]] = {"body": circle}
    (outlined / "chars.json").write_text(json.dumps(names), "utf-8")
    (outlined / "icons.json").write_text(json.dumps({"icons": icons, "width": 32, "height": 32}), "utf-8")


def write_teacher(folder: Path) -> None:
    """Writes an untrained teacher in the format of TAESD; its latents still differ from drawing to drawing."""
    folder.mkdir()
    torch.manual_seed(0)
    parts: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "decoder": {}}
    for key, value in AutoencoderTiny().state_dict().items():
        part, _, layer, rest = key.split(".", 3)
        parts[part][f"{int(layer) + (part == 'decoder')}.{rest}"] = value.contiguous()
    for part, weights in parts.items():
        save_file(weights, folder / f"taesd_{part}.safetensors")


def last_row(log: Path) -> dict[str, float]:
    row: dict[str, float] = json.loads(log.read_text("utf-8").splitlines()[-1])
    return row


def learning_curve(log: Path, name: str) -> list[float]:
    rows = map(json.loads, log.read_text("utf-8").splitlines())
    return [row[name] for row in rows if name in row]


@pytest.mark.slow
def test_training_goes_from_packages_to_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    data, work, teacher, out = (tmp_path / name for name in ("data", "work", "teacher", "model"))
    write_packages(data)
    write_teacher(teacher)
    concepts = tmp_path / "concepts.toml"
    concepts.write_text(
        '[groups]\nwhole = [4]\nextra = []\nleave_out = ["ghost"]\noften = ["banana"]\noften_weight = 2\n'
        '[words]\n"red apple" = ["apple"]\n',
        "utf-8",
    )

    def run(module: ModuleType, *arguments: object) -> str:
        module.main(["--work", str(work), *map(str, arguments)])
        return capsys.readouterr().out

    size, tokenizer, cpu = ("--size", 64), ("--tokenizer", VOCABULARY), ("--device", "cpu")
    sources = ("--data", data, "--teacher", teacher, "--concepts", concepts, "--variants", 4, "--tile-variants", 3)
    assert "5 concepts, 15 drawings" in run(prepare, *size, *sources, *cpu)
    assert "variant" not in run(prepare, *size, *sources, *cpu), "the files of the first run are used"

    # As a script, every stage: each script's steps are those of all its stages so far.
    script = [sys.executable, TRAINING / "train.py", "--work", work, *size, *tokenizer, "--teacher", teacher]
    script += ["--steps", 1, "--processes", 2, "--log-steps", 1, "--batch", 8, "--sheet-images", 2]
    done = subprocess.run([*map(str, script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = {"vae": 2, "imagined": 1, "text": 1, "classifier/concepts": 1, "classifier/styles": 1, "redrawn": 1}
    assert {part: last_row(work / part / "log.jsonl")["step"] for part in steps} == steps
    unet = last_row(work / "unet" / "log.jsonl")
    assert (unet["step"], unet["images"]) == (2, 2 * 8 * 2), "each of two processes has its own images"
    assert list((work / "imagined").glob("*.png")), "there are images of the held-out drawings"
    assert sorted(sheet.name for sheet in (work / "unet").glob("*.png")) == ["0000001.png", "0000002.png"]

    # With a larger budget, training continues from the checkpoints, and the losses fall.
    run(train_text, *size, *tokenizer, *cpu, "--steps", 20, "--batch", 8)
    run(train_unet, *size, *tokenizer, "--steps", 12, "--batch", 8, "--log-steps", 4, "--warmup", 5, "--lr", 2e-3,
        "--ema", 0.9, "--sheet-images", 0)  # fmt: skip
    unet = last_row(work / "unet" / "log.jsonl")
    assert (unet["step"], unet["images"]) == (12, 2 * 8 * 2 + 8 * 10)
    for part, name in (("text", "padding"), ("unet", "loss")):
        losses = learning_curve(work / part / "log.jsonl", name)
        assert losses[-1] < 0.95 * losses[0], f"{part}, {name}: {losses}"

    # A VAE of twice the size, from the averaged weights of the last.
    run(train_vae, *size, *cpu, "--double", "--redrawn", "--steps", 1)
    run(evaluate, *size, *tokenizer, *cpu, "--images", 4, "--steps", 2)
    figures = json.loads((work / "evaluation" / "figures.json").read_text("utf-8"))
    assert figures["singles"]["images"] == 4
    assert 0 <= figures["seeds"]["least"] <= figures["seeds"]["difference"]
    run(export, *tokenizer, "--out", out, "--before", "Nothing before.")
    card = (out / "README.md").read_text("utf-8")
    assert "5 objects" in card and "$" not in card and "Not measured" not in card and "Nothing before." in card
    shown = [line.split("(")[-1].strip(")") for line in card.splitlines() if "![" in line]
    assert "sheets/singles.webp" in shown and "sheets/seeds.webp" in shown
    for name in shown:
        with Image.open(out / name) as sheet:
            assert sheet.width == 8 * 128

    command = [sys.executable, "-m", "sdcli", "txt2img", "--model", out, "--prompt", "an apple", "--steps", 3]
    command += ["--n_samples", 1, "--n_iter", 1, "--no-watermark", "--outdir", tmp_path / "images"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    with Image.open(done.stdout.split()[0]) as image:
        assert image.size == (128, 128)

    # Its few-step version; the same command continues.
    monkeypatch.setattr(distil, "PATHS_PER_FILE", 2)
    for steps in (1, 2):
        run(distil, *cpu, "--start", out, "--steps", steps, "--batch", 8)
    assert [path.name for path in sorted((work / "distil" / "paths").iterdir())] == [
        f"0000{number}.safetensors" for number in range(distil.FIRST_FILES)
    ]
    last = last_row(work / "distil" / "log.jsonl")
    assert (last["step"], last["images"], last["paths"]) == (2, 16, 2 * distil.FIRST_FILES)
    run(compare_steps, *cpu, "--start", out, "--images", 2)
    fast = tmp_path / "fast"
    run(export, "--fast", "--start", out, "--out", fast)
    card = (fast / "README.md").read_text("utf-8")
    assert "| distilled, 4 steps |" in card and "$" not in card and "Not measured" not in card
    assert {path.name for path in fast.iterdir()} == {"README.md", "sheets", "unet"}
    kept, learnt = (load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (out, fast))
    assert kept.keys() == learnt.keys() and any(not kept[name].equal(learnt[name]) for name in kept)
    config = json.loads((fast / "unet" / "config.json").read_text())
    assert "_name_or_path" not in config and config == json.loads((out / "unet" / "config.json").read_text())

    # The exported model can replace the teacher and the checkpoints.
    again = tmp_path / "again"
    again.mkdir()
    for name in ("drawings", "icons.jsonl"):
        shutil.move(work / name, again / name)
    work = again
    shutil.rmtree(out / "vae")
    shutil.copytree(tmp_path / "work" / "vae", out / "vae", ignore=shutil.ignore_patterns("checkpoint.pt"))
    run(prepare, *size, "--data", data, "--teacher", out, "--variants", 2, "--only", "singles", *cpu)
    assert json.loads((work / "latent_stats.json").read_text())["mean"] == [0] * 4
    run(redraw, *size, *cpu, "--start", out, "--steps", 1, "--batch", 4)
    run(train_vae, *size, *cpu, "--double", "--start", out, "--steps", 1, "--batch", 4)
    run(export, "--vae-only", "--out", out)
    config = json.loads((out / "vae" / "config.json").read_text())
    assert config["num_decoder_blocks"] == [6, 3, 4, 2, 0] and "_name_or_path" not in config
    assert "30 of 30 images" in run(safety, "--start", out, "--vae", out)
    rows = [json.loads(line) for line in (work / "safety" / "scores.jsonl").read_text().splitlines()]
    assert len({(row["key"], row["seed"]) for row in rows}) == 30
    assert all(0 <= row["score"] < 0.9 for row in rows)
