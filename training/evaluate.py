"""Evaluates the model: generates images for prompts with fixed seeds and classifies them.

    python training/evaluate.py --tokenizer CLIP --images 256

Uses the weights of the last checkpoints and the classifiers of `classifier.py`. Writes `evaluation/figures.json`,
which `export.py` adds to the model card, and the contact sheets `singles.png`, `held-out.png`, `couples.png`,
`grounds.png` and `seeds.png`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import new_parser
from classifier import EDGE, Classifier, Drawings, load_classifiers
from dataset import CELL, Latents, read_icons, write_atomically
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from icons import BACKGROUNDS, VARIANTS, Icon, background_of, read_icon, render
from model import Vocabulary, cell_of, new_pipeline
from PIL import Image
from scenes import RELATIONS, Composer, Scene, every_word, pair_held_out, with_article
from sheet import GUIDANCE_SCALE, contact_sheet, generate
from sources import STYLES
from torch import Tensor
from train_text import load_text_encoder
from train_unet import load_averaged
from train_vae import load_vae, psnr

SHEET_IMAGES = {"singles": 64, "held-out": 32, "couples": 32, "grounds": 32}
STYLE_WORDS = {"3d": "", "flat": ", flat", "outlined": ", outlined"}
OBJECT_DIFFERENCE = 60
"""Minimum difference of a pixel of an object from the background, summed over red, green and blue."""
SINGLE_SIZE = 0.85
"""Size of a single object, as a fraction of the image's edge; see `icons.render`."""
PLACE_WORDS = {(-1, 0): "next to", (1, 0): "to the right of", (0, -1): "above", (0, 1): "below"}


@dataclass(frozen=True)
class Trial:
    """A prompt and what its image should show: labels of one or two objects, style, background."""

    prompt: str
    labels: tuple[str, ...]
    style: str
    background: str
    place: tuple[int, int] = (0, 0)


def trials_of(icons: Sequence[Icon], count: int, random: np.random.Generator) -> dict[str, list[Trial]]:
    """The sets of prompts by name, at most `count` each; they depend on the drawings and the seed only."""
    default = next(iter(BACKGROUNDS))
    order = [icons[index] for index in random.permutation(len(icons))]

    def single(icon: Icon) -> Trial:
        return Trial(with_article(icon.words[0]) + STYLE_WORDS[icon.style], (icon.label,), icon.style, default)

    singles = [single(icon) for icon in order if not icon.style_held_out]
    held_out = [single(icon) for icon in order if icon.style_held_out]
    plain = [icon for icon in order if icon.style == "3d"]
    backgrounds = []
    for index, icon in enumerate(plain):
        # Training shows each drawing on a few backgrounds; use one of the others.
        seen = {background_of(icon.key, variant) for variant in range(VARIANTS)}
        unseen = [name for name in BACKGROUNDS if name != default and name not in seen]
        name = unseen[index % len(unseen)]
        prompt = f"{with_article(icon.words[0])} on {with_article(name)} background"
        backgrounds.append(Trial(prompt, (icon.label,), icon.style, name))
    pairs: list[Trial] = []
    for one, other in (
        (one, other) for shift in range(1, 200) for one, other in zip(plain, plain[shift:], strict=False)
    ):
        if len(pairs) == count:
            break
        if pair_held_out(one.label, other.label):
            place = list(RELATIONS)[len(pairs) % len(RELATIONS)]
            prompt = f"{with_article(one.words[0])} {PLACE_WORDS[place]} {with_article(other.words[0])}"
            pairs.append(Trial(prompt, (one.label, other.label), one.style, default, place))
    return {
        "singles": singles[:count],
        "held-out": held_out[:count],
        "couples": pairs[:count],
        "grounds": backgrounds[:count],
    }


def background_colour(image: Image.Image) -> str:
    """Name of the background: the named colour that is nearest to the median of the border."""
    pixels = np.asarray(image, np.float64)
    border = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3)])
    distances = {name: np.abs(np.median(border, 0) - rgb).sum() for name, rgb in BACKGROUNDS.items()}
    return min(distances, key=lambda name: distances[name])


def object_crops(image: Image.Image, trial: Trial) -> list[Image.Image]:
    """The image, or its objects cropped and enlarged, in the order of the labels of the trial."""
    if len(trial.labels) == 1:
        return [image]
    width, height = image.size
    boxes = [(0, 0, width // 2, height), (width // 2, 0, width, height)]
    if not trial.place[0]:
        boxes = [(0, 0, width, height // 2), (0, height // 2, width, height)]
    if sum(trial.place) > 0:
        boxes.reverse()
    return [enlarged(image.crop(box)) for box in boxes]


def enlarged(part: Image.Image) -> Image.Image:
    """Crops the object from a part of an image and centres it in a square, at the relative size of a single object:
    the classifier should not depend on the size.
    """
    pixels = np.asarray(part, np.int64)
    background = np.median(np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)]), 0)
    shown = np.abs(pixels - background).sum(2) > OBJECT_DIFFERENCE
    # Ignore rows and columns that contain a few deviating pixels only.
    left, right, top, bottom = 0, part.width, 0, part.height
    across, down = (np.flatnonzero(shown.mean(axis) > 0.03) for axis in (0, 1))
    if len(across) and len(down):
        left, right, top, bottom = int(across[0]), int(across[-1]) + 1, int(down[0]), int(down[-1]) + 1
    edge = round(max(right - left, bottom - top) / SINGLE_SIZE)
    square = Image.new("RGB", (edge, edge), tuple(round(value) for value in background))
    corner = ((edge - right + left) // 2, (edge - bottom + top) // 2)
    square.paste(part.crop((left, top, right, bottom)), corner)
    return square


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Converts images to the input of the classifiers, `(n, 3, 64, 64)` in [-1, 1]."""
    small = [np.asarray(image.resize((EDGE, EDGE), Image.Resampling.HAMMING), np.float32) for image in images]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 127.5 - 1


@torch.inference_mode()
def classify(
    classifiers: Sequence[Classifier], trials: Sequence[Trial], images: Sequence[Image.Image]
) -> list[dict[str, bool]]:
    """For each image, whether concepts (`recognised`: all of them), `style` and background (`ground`) are right."""
    results = []
    device = next(classifiers[0].network.parameters()).device
    for trial, image in zip(trials, images, strict=True):
        parts = as_tensor(object_crops(image, trial)).to(device)
        concepts, styles = (classifier.network(parts).softmax(1) for classifier in classifiers)
        shown = [classifiers[0].answers[index] for index in concepts.argmax(1).tolist()]
        style = classifiers[1].answers[int(styles.mean(0).argmax())]
        results.append(
            {
                "recognised": shown == list(trial.labels),
                "style": style == trial.style,
                "ground": background_colour(image) == trial.background,
            }
        )
    return results


def real_pairs(
    pairs: Sequence[Trial], icons: Sequence[Icon], work: Path, vae: AutoencoderTiny, size: int, seed: int
) -> list[Image.Image]:
    """Decoded images of pairs composed of the original drawings: the best result possible for these trials."""
    composer, random = Composer(Latents(work, size, icons), icons), np.random.default_rng(seed)
    numbers = {(icon.label, icon.style): number for number, icon in enumerate(icons)}
    device = next(vae.parameters()).device
    images = []
    for trial in pairs:
        one, other = (numbers[label, trial.style] for label in trial.labels)
        latents, _ = composer.compose(random, Scene((one, other), 0, trial.place), plain=True)
        with torch.inference_mode():
            decoded = vae.decode(latents[None].float().to(device)).sample
        pixels = ((decoded[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
        images.append(Image.fromarray(pixels.cpu().numpy()))
    return images


def share(results: Sequence[dict[str, bool]], what: str) -> float:
    """Percentage of the results that are right about `what`."""
    return round(100 * sum(result[what] for result in results) / max(1, len(results)), 1)


def vae_figures(vae: AutoencoderTiny, icons: Sequence[Icon], work: Path, size: int) -> dict[str, float]:
    """PSNR in dB on the validation drawings: of encoding and decoding, and of decoding the teacher's latents.

    Args:
        size: that of the images whose latents are cached; a VAE of twice the size is measured on larger images.
    """
    unseen = [index for index, icon in enumerate(icons) if icon.vae_held_out]
    edge = size // CELL * cell_of(vae)
    images = [render(icons[index], read_icon(icons[index].path), 0, edge) for index in unseen]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = Latents(work, size, icons, variants=1).singles[0, unseen].float()
    device = next(vae.parameters()).device
    batches = list(zip(torch.split(latents, 16), torch.split(pixels, 16), strict=True))
    both = [psnr(vae, codes.to(device), part.to(device)) for codes, part in batches]
    sizes = [len(part) for _, part in batches]
    decoder, round_trip = (float(np.average([pair[i] for pair in both], weights=sizes)) for i in (0, 1))
    return {"round_trip_db": round(round_trip, 2), "decoder_db": round(decoder, 2), "drawings": len(unseen)}


def evaluate(
    pipeline: StableDiffusionPipeline,
    icons: Sequence[Icon],
    classifiers: Sequence[Classifier],
    folder: Path,
    *,
    count: int,
    steps: int,
    scale: float,
    seed: int,
) -> dict[str, Any]:
    """Computes all figures about generated images; writes contact sheets to `folder`."""
    figures: dict[str, Any] = {"steps": steps, "scale": scale, "seed": seed}
    for name, trials in trials_of(icons, count, np.random.default_rng(seed)).items():
        if not trials:
            continue
        images = generate(pipeline, [trial.prompt for trial in trials], steps=steps, scale=scale, seed=seed)
        results = classify(classifiers, trials, images)
        figures[name] = {what: share(results, what) for what in ("recognised", "style", "ground")}
        figures[name]["images"] = len(trials)
        figures[name]["recognised_by_style"] = {
            style: share([r for r, t in zip(results, trials, strict=True) if t.style == style], "recognised")
            for style in STYLES
            if any(trial.style == style for trial in trials)
        }
        print(json.dumps({name: figures[name]}), flush=True)
        shown = SHEET_IMAGES[name]
        texts = [
            f"{trial.prompt}{'' if result['recognised'] else ' (?)'}"
            for trial, result in zip(trials, results, strict=True)
        ]
        contact_sheet(images[:shown], texts[:shown]).save(folder / f"{name}.png")
    prompts = [with_article(icon.words[0]) for icon in icons if icon.style == "3d" and icon.weight > 1][:32]

    def seeded(prompts: Sequence[str], add: int) -> list[Image.Image]:
        return generate(pipeline, prompts, steps=steps, scale=scale, seed=seed + add)

    first, second = seeded(prompts, 0), seeded(prompts, 1000)
    gaps = [np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in zip(first, second, strict=True)]
    figures["seeds"] = {"difference": round(float(np.mean(gaps)), 2), "least": round(float(np.min(gaps)), 2)}
    four = [*first[:8], *second[:8], *seeded(prompts[:8], 2000), *seeded(prompts[:8], 3000)]
    contact_sheet(four, prompts[:8] * 4).save(folder / "seeds.png")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__, "--tokenizer", "--size", "--seed", "--device")
    parser.add_argument("--images", type=int, default=256, help="maximum number of images per kind")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=GUIDANCE_SCALE)
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    folder = options.work / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    vae = load_vae(options.work)
    vae.to(device)  # type: ignore[arg-type]
    figures: dict[str, Any] = {"vae": vae_figures(vae, icons, options.work, options.size)}
    drawings = Drawings(icons)
    classifiers = load_classifiers(options.work, drawings, device)
    figures["judge"] = {
        classifier.name: round(100 * classifier.accuracy(drawings, 2**41, device), 1) for classifier in classifiers
    }
    pairs = trials_of(icons, options.images, np.random.default_rng(options.seed))["couples"]
    images = real_pairs(pairs, icons, options.work, vae, options.size, options.seed)
    figures["judge"]["couples"] = share(classify(classifiers, pairs, images), "recognised")
    print(json.dumps(figures), flush=True)
    text_encoder = load_text_encoder(options.work, vocabulary)
    pipeline = new_pipeline(load_averaged(options.work), text_encoder, vocabulary, vae).to(device)
    figures |= evaluate(
        pipeline, icons, classifiers, folder,
        count=options.images, steps=options.steps, scale=options.scale, seed=options.seed,
    )  # fmt: skip
    write_atomically(
        folder / "figures.json", lambda path: path.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    )
    print(json.dumps(figures["seeds"]))


if __name__ == "__main__":
    main()
