"""The trained parts -> one diffusers folder in float16, with its model card.

It reads the newest checkpoints, so it may run while training goes on:

    python training/export.py --tokenizer CLIP --out sdcli/models/builtin
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import textwrap
from pathlib import Path
from string import Template

import torch
from dataset import read_icons
from icons import Icon
from model import Vocabulary, new_pipeline
from train_unet import load_averaged
from train_vae import load_vae

HERE = Path(__file__).parent
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


def known_words(icons: list[Icon]) -> str:
    """Every concept by the name used most, in alphabetical order."""
    return ", ".join(sorted({max(icon.captions, key=lambda caption: caption[1])[0] for icon in icons}, key=_bare))


def _bare(caption: str) -> str:
    return caption.removeprefix("a ").removeprefix("an ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of CLIP's vocab.json and merges.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=128, help="edge of the pictures in pixels")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; files of its parts are replaced")
    options = parser.parse_args()

    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, (text for icon in icons for text, _ in icon.captions))
    denoiser = load_averaged(options.work, options.size, vocabulary)
    pipeline = new_pipeline(denoiser, vocabulary, load_vae(options.work)).to(torch.float16)

    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        folder = Path(temporary)
        pipeline.save_pretrained(folder, safe_serialization=True)
        shutil.rmtree(folder / "tokenizer")
        (folder / "tokenizer").mkdir()
        for name in TOKENIZER_FILES:
            shutil.copyfile(options.tokenizer / name, folder / "tokenizer" / name)
        parts = {part: getattr(pipeline, part) for part in ("text_encoder", "unet", "vae")}
        sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
        unet = json.loads((options.work / "unet" / "last" / "progress.json").read_text("utf-8"))
        vae = json.loads((options.work / "vae" / "log.jsonl").read_text("utf-8").splitlines()[-1])
        card = Template((HERE / "model_card.md").read_text("utf-8")).substitute(
            megabytes=f"{sum(file.stat().st_size for file in folder.rglob('*.safetensors')) / 1e6:.1f}",
            unet_millions=f"{sizes['unet'] / 1e6:.1f}",
            text_millions=f"{sizes['text_encoder'] / 1e6:.1f}",
            trained_tokens=f"{len(vocabulary):,}",
            vae_millions=f"{sizes['vae'] / 1e6:.2f}",
            size=options.size,
            latent=options.size // 8,
            concepts=len({icon.label for icon in icons}),
            drawings=len(icons),
            captions=f"{len({text for icon in icons for text, _ in icon.captions}):,}",
            pictures=f"{unet['pictures']:,}",
            steps=f"{unet['step']:,}",
            minutes=round(unet["seconds"] / 60),
            vae_minutes=round(vae["seconds"] / 60),
            psnr=f"{vae['psnr']:.1f}",
            psnr_round_trip=f"{vae['psnr_round_trip']:.1f}",
            words=textwrap.fill(f"{known_words(icons)}.", 120),
        )
        (folder / "README.md").write_text(card, "utf-8")
        # A file replaces its namesake at once, so whoever reads the folder meanwhile never meets half a file.
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = options.out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            shutil.copyfile(file, part)
            part.replace(target)
    print(f"{options.out}: {unet['pictures']:,} pictures, VAE {vae['psnr']:.1f} dB")


if __name__ == "__main__":
    main()
