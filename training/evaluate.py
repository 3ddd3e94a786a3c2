"""How good the model is, in figures: draws prompts with fixed seeds and has them judged.

    python training/evaluate.py --tokenizer CLIP --teacher TAESD --images 256

Judges the weights of the last checkpoints with the classifier of `classifier.py`. Writes `evaluation/figures.json`,
which `export.py` puts into the model card, and the contact sheets `singles.png`, `held-out.png`, `couples.png`,
`grounds.png` and `seeds.png` beside it.
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
from classifier import EDGE, Drawings, Judge, load_judges
from dataset import Latents, read_icons, write_atomically
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from icons import GROUNDS, VARIANTS, Icon, ground_of, read_icon, render
from model import Vocabulary, new_pipeline
from PIL import Image
from scenes import COUPLES, Painter, Scene, couple_held_out, every_word, with_article
from sheet import GUIDANCE_SCALE, contact_sheet, draw
from sources import STYLES
from torch import Tensor
from train_text import load_text_encoder
from train_unet import load_averaged
from train_vae import load_vae, psnr

SHEET_IMAGES = {"singles": 64, "held-out": 32, "couples": 32, "grounds": 32}
STYLE_WORDS = {"3d": "", "flat": ", flat", "outlined": ", outlined"}
SHOWN = 60
"""By how much, summed over red, green and blue, a pixel differs from the ground where something is shown."""
ALONE = 0.85
"""How much of an image's edge a thing alone takes, see `icons.render`."""
PLACE_WORDS = {(-1, 0): "next to", (1, 0): "to the right of", (0, -1): "above", (0, 1): "below"}


@dataclass(frozen=True)
class Trial:
    """A prompt and what its image should show: labels of one thing or two, a style, a ground."""

    prompt: str
    labels: tuple[str, ...]
    style: str
    ground: str
    place: tuple[int, int] = (0, 0)


def trials_of(icons: Sequence[Icon], count: int, random: np.random.Generator) -> dict[str, list[Trial]]:
    """The sets of prompts by name, at most `count` each: the same ones for the same drawings and seed."""
    default = next(iter(GROUNDS))
    order = [icons[index] for index in random.permutation(len(icons))]

    def single(icon: Icon) -> Trial:
        return Trial(with_article(icon.words[0]) + STYLE_WORDS[icon.style], (icon.label,), icon.style, default)

    singles = [single(icon) for icon in order if not icon.pair_held_out]
    held_out = [single(icon) for icon in order if icon.pair_held_out]
    plain = [icon for icon in order if icon.style == "3d"]
    grounds = []
    for index, icon in enumerate(plain):
        # Training has shown each drawing on a few grounds: ask for one of the others.
        seen = {ground_of(icon.key, variant) for variant in range(VARIANTS)}
        unseen = [name for name in GROUNDS if name != default and name not in seen]
        name = unseen[index % len(unseen)]
        prompt = f"{with_article(icon.words[0])} on {with_article(name)} background"
        grounds.append(Trial(prompt, (icon.label,), icon.style, name))
    couples: list[Trial] = []
    for one, other in (
        (one, other) for shift in range(1, 200) for one, other in zip(plain, plain[shift:], strict=False)
    ):
        if len(couples) == count:
            break
        if couple_held_out(one.label, other.label):
            place = list(COUPLES)[len(couples) % len(COUPLES)]
            prompt = f"{with_article(one.words[0])} {PLACE_WORDS[place]} {with_article(other.words[0])}"
            couples.append(Trial(prompt, (one.label, other.label), one.style, default, place))
    return {
        "singles": singles[:count],
        "held-out": held_out[:count],
        "couples": couples[:count],
        "grounds": grounds[:count],
    }


def ground_colour(image: Image.Image) -> str:
    """The name of the ground: the named colour nearest to the median of the image's rim."""
    pixels = np.asarray(image, np.float64)
    rim = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3)])
    distances = {name: np.abs(np.median(rim, 0) - rgb).sum() for name, rgb in GROUNDS.items()}
    return min(distances, key=lambda name: distances[name])


def parts_of(image: Image.Image, trial: Trial) -> list[Image.Image]:
    """The image, or what its two halves show, in the order of the trial's labels."""
    if len(trial.labels) == 1:
        return [image]
    width, height = image.size
    boxes = [(0, 0, width // 2, height), (width // 2, 0, width, height)]
    if not trial.place[0]:
        boxes = [(0, 0, width, height // 2), (0, height // 2, width, height)]
    if sum(trial.place) > 0:
        boxes.reverse()
    return [as_if_alone(image.crop(box)) for box in boxes]


def as_if_alone(part: Image.Image) -> Image.Image:
    """What a part of an image shows, cut out and put into a square that it fills as a thing alone fills an image:
    the judge is to tell what a thing is, not how large.
    """
    pixels = np.asarray(part, np.int64)
    ground = np.median(np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)]), 0)
    shown = np.abs(pixels - ground).sum(2) > SHOWN
    # A row or column of specks is not the thing.
    left, right, top, bottom = 0, part.width, 0, part.height
    across, down = (np.flatnonzero(shown.mean(axis) > 0.03) for axis in (0, 1))
    if len(across) and len(down):
        left, right, top, bottom = int(across[0]), int(across[-1]) + 1, int(down[0]), int(down[-1]) + 1
    edge = round(max(right - left, bottom - top) / ALONE)
    square = Image.new("RGB", (edge, edge), tuple(round(value) for value in ground))
    corner = ((edge - right + left) // 2, (edge - bottom + top) // 2)
    square.paste(part.crop((left, top, right, bottom)), corner)
    return square


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images as the judge takes them, `(n, 3, 64, 64)` in [-1, 1]."""
    small = [np.asarray(image.resize((EDGE, EDGE), Image.Resampling.HAMMING), np.float32) for image in images]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 127.5 - 1


@torch.inference_mode()
def verdicts_on(
    judges: Sequence[Judge], trials: Sequence[Trial], images: Sequence[Image.Image]
) -> list[dict[str, bool]]:
    """For each image: `recognised` (every thing first among all concepts), `style` and `ground` right."""
    verdicts = []
    device = next(judges[0].network.parameters()).device
    for trial, image in zip(trials, images, strict=True):
        parts = as_tensor(parts_of(image, trial)).to(device)
        concepts, styles = (judge.network(parts).softmax(1) for judge in judges)
        shown = [judges[0].answers[index] for index in concepts.argmax(1).tolist()]
        style = judges[1].answers[int(styles.mean(0).argmax())]
        verdicts.append(
            {
                "recognised": shown == list(trial.labels),
                "style": style == trial.style,
                "ground": ground_colour(image) == trial.ground,
            }
        )
    return verdicts


def real_couples(
    couples: Sequence[Trial], icons: Sequence[Icon], work: Path, vae: AutoencoderTiny, size: int, seed: int
) -> list[Image.Image]:
    """What perfect images of these trials are: put together from the real drawings, as in most of training."""
    painter, random = Painter(Latents(work, size, icons), icons), np.random.default_rng(seed)
    numbers = {(icon.label, icon.style): number for number, icon in enumerate(icons)}
    device = next(vae.parameters()).device
    images = []
    for trial in couples:
        one, other = (numbers[label, trial.style] for label in trial.labels)
        latents, _ = painter.paint(random, Scene((one, other), 0, trial.place), plain=True)
        with torch.inference_mode():
            decoded = vae.decode(latents[None].float().to(device)).sample
        pixels = ((decoded[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
        images.append(Image.fromarray(pixels.cpu().numpy()))
    return images


def share(verdicts: Sequence[dict[str, bool]], what: str) -> float:
    """Share in percent of the verdicts that are right about `what`."""
    return round(100 * sum(verdict[what] for verdict in verdicts) / max(1, len(verdicts)), 1)


def vae_figures(vae: AutoencoderTiny, icons: Sequence[Icon], work: Path, size: int) -> dict[str, float]:
    """PSNR in dB on the drawings that the VAE never saw: there and back, and from the teacher's latents."""
    unseen = [index for index, icon in enumerate(icons) if icon.vae_held_out]
    images = [render(icons[index], read_icon(icons[index].path), 0, size) for index in unseen]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = Latents(work, size, icons, variants=1).singles[0, unseen].float()
    device = next(vae.parameters()).device
    batches = list(zip(torch.split(latents, 16), torch.split(pixels, 16), strict=True))
    both = [psnr(vae, codes.to(device), part.to(device)) for codes, part in batches]
    sizes = [len(part) for _, part in batches]
    taught, own = (float(np.average([pair[i] for pair in both], weights=sizes)) for i in (0, 1))
    return {"round_trip_db": round(own, 2), "decoder_db": round(taught, 2), "drawings": len(unseen)}


def evaluate(
    pipeline: StableDiffusionPipeline,
    icons: Sequence[Icon],
    judges: Sequence[Judge],
    folder: Path,
    *,
    count: int,
    steps: int,
    scale: float,
    seed: int,
) -> dict[str, Any]:
    """All figures about drawing; contact sheets go into `folder`."""
    figures: dict[str, Any] = {"steps": steps, "scale": scale, "seed": seed}
    for name, trials in trials_of(icons, count, np.random.default_rng(seed)).items():
        if not trials:
            continue
        images = draw(pipeline, [trial.prompt for trial in trials], steps=steps, scale=scale, seed=seed)
        verdicts = verdicts_on(judges, trials, images)
        figures[name] = {what: share(verdicts, what) for what in ("recognised", "style", "ground")}
        figures[name]["images"] = len(trials)
        figures[name]["recognised_by_style"] = {
            style: share([v for v, t in zip(verdicts, trials, strict=True) if t.style == style], "recognised")
            for style in STYLES
            if any(trial.style == style for trial in trials)
        }
        print(json.dumps({name: figures[name]}), flush=True)
        shown = SHEET_IMAGES[name]
        texts = [
            f"{trial.prompt}{'' if verdict['recognised'] else ' (?)'}"
            for trial, verdict in zip(trials, verdicts, strict=True)
        ]
        contact_sheet(images[:shown], texts[:shown]).save(folder / f"{name}.png")
    prompts = [with_article(icon.words[0]) for icon in icons if icon.style == "3d" and icon.weight > 1][:32]

    def seeded(prompts: Sequence[str], add: int) -> list[Image.Image]:
        return draw(pipeline, prompts, steps=steps, scale=scale, seed=seed + add)

    first, second = seeded(prompts, 0), seeded(prompts, 1000)
    gaps = [np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in zip(first, second, strict=True)]
    figures["seeds"] = {"difference": round(float(np.mean(gaps)), 2), "least": round(float(np.min(gaps)), 2)}
    four = [*first[:8], *second[:8], *seeded(prompts[:8], 2000), *seeded(prompts[:8], 3000)]
    contact_sheet(four, prompts[:8] * 4).save(folder / "seeds.png")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__, "--tokenizer", "--size", "--seed", "--device")
    parser.add_argument("--images", type=int, default=256, help="at most so many of each kind")
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
    judges = load_judges(options.work, drawings, device)
    figures["judge"] = {judge.name: round(100 * judge.accuracy(drawings, 2**41, device), 1) for judge in judges}
    couples = trials_of(icons, options.images, np.random.default_rng(options.seed))["couples"]
    images = real_couples(couples, icons, options.work, vae, options.size, options.seed)
    figures["judge"]["couples"] = share(verdicts_on(judges, couples, images), "recognised")
    print(json.dumps(figures), flush=True)
    text_encoder = load_text_encoder(options.work, vocabulary)
    pipeline = new_pipeline(load_averaged(options.work), text_encoder, vocabulary, vae).to(device)
    figures |= evaluate(
        pipeline, icons, judges, folder,
        count=options.images, steps=options.steps, scale=options.scale, seed=options.seed,
    )  # fmt: skip
    write_atomically(
        folder / "figures.json", lambda path: path.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    )
    print(json.dumps(figures["seeds"]))


if __name__ == "__main__":
    main()
