"""Converts npm packages to concepts, captions and cached latents: all inputs of the training scripts.

    python training/prepare.py --download --data DATA --teacher TAESD
    python training/prepare.py --download --data DATA --teacher sdcli/models/builtin   # latents of an exported model

Writes to the work folder: `drawings/` (PNG), `icons.jsonl` (one drawing per line), `latents-SIZE/` (see
`dataset.Latents`; raw latents of the teacher) and `latent_stats.json` (their mean and standard deviation per channel,
measured on the plain images). After an interruption, the same command continues with the first missing file. Two
processes can run in parallel: `--only singles` and `--only tiles`.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import HERE, new_parser
from dataset import CELL, LatentStats, latent_folder, read_icons, write_atomically, write_icons, write_latents
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from icons import BACKGROUNDS, PLAIN_VARIANTS, VARIANTS, Icon, read_icon, render
from PIL import Image
from safetensors.torch import load_file
from scenes import dominant_colour
from sources import LABELS, STYLES, download, package_folder

TILE_MARGIN = CELL


def names_of(entries: list[dict[str, Any]], chosen: dict[str, list[str]]) -> dict[str, tuple[list[str], list[str]]]:
    """Names and tags of each concept by label. A name belongs to one concept only.

    Args:
        entries: the concepts' entries in emojibase.
        chosen: names of `concepts.toml`, by label; they come before emojibase's.

    Raises:
        ValueError: `chosen` gives a name to two concepts.
    """
    own = {entry["label"]: [word.lower() for word in chosen.get(entry["label"], [])] for entry in entries}
    taken = Counter(word for words in own.values() for word in words)
    if doubled := [word for word, times in taken.items() if times > 1]:
        raise ValueError(f"concepts.toml gives names to two concepts: {doubled}")
    plain = {entry["label"]: entry["label"].lower().replace("\u2019", "'") for entry in entries}
    for label, word in plain.items():
        if word not in taken:
            own[label].append(word)
            taken[word] += 1
    tags = {entry["label"]: [tag.lower() for tag in entry.get("tags", [])] for entry in entries}
    shared = Counter(tag for words in tags.values() for tag in set(words))
    names = {}
    for label, words in own.items():
        synonyms = [tag for tag in tags[label] if shared[tag] == 1 and tag not in taken and len(tag) > 2]
        names[label] = ([*words, *synonyms[:3]], [tag for tag in tags[label] if tag not in words])
    return names


def gather_icons(data: Path, work: Path, listing: Path) -> list[Icon]:
    """Finds every drawing of every concept of `listing` (`concepts.toml`). Skips concepts without a drawing in each
    style.

    Raises:
        ValueError: `listing` contains labels that are not in emojibase.
    """
    concepts: dict[str, Any] = tomllib.loads(listing.read_text("utf-8"))
    groups = concepts["groups"]
    labels: list[dict[str, Any]] = json.loads((package_folder(data, *LABELS) / "en" / "data.json").read_text("utf-8"))
    known = {entry["label"] for entry in labels}
    listed = {*groups["extra"], *groups["leave_out"], *groups["often"], *concepts["words"]}
    if unknown := listed - known:
        raise ValueError(f"{listing.name} contains labels that are not in emojibase: {sorted(unknown)}")
    whole, extra, left_out = set(groups["whole"]), set(groups["extra"]), set(groups["leave_out"])
    found: list[tuple[dict[str, Any], dict[str, Path]]] = []
    for entry in labels:
        if entry["label"] not in extra and (entry.get("group") not in whole or entry["label"] in left_out):
            continue
        paths = {}
        for style, source in STYLES.items():
            drawing = source.find(package_folder(data, source.package, source.version), entry["hexcode"])
            if drawing is None:
                break
            paths[style] = work / "drawings" / style / f"{entry['hexcode'].lower()}.png"
            paths[style].parent.mkdir(parents=True, exist_ok=True)
            drawing.resize((256, 256), Image.Resampling.LANCZOS).save(paths[style])
        else:
            found.append((entry, paths))
    names = names_of([entry for entry, _ in found], concepts["words"])
    icons = []
    seen: set[bytes] = set()
    for entry, paths in found:
        words, tags = names[entry["label"]]
        for style, path in paths.items():
            # In one ink, a red heart and a blue heart are the same drawing; it belongs to the first of them.
            content = path.read_bytes()
            if content in seen:
                continue
            seen.add(content)
            colour = None if style == "outlined" else dominant_colour(read_icon(path))
            weight = groups["often_weight"] if entry["label"] in groups["often"] else 1.0
            key = f"{style}/{entry['hexcode'].lower()}"
            icons.append(Icon(key, path, entry["label"], style, tuple(words), tuple(tags), colour, weight))
    return icons


def is_exported(folder: Path) -> bool:
    """Whether a teacher is a model that `export.py` wrote: its latents are normalised."""
    return (folder / "vae").is_dir()


def load_teacher(folder: Path) -> AutoencoderTiny:
    """Loads TAESD from its original files, `taesd_encoder.safetensors` and `taesd_decoder.safetensors`, or the VAE of
    an exported model.
    """
    if is_exported(folder):
        exported: AutoencoderTiny = AutoencoderTiny.from_pretrained(
            folder / "vae", torch_dtype=torch.float32, local_files_only=True
        )
        exported.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        return exported
    teacher: AutoencoderTiny = AutoencoderTiny()
    weights = {f"encoder.layers.{key}": value for key, value in load_file(folder / "taesd_encoder.safetensors").items()}
    for key, value in load_file(folder / "taesd_decoder.safetensors").items():
        layer, rest = key.split(".", 1)
        weights[f"decoder.layers.{int(layer) - 1}.{rest}"] = value  # diffusers has no leading clamp layer
    teacher.load_state_dict({key: value.float() for key, value in weights.items()})
    teacher.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    return teacher


@torch.inference_mode()
def encode(
    teacher: AutoencoderTiny, images: np.ndarray[Any, np.dtype[np.uint8]], batch: int, *, bfloat16: bool = False
) -> torch.Tensor:
    """Encodes images `(n, size, size, 3)` 0-255 to raw latents of the teacher `(n, 4, size/8, size/8)`."""
    device = next(teacher.parameters()).device
    latents = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(images[start : start + batch]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            codes = teacher.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        latents.append(codes.half().cpu())
    return torch.cat(latents).contiguous()


def latents_of(
    teacher: AutoencoderTiny,
    icons: Sequence[Icon],
    drawings: Sequence[Image.Image],
    kind: str,
    variant: int,
    size: int,
    *,
    batch: int,
    bfloat16: bool = False,
) -> torch.Tensor:
    """Latents of a variant of these drawings, as `singles` or `tiles` for images of `size`, see `dataset.Latents`."""
    edge, margin = (size, 0) if kind == "singles" else (size // 2, TILE_MARGIN)
    parts = []
    for start in range(0, len(icons), 256):
        some = zip(icons[start : start + 256], drawings[start : start + 256], strict=True)
        images = np.stack([render(icon, drawing, variant, edge, margin=margin) for icon, drawing in some])
        parts.append(encode(teacher, images, batch, bfloat16=bfloat16))
    rim = margin // CELL
    return torch.cat(parts)[..., rim : rim + edge // CELL, rim : rim + edge // CELL].contiguous()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__, "--teacher", "--size", "--device")
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked npm packages")
    parser.add_argument("--download", action="store_true", help="first download missing packages with npm pack")
    for kind, default in (("variants", VARIANTS), ("tile-variants", 5)):
        help_text = f"images per drawing, {'single' if kind == 'variants' else 'in pairs'}: 1 to {VARIANTS}"
        parser.add_argument(
            f"--{kind}", type=int, choices=range(1, VARIANTS + 1), default=default, metavar="N", help=help_text
        )
    parser.add_argument("--concepts", type=Path, default=HERE / "concepts.toml", help="list of the concepts")
    parser.add_argument("--only", choices=("icons", "singles", "tiles"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--mixed-precision", choices=("no", "bf16"), default="no", help="precision for images on tints and shifted ones"
    )
    options = parser.parse_args(arguments)

    if options.download:
        download(options.data)
    folder = latent_folder(options.work, options.size)
    folder.mkdir(parents=True, exist_ok=True)
    if not (options.work / "icons.jsonl").exists():
        gathered = gather_icons(options.data, options.work, options.concepts)
        write_icons(options.work, gathered)
    icons = read_icons(options.work)
    drawings = [read_icon(icon.path) for icon in icons]
    print(f"{len({icon.label for icon in icons})} concepts, {len(icons)} drawings", flush=True)
    if options.only == "icons":
        return
    teacher = load_teacher(options.teacher).to(options.device)

    backgrounds = folder / "grounds.safetensors"
    if not backgrounds.exists():
        empty = np.stack([np.full((options.size, options.size, 3), rgb, np.uint8) for rgb in BACKGROUNDS.values()])
        latents = encode(teacher, empty, options.batch)
        write_latents(backgrounds, latents)
    for kind, variants in (("singles", options.variants), ("tiles", options.tile_variants)):
        for variant in range(variants if options.only in (None, kind) else 0):
            path = folder / f"{kind}-{variant:04}.safetensors"
            if path.exists():
                continue
            # Statistics and codes are computed from the plain variants: these are exact. In the others bfloat16 changes
            # 7e-5 of the variance, a thousandth of the error of the UNet.
            bfloat16 = options.mixed_precision == "bf16" and variant not in PLAIN_VARIANTS
            latents = latents_of(
                teacher, icons, drawings, kind, variant, options.size, batch=options.batch, bfloat16=bfloat16
            )
            write_latents(path, latents)
            print(f"{kind}: variant {variant + 1} of {variants}", flush=True)
            if kind == "singles" and not variant:
                stats = LatentStats.identity() if is_exported(options.teacher) else LatentStats.of(latents)
                write_atomically(options.work / "latent_stats.json", stats.save)


if __name__ == "__main__":
    main()
