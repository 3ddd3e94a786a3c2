"""Exports the trained model as a diffusers folder in float16, with its model card.

Reads the last checkpoints, so it can run during training. The figures in the card are those of the last `evaluate.py`.

    python training/export.py --tokenizer CLIP --out sdcli/models/builtin
    python training/export.py --vae-only --out sdcli/models/builtin   # the rest of the model stays
    python training/export.py --fast --start sdcli/models/builtin --out sdcli/models/builtin-fast   # of distil.py
"""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import torch
from arguments import ARGUMENTS, HERE, new_parser
from dataset import CELL, load_checkpoint, read_icons
from diffusers.models.modeling_utils import ModelMixin
from distil import load_student
from icons import BACKGROUNDS, Icon
from model import TEXT_WIDTH, Vocabulary, cell_of, new_pipeline
from PIL import Image
from safety import SEEDS
from scenes import every_word
from sheet import GUIDANCE_SCALE
from sources import LABELS, STYLES
from train_text import load_text_encoder
from train_unet import load_averaged
from train_vae import load_vae, vae_folder

SHEETS = {
    "singles": "Single objects",
    "held-out": "Combinations of style and concept not seen in training",
    "couples": "Pairs of objects not seen in training",
    "grounds": "Coloured backgrounds not seen with the object in training",
    "seeds": "The same prompts with four seeds",
}
"""Contact sheets of `evaluate.py` that the card shows."""


def known_words(icons: Sequence[Icon]) -> str:
    """The most common name of every concept, in alphabetical order."""
    return ", ".join(sorted({icon.words[0] for icon in icons}))


def figures_table(figures: Mapping[str, Any]) -> str:
    """The figures of `evaluate.py` as a Markdown table and a paragraph."""

    def by_style(name: str) -> str:
        return ", ".join(f"{style} {value:.0f}" for style, value in figures[name]["recognised_by_style"].items())

    rows = [
        ("single object: concept recognised (top 1)", "singles", "recognised"),
        ("single object: style of the prompt recognised", "singles", "style"),
        ("combination of style and concept not seen in training: concept recognised", "held-out", "recognised"),
        ("pair of objects not seen together in training: both recognised", "couples", "recognised"),
        ("coloured background not seen with the object in training: background as in the prompt", "grounds", "ground"),
        ("coloured background not seen with the object in training: concept recognised", "grounds", "recognised"),
    ]
    lines = ["| prompts | correct | images |", "| --- | --- | --- |"]
    for text, name, what in rows:
        if name in figures:
            more = (
                f" ({by_style(name)})" if len(figures[name]["recognised_by_style"]) > 1 and what == "recognised" else ""
            )
            lines.append(f"| {text} | {figures[name][what]:.1f} %{more} | {figures[name]['images']} |")
    judge, vae, seeds = figures["judge"], figures["vae"], figures["seeds"]
    return "\n".join(lines) + "\n\n" + textwrap.fill(
        f"{figures['steps']} steps, guidance scale {figures['scale']:g}, seeds from {figures['seed']} on. Small "
        f"classifiers, trained independently of the model on the original drawings, compute the figures. With "
        f"augmentations not used in training, their accuracy is {judge['concepts']:.1f} % for concepts and "
        f"{judge['styles']:.1f} % for styles; in pairs composed of original drawings they recognise both objects in "
        f"{judge['couples']:.1f} %. For combinations of style and concept not seen in training, another network, which "
        f"did not see the drawing either, predicted the drawing. Images of one prompt with two seeds differ by "
        f"{seeds['difference']:.1f} of 255 on average, by {seeds['least']:.1f} at least. The VAE reconstructs "
        f"{vae['drawings']} validation drawings with a PSNR of {vae['round_trip_db']:.1f} dB.", 120
    )  # fmt: skip


def safety_scores(scores: Path) -> str:
    """The histogram of `safety.py`, with a sentence before it."""
    seeds = " and ".join(map(str, SEEDS))
    return f"Scores of every object in every style, with the seeds {seeds}:\n\n{scores.read_text('utf-8').strip()}"


def write_sheets(evaluation: Path, folder: Path) -> None:
    """Converts the contact sheets of `evaluate.py` to WebP."""
    folder.mkdir()
    for name in SHEETS:
        if (sheet := evaluation / f"{name}.png").exists():
            with Image.open(sheet) as image:
                image.save(folder / f"{name}.webp", quality=80, method=6)


def model_card(
    work: Path,
    icons: Sequence[Icon],
    vocabulary: Vocabulary,
    sizes: Mapping[str, int],
    cell: int,
    megabytes: float,
    before: str,
) -> str:
    """Fills in the template `model_card.md`."""
    evaluation, safety = work / "evaluation" / "figures.json", work / "safety" / "scores.txt"
    unet = load_checkpoint(work / "unet")
    folders = (vae_folder(work), work / "imagined", work / "text")
    logs = [(folder / "log.jsonl").read_text("utf-8").splitlines() for folder in folders]
    vae, imagined, text = (json.loads(lines[-1]) for lines in logs)
    return Template((HERE / "model_card.md").read_text("utf-8")).substitute(
        megabytes=f"{megabytes:.1f}",
        unet_millions=f"{sizes['unet'] / 1e6:.1f}",
        text_millions=f"{sizes['text_encoder'] / 1e6:.1f}",
        vae_millions=f"{sizes['vae'] / 1e6:.1f}",
        width=TEXT_WIDTH,
        tokens=f"{len(vocabulary.tokenizer):,}",
        trained_tokens=f"{len(vocabulary):,}",
        size=unet["size"] // CELL * cell,
        latent=unet["size"] // CELL,
        cell=cell,
        concepts=len({icon.label for icon in icons}),
        drawings=f"{len(icons):,}",
        styles=", ".join(f'"{style}"' for style in STYLES),
        backgrounds=", ".join(BACKGROUNDS),
        sources="\n".join(f"| {style} | `{s.package}` {s.version} | {s.licence} |" for style, s in STYLES.items()),
        labels=" ".join(LABELS),
        images=f"{unet['samples']:,}",
        steps=f"{unet['step']:,}",
        minutes=round(unet["seconds"] / 60),
        captions=f"{text['captions']:,}",
        text_minutes=round(text["seconds"] / 60),
        vae_minutes=round(vae["seconds"] / 60),
        imagined_minutes=round(imagined["seconds"] / 60),
        before=textwrap.fill(before, 120),
        figures=figures_table(json.loads(evaluation.read_text("utf-8"))) if evaluation.exists() else "Not measured.",
        sheets="\n".join(
            f"- {text}: ![{text}](sheets/{name}.webp)"
            for name, text in SHEETS.items()
            if (work / "evaluation" / f"{name}.png").exists()
        ),
        safety=safety_scores(safety) if safety.exists() else "",
        words=textwrap.fill(f"{known_words(icons)}.", 120),
    )


def save_part(part: ModelMixin, folder: Path) -> None:
    """Writes a part of a model without the path that it was loaded from, which diffusers stores."""
    part.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def publish(folder: Path, out: Path) -> None:
    """Copies the files of a folder to another. Each is replaced atomically, so that readers never see a part of it."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        shutil.copyfile(file, part)
        part.replace(target)


def comparison_table(figures: Mapping[str, Any]) -> str:
    """The figures of `compare_steps.py` as a Markdown table."""
    columns = (
        ("one object", "singles", "recognised"),
        ("combination not seen", "held-out", "recognised"),
        ("pair not seen: both", "couples", "recognised"),
        ("background", "grounds", "ground"),
    )
    lines = [
        f"| | {' | '.join(title for title, _, _ in columns)} | PSNR of one object |",
        "| --- " * (len(columns) + 2) + "|",
    ]
    for way, kinds in figures["ways"].items():
        shares = [f"{kinds[kind][what]:.1f} %" if kind in kinds else "" for _, kind, what in columns]
        psnr = f"{kinds['singles']['psnr']:.1f} dB" if "psnr" in kinds["singles"] else ""
        lines.append(f"| {way} | {' | '.join(shares)} | {psnr} |")
    return "\n".join(lines)


def export_fast(work: Path, start: Path, out: Path) -> None:
    """Writes the student of `distil.py`: the UNet in float16 and the model card, and nothing that it shares."""
    comparison = work / "comparison"
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = Path(temporary)
        student = load_student(work, start).to(torch.float16)  # type: ignore[arg-type]
        save_part(student, folder / "unet")
        log = json.loads((work / "distil" / "log.jsonl").read_text("utf-8").splitlines()[-1])
        figures, sheet = comparison / "figures.json", comparison / "steps.png"
        if sheet.exists():
            (folder / "sheets").mkdir()
            with Image.open(sheet) as image:
                image.save(folder / "sheets" / "steps.webp", quality=80, method=6)
        measured = json.loads(figures.read_text("utf-8")) if figures.exists() else None
        card = Template((HERE / "fast_card.md").read_text("utf-8")).substitute(
            megabytes=f"{sum(file.stat().st_size for file in folder.rglob('*.safetensors')) / 1e6:.1f}",
            scale=f"{GUIDANCE_SCALE:g}",
            paths=f"{log['paths']:,}",
            steps=f"{log['step']:,}",
            samples=f"{log['images']:,}",
            images=measured["images"] if measured else "",
            seed=measured["seed"] if measured else "",
            figures=comparison_table(measured) if measured else "Not measured.",
        )
        (folder / "README.md").write_text(card, "utf-8")
        publish(folder, out)
    print(f"{out}: step {log['step']}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--tokenizer", type=Path, help=ARGUMENTS["--tokenizer"]["help"])
    parser.add_argument("--before", default="", help="text for the card about earlier training")
    parser.add_argument("--out", type=Path, required=True, help="output folder; existing files are replaced")
    parser.add_argument(
        "--vae-only", action="store_true", help="replace the VAE of the model in --out, and nothing else"
    )
    parser.add_argument("--fast", action="store_true", help="write the student of distil.py, and nothing else")
    parser.add_argument("--start", type=Path, help="with --fast: the exported model that it started from")
    options = parser.parse_args(arguments)
    if not (options.tokenizer or options.vae_only or (options.fast and options.start)):
        parser.error("give --tokenizer, or --vae-only, or --fast and --start")

    if options.fast:
        export_fast(options.work, options.start, options.out)
        return
    vae = load_vae(options.work)
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        folder = Path(temporary)
        if options.vae_only:
            save_part(vae.to(torch.float16), folder / "vae")  # type: ignore[arg-type]
            publish(folder, options.out)
            return
        icons = read_icons(options.work)
        vocabulary = Vocabulary(options.tokenizer, every_word(icons))
        text_encoder = load_text_encoder(options.work, vocabulary)
        pipeline = new_pipeline(load_averaged(options.work), text_encoder, vocabulary, vae)
        pipeline.to(torch.float16)
        pipeline.save_pretrained(folder, safe_serialization=True)
        save_part(pipeline.vae, folder / "vae")
        shutil.rmtree(folder / "tokenizer")
        (folder / "tokenizer").mkdir()
        for name, content in vocabulary.files.items():
            (folder / "tokenizer" / name).write_bytes(content)
        parts = {part: getattr(pipeline, part) for part in ("text_encoder", "unet", "vae")}
        sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
        megabytes = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        write_sheets(options.work / "evaluation", folder / "sheets")
        card = model_card(options.work, icons, vocabulary, sizes, cell_of(vae), megabytes, options.before)
        (folder / "README.md").write_text(card, "utf-8")
        publish(folder, options.out)
    print(f"{options.out}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
