"""Train the denoiser and its text encoder on what `prepare.py` cached.

    python training/train_unet.py --tokenizer CLIP --minutes 120     # the learning rate falls to 0 over the time given
    python training/train_unet.py --tokenizer CLIP --steps 100000    # or over a number of steps, exact about seeds
    accelerate launch --mixed_precision bf16 training/train_unet.py --compile ...

Killed, it carries on from the last checkpoint. Writes `unet/last/` (all that training needs, with the averaged weights
as `ema.safetensors`), `unet/log.jsonl` and, once `train_vae.py` has written its weights, sheets `unet/STEP.png`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from dataset import read_icons, read_latents
from diffusers.training_utils import EMAModel, compute_snr
from icons import Icon
from model import Denoiser, Vocabulary, new_pipeline, new_scheduler, new_unet
from safetensors.torch import load_file, save_file
from sheet import PROMPTS, draw_sheet
from torch import Tensor
from train_vae import load_vae

HERE = Path(__file__).parent
NO_CAPTION_SHARE = 0.1
PURE_NOISE_SHARE = 0.03
SNR_CEILING = 5.0


class Captions:
    """Draws captions: each icon's by their weights, now and then none at all."""

    def __init__(self, icons: list[Icon], vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens([text for icon in icons for text, _ in icon.captions])
        self.nothing = vocabulary.tokens([""])[0]
        self._starts = np.cumsum([0, *(len(icon.captions) for icon in icons)])
        self._bounds = [np.cumsum([weight for _, weight in icon.captions]) for icon in icons]

    def draw(self, chosen: np.ndarray[Any, Any], random: np.random.Generator) -> Tensor:
        """Icon indices `(batch,)` -> tokens `(batch, 77)`."""
        rows = []
        for icon, at, nothing in zip(chosen, random.random(len(chosen)), random.random(len(chosen)), strict=True):
            bounds = self._bounds[icon]
            place = min(int(np.searchsorted(bounds, at)), len(bounds) - 1)
            rows.append(self.nothing if nothing < NO_CAPTION_SHARE else self.tokens[self._starts[icon] + place])
        return torch.stack(rows)


class Progress:
    """How far training has come; travels with the checkpoint."""

    def __init__(self) -> None:
        self.step = 0
        self.pictures = 0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def learning_rate(peak: float, step: int, warmup: int, done: float) -> float:
    """Up in a straight line over `warmup` steps, then down a cosine as `done` goes from 0 to 1."""
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def save_checkpoint(
    accelerator: Accelerator, denoiser: Denoiser, ema: EMAModel, progress: Progress, folder: Path
) -> None:
    """Write everything beside `folder`, then put it in place of the last checkpoint; all processes call it."""
    part, old = folder.with_name("part"), folder.with_name("old")
    if accelerator.is_main_process:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    names = [name for name, _ in denoiser.named_parameters()]
    averaged = dict(zip(names, (weight.contiguous() for weight in ema.shadow_params), strict=True))
    save_file(averaged, part / "ema.safetensors")
    (part / "progress.json").write_text(json.dumps(vars(progress)) + "\n", "utf-8")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_averaged(work: Path, size: int, vocabulary: Vocabulary) -> Denoiser:
    """The denoiser with the averaged weights of the last checkpoint, float32 on the CPU."""
    denoiser = Denoiser(new_unet(size), vocabulary.new_text_encoder())
    folder = work / "unet" / "last"
    denoiser.load_state_dict(load_file((folder if folder.exists() else folder.with_name("old")) / "ema.safetensors"))
    return denoiser.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time, over all runs since the first")
    length.add_argument("--steps", type=int)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of CLIP's vocab.json and merges.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=128, help="edge of the pictures in pixels")
    parser.add_argument("--variants", type=int, help="use only the first so many: less to learn in a short run")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step of each process")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-minutes", type=float, default=5)
    parser.add_argument("--sheet-minutes", type=float, default=20)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()

    accelerator = Accelerator()
    torch.manual_seed(options.seed)
    folder = options.work / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, (text for icon in icons for text, _ in icon.captions))
    captions = Captions(icons, vocabulary)
    shares = np.array([icon.weight for icon in icons]) / sum(icon.weight for icon in icons)
    latents = read_latents(options.work, options.size)[: options.variants]
    variants = len(latents)

    denoiser = Denoiser(new_unet(options.size), vocabulary.new_text_encoder())
    for weight in denoiser.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
    parameters = list(denoiser.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMAModel(denoiser.parameters(), decay=options.ema, foreach=True)
    progress = Progress()
    prepared, optimizer = accelerator.prepare(denoiser, optimizer)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema, progress)
    for checkpoint in (folder / "last", folder / "old"):
        if checkpoint.exists():
            accelerator.load_state(str(checkpoint))
            break
    network = torch.compile(prepared) if options.compile else prepared

    scheduler = new_scheduler()
    last_timestep = len(scheduler.alphas_cumprod) - 1
    snr: Tensor = compute_snr(scheduler, torch.arange(last_timestep + 1))  # type: ignore[no-untyped-call]
    # In terms of the picture the v loss weighs every timestep by SNR + 1, nearly all of it on the last traces of noise.
    # Min-SNR's ceiling evens that out; unlike Min-SNR we keep the + 1, or the first steps, which decide what is drawn,
    # would not be learnt at all.
    weights = (snr.clamp(max=SNR_CEILING) + 1) / (snr + 1)

    def sheet() -> None:
        if not accelerator.is_main_process or not (options.work / "vae" / "config.json").exists():
            return
        averaged = load_averaged(options.work, options.size, vocabulary)
        pipeline = new_pipeline(averaged, vocabulary, load_vae(options.work))
        draw_sheet(pipeline, PROMPTS[:32], steps=20, scale=7.5).save(folder / f"{progress.step:07}.png")

    started, before = time.monotonic(), progress.seconds
    saved = sheeted = before
    losses: list[float] = []
    while True:
        done = progress.seconds / 60 / options.minutes if options.minutes else progress.step / options.steps
        if done >= 1:
            break
        random = np.random.default_rng([options.seed, progress.step, accelerator.process_index])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        chosen = random.choice(len(icons), size=options.batch, p=shares)
        clean = latents[random.integers(variants, size=options.batch), chosen]
        # One timestep from each of `batch` equal stretches: less chance in the loss than with independent ones.
        timesteps = torch.from_numpy((np.arange(options.batch) + random.random(options.batch)) / options.batch)
        timesteps = (timesteps * (last_timestep + 1)).long()
        noise = torch.randn(clean.shape, generator=generator)
        pure = torch.from_numpy(random.random(options.batch) < PURE_NOISE_SHARE)
        timesteps[pure] = last_timestep
        noisy = scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]
        # At the last timestep these betas leave 7 % of the picture in the noise, but drawing starts from noise alone:
        # let the network meet that. (A zero terminal SNR would do too, but not every sampler can start from it.)
        noisy[pure] = noise[pure]
        target = scheduler.get_velocity(clean, noise, timesteps)  # type: ignore[arg-type]

        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options.lr, progress.step, options.warmup, done)
        device = accelerator.device
        prediction = network(
            noisy.to(device, memory_format=torch.channels_last),
            timesteps.to(device),
            captions.draw(chosen, random).to(device),
        )
        errors = (prediction.float() - target.to(device)).square().mean((1, 2, 3))
        loss = (errors * weights[timesteps].to(device)).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(prepared.parameters())
        losses.append(loss.item())

        progress.step += 1
        progress.pictures += options.batch * accelerator.num_processes
        # The main process keeps the time, or the others might stop, or save, one step sooner or later than it.
        clock = torch.tensor(before + time.monotonic() - started, device=accelerator.device)
        progress.seconds = float(broadcast(clock))
        if progress.step % 50 == 0 and accelerator.is_main_process:
            row = {**vars(progress), "loss": sum(losses) / len(losses), "lr": optimizer.param_groups[0]["lr"]}
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            losses.clear()
        if progress.seconds - saved > options.checkpoint_minutes * 60:
            save_checkpoint(accelerator, denoiser, ema, progress, folder / "last")
            saved = progress.seconds
            if progress.seconds - sheeted > options.sheet_minutes * 60:
                sheet()
                sheeted = progress.seconds
    save_checkpoint(accelerator, denoiser, ema, progress, folder / "last")
    sheet()


if __name__ == "__main__":
    main()
