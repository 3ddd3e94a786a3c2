"""A minute of training, from packages to an image: every command, on a handful of drawings made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image, ImageDraw
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "training"
VOCABULARY = ROOT / "sdcli" / "models" / "vocabularies" / "clip"

# Chosen so that a drawing or two is held out from each training.
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
    """The four npm packages, each with the same few drawings: circles and squares."""
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
    """A teacher in the layout of TAESD's files; untrained, its latents still tell drawings apart."""
    folder.mkdir()
    torch.manual_seed(0)
    parts: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "decoder": {}}
    for key, value in AutoencoderTiny().state_dict().items():
        part, _, layer, rest = key.split(".", 3)
        parts[part][f"{int(layer) + (part == 'decoder')}.{rest}"] = value.contiguous()
    for part, weights in parts.items():
        save_file(weights, folder / f"taesd_{part}.safetensors")


def run(*command: object) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_minute_of_training_goes_from_packages_to_a_image(tmp_path: Path) -> None:
    data, work, teacher, out = (tmp_path / name for name in ("data", "work", "teacher", "model"))
    write_packages(data)
    write_teacher(teacher)
    concepts = tmp_path / "concepts.toml"
    concepts.write_text(
        '[groups]\nwhole = [4]\nextra = []\nleave_out = ["ghost"]\noften = ["banana"]\noften_weight = 2\n'
        '[words]\n"red apple" = ["apple"]\n',
        "utf-8",
    )
    size, tokenizer = ("--size", 64), ("--tokenizer", VOCABULARY)
    sources = ("--data", data, "--teacher", teacher, "--concepts", concepts)
    prepare = (TRAINING / "prepare.py", "--work", work, *size, *sources, "--variants", 4, "--tile-variants", 3)
    assert "5 concepts, 15 drawings" in run(*prepare)
    assert "variant" not in run(*prepare), "everything was there already"

    run(TRAINING / "train_text.py", "--work", work, *size, *tokenizer, "--minutes", 0.5, "--batch", 16)
    train = (TRAINING / "train.py", "--work", work, *size, *tokenizer, "--teacher", teacher, "--processes", 2)
    run(*train, "--minutes", 1.6, "--log-steps", 5, "--warmup", 5, "--lr", 2e-3, "--batch", 8, "--ema", 0.9)
    assert list((work / "imagined").glob("*.png")), "what is held out is imagined"
    for part, name in (("text", "telling"), ("unet", "loss")):
        rows = map(json.loads, (work / part / "log.jsonl").read_text("utf-8").splitlines())
        losses = [row[name] for row in rows if name in row]
        assert losses[-1] < 0.95 * losses[0], f"{part}, {name}: {losses}"

    # Given more time, it carries on from where it was.
    before = json.loads((work / "unet" / "last" / "progress.json").read_text("utf-8"))
    run(*train, "--minutes", 1.7, "--log-steps", 5, "--batch", 8)
    after = json.loads((work / "unet" / "last" / "progress.json").read_text("utf-8"))
    assert before["step"] < after["step"] < 2 * before["step"]
    assert after["images"] == 2 * 8 * after["step"], "each process adds its own"

    evaluate = (TRAINING / "evaluate.py", "--work", work, *size, *tokenizer, "--images", 4, "--steps", 2)
    run(*evaluate)
    figures = json.loads((work / "evaluation" / "figures.json").read_text("utf-8"))
    assert figures["singles"]["images"] == 4
    assert 0 <= figures["seeds"]["least"] <= figures["seeds"]["difference"]
    run(TRAINING / "export.py", "--work", work, *tokenizer, "--out", out, "--before", "Nothing before.")
    card = (out / "README.md").read_text("utf-8")
    assert "5 things" in card and "$" not in card and "Not measured" not in card and "Nothing before." in card
    shown = [line.split("(")[-1].strip(")") for line in card.splitlines() if "![" in line]
    assert "sheets/singles.webp" in shown and "sheets/seeds.webp" in shown
    for name in shown:
        with Image.open(out / name) as sheet:
            assert sheet.width == 8 * 64

    drawn = run("-m", "sdcli", "txt2img", "--model", out, "--prompt", "an apple", "--steps", 3, "--n_samples", 1,
                "--n_iter", 1, "--no-watermark", "--outdir", tmp_path / "images")  # fmt: skip
    with Image.open(drawn.split()[0]) as image:
        assert image.size == (64, 64)
