"""Train the UNet on what `prepare.py` cached, with the text encoder as `train_text.py` left it.

    python training/train_unet.py --tokenizer CLIP --minutes 120     # the learning rate falls to 0 at the end
    python training/train_unet.py --tokenizer CLIP --steps 100000    # or over a number of steps, exact about seeds
    python training/train_unet.py --mixed-precision bf16 --batch 256 --workers 8 --compile ...     # on a GPU
    python training/train_unet.py --start sdcli/models/builtin ...   # from the UNet of a model like ours
    python training/train_unet.py --copying ...                      # first, to look closely at what the text tells

Killed, it carries on from the last checkpoint. Writes `unet/last/` (all that training needs, with the averaged weights
as `ema.safetensors`), `unet/log.jsonl` and, once `train_vae.py` has written its weights, sheets `unet/STEP.png`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from dataset import CELL, Latents, read_icons
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from icons import Icon
from model import TEXT_WIDTH, Captions, Tensors, Vocabulary, new_pipeline, new_scheduler, new_unet, states_of
from safetensors.torch import load_file, save_file
from scenes import NAME_END, Painter, Scenes, every_word, sentence_of
from session import learning_rate
from sheet import GUIDANCE_SCALE, PROMPTS, contact_sheet, draw
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from train_text import caption_rows, load_text_encoder
from train_vae import load_vae
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

HERE = Path(__file__).parent
COOL_DOWN = 0.4
PAIR_SHARE = 0.4
"""Share of the images that show two things."""

PURE_NOISE_SHARE = 0.25
COPYING_SHARE = 0.5
"""Share of pure noise in the lessons in copying: where nothing but the text tells what to draw."""

PLAIN_SHARES = {1: 0.1, 2: 0.85}
"""Share of the images that show things as they are, by the number of things. In the others one thing has a tinted
ground where none is asked for, so that seeds differ; two things are moved. Guidance makes what is commonest commoner:
of one plain image in five came one in two."""

REDRAWN = slice(0, None, 3)
"""Which images of a batch the UNet meets as it drew them itself, see `redrawn`."""

FIRST_REDRAWN = 40
"""Timestep below which none is: v counts what is wrong with an image the more, the less noise there is, without
bounds; and twenty steps of drawing end at 49."""

SNR_CEILING = 5.0
PLACE_WEIGHT = 0.1
"""Of the loss of `Places` beside that of the drawing."""

START_SENTENCES = 600
"""From which `start_from` learns how an earlier text encoder's states follow from ours'."""


class Progress:
    """How far training has come; travels with the checkpoint."""

    def __init__(self) -> None:
        self.step = 0
        self.images = 0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


@dataclass(frozen=True)
class Batch(Tensors):
    """What one step learns from; `clean`, `noisy` and `target` are `(batch, 4, edge, edge)`.

    `earlier` are those at `REDRAWN` with the noise of `earlier_timesteps`, from where the UNet draws them itself.
    """

    clean: Tensor
    noisy: Tensor
    timesteps: Tensor
    captions: Captions
    target: Tensor
    weights: Tensor
    earlier: Tensor
    earlier_timesteps: Tensor


class Batches(Dataset[Batch]):
    """The batch of every step: it follows from the seed, the process and the step's number alone."""

    def __init__(self, options: argparse.Namespace, vocabulary: Vocabulary, icons: list[Icon], process: int) -> None:
        self._seeds, self._size, self._vocabulary, self._icons = (
            (options.seed, process),
            options.batch,
            vocabulary,
            icons,
        )
        self._copying = options.copying
        self._scenes = Scenes(icons, PAIR_SHARE)
        self._painter = Painter(Latents(options.work, options.size, icons, variants=options.variants), icons)
        self._scheduler = new_scheduler()
        self._last = len(self._scheduler.alphas_cumprod) - 1
        snr: Tensor = compute_snr(self._scheduler, torch.arange(self._last + 1))  # type: ignore[no-untyped-call]
        # In terms of the image the v loss weighs every timestep by SNR + 1, nearly all of it on the last traces of
        # noise. Min-SNR's ceiling evens that out; unlike Min-SNR we keep the + 1, or the first steps, which decide what
        # is drawn, would not be learnt at all.
        self._weights = (snr.clamp(max=SNR_CEILING) + 1) / (snr + 1)

    def __getitem__(self, step: int) -> Batch:
        random = np.random.default_rng([*self._seeds, step])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        scenes = [self._scenes.draw(random) for _ in range(self._size)]
        shares = [1.0 if self._copying else PLAIN_SHARES[len(scene.icons)] for scene in scenes]
        plain = random.random(self._size) < shares
        drawn = [self._painter.paint(random, *both) for both in zip(scenes, plain, strict=True)]
        sentences = [sentence_of(random, scene, self._icons) for _, scene in drawn]
        rows, _, _ = caption_rows(random, sentences, self._vocabulary)
        clean = torch.stack([latents for latents, _ in drawn]).float()
        # One timestep from each of `batch` equal stretches: less chance in the loss than with independent ones.
        timesteps = torch.from_numpy((np.arange(self._size) + random.random(self._size)) / self._size)
        timesteps = (timesteps * (self._last + 1)).long()
        noise = torch.randn(clean.shape, generator=generator)
        pure = torch.from_numpy(random.random(self._size) < (COPYING_SHARE if self._copying else PURE_NOISE_SHARE))
        timesteps[pure] = self._last
        noisy = self._with_noise(clean, noise, timesteps)
        target = self._scheduler.get_velocity(clean, noise, timesteps)  # type: ignore[arg-type]
        captions = Captions.of(rows, self._vocabulary.end, random)
        # Half of them from the very beginning.
        chosen = timesteps[REDRAWN]
        later = torch.from_numpy(np.minimum(2 * random.random(len(chosen)), 1.0))
        earlier_timesteps = chosen + (later * (self._last - chosen)).long()
        earlier = self._with_noise(clean[REDRAWN], noise[REDRAWN], earlier_timesteps)
        weights = self._weights[timesteps]
        return Batch(clean, noisy, timesteps, captions, target, weights, earlier, earlier_timesteps)

    def _with_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy: Tensor = self._scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]
        # At the last timestep these betas leave 7 % of the image in the noise, but drawing starts from noise alone:
        # let the network meet that. (A zero terminal SNR would do too, but not every sampler can start from it.)
        first = timesteps == self._last
        noisy[first] = noise[first]
        return noisy


@torch.no_grad()
def redrawn(network: Callable[..., Any], batch: Batch, states: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """`noisy` and `target` of a batch, but for a part of it the UNet has got there by itself: one step of DDIM away.

    Made of the true image, `noisy` shows it the truer the less noise there is, and the UNet learns to believe what it
    sees. Drawing, what it sees is what it has drawn: a blotch once there would stay. So it is to see its own blotches,
    with the true image still for its aim (Ning et al. 2023, "Input Perturbation Reduces Exposure Bias in Diffusion
    Models", lets noise stand for them).

    Args:
        states: of the captions, `(batch, 77, TEXT_WIDTH)`.
        signal: the scheduler's `alphas_cumprod`.
    """

    def parts(timesteps: Tensor) -> tuple[Tensor, Tensor]:
        kept = signal[timesteps][:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    timesteps = batch.timesteps[REDRAWN]
    image, noise = parts(batch.earlier_timesteps)
    velocity = network(batch.earlier, batch.earlier_timesteps, encoder_hidden_states=states[REDRAWN]).sample.float()
    drawn, rest = image * batch.earlier - noise * velocity, noise * batch.earlier + image * velocity
    image, noise = parts(timesteps)
    seen = image * drawn + noise * rest
    aim = (image * seen - batch.clean[REDRAWN]) / noise
    wanted = ((timesteps >= FIRST_REDRAWN) & (timesteps < batch.earlier_timesteps))[:, None, None, None]
    noisy, target = batch.noisy.clone(), batch.target.clone()
    noisy[REDRAWN], target[REDRAWN] = (
        torch.where(wanted, seen, noisy[REDRAWN]),
        torch.where(wanted, aim, target[REDRAWN]),
    )
    return noisy, target


class Places(nn.Module):
    """Has the UNet know where in the image it is, wherever it looks at the text on the way up.

    The text tells what belongs into each region, so whoever looks must know the region, and what part of it to take.
    All that a network of convolutions knows of that comes from the zeros around the image, and by itself it hardly
    brought any to the finest level: an eighth of its attention was on the right region of sixteen. Here a linear layer
    for each attention is to tell row and column from what the attention asks with. Only training needs it.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self._asked: list[Tensor] = []
        layers = []
        for number, block in enumerate(unet.up_blocks):
            edge = unet.config["sample_size"] >> (len(unet.up_blocks) - 1 - number)
            attentions: Any = block.attentions
            for attention in attentions:
                norm = attention.transformer_blocks[0].norm2
                norm.register_forward_hook(self._hear)
                layers.append(nn.Linear(norm.normalized_shape[0], 2 * edge))
        self.layers = nn.ModuleList(layers)

    def _hear(self, _norm: nn.Module, _given: Any, asking: Tensor) -> None:
        if torch.is_grad_enabled():
            self._asked.append(asking)

    def forward(self) -> Tensor:
        """The mean cross-entropy of rows and columns in what the UNet has asked since the last call."""
        losses = []
        for layer, asking in zip(self.layers, self._asked, strict=True):
            rows, columns = layer(asking.float()).chunk(2, -1)  # (batch, edge * edge, edge) each
            place = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
            edge = rows.shape[-1]
            for scores, truth in ((rows, place // edge), (columns, place % edge)):
                losses.append(functional.cross_entropy(scores.flatten(0, 1), truth.flatten()))
        self._asked.clear()
        return torch.stack(losses).mean()


def save_checkpoint(
    accelerator: Accelerator, unet: UNet2DConditionModel, ema: EMAModel, progress: Progress, folder: Path
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
    names = [name for name, _ in unet.named_parameters()]
    averaged = dict(zip(names, (weight.contiguous() for weight in ema.shadow_params), strict=True))
    save_file(averaged, part / "ema.safetensors")
    (part / "progress.json").write_text(json.dumps(vars(progress)) + "\n", "utf-8")
    size = CELL * unet.config["sample_size"]
    (part / "shape.json").write_text(json.dumps({"size": size}) + "\n", "utf-8")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_averaged(work: Path) -> UNet2DConditionModel:
    """The UNet with the averaged weights of the last checkpoint, float32 on the CPU."""
    folder = work / "unet" / "last"
    if not folder.exists():
        folder = folder.with_name("old")
    size = json.loads((folder / "shape.json").read_text("utf-8"))["size"]
    unet = new_unet(size)
    unet.load_state_dict(load_file(folder / "ema.safetensors"))
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def start_from(
    unet: UNet2DConditionModel,
    folder: Path,
    vocabulary: Vocabulary,
    text_encoder: CLIPTextModel,
    sentences: Sequence[str],
) -> None:
    """Give it the weights of the UNet of a diffusers folder, whose text encoder may be quite another than ours.

    What its layers saw in the states of that text encoder, ours see in ours as far as a matrix can say it: `M` with
    `theirs = M ours`, by least squares over the states of these sentences.
    """
    other = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    whole = vocabulary.widen(text_encoder)
    products = torch.zeros(TEXT_WIDTH, TEXT_WIDTH), torch.zeros(TEXT_WIDTH, other.config.hidden_size)
    for start in range(0, len(sentences), 50):
        some = sentences[start : start + 50]
        ours, theirs = (
            states_of(some, read, encoder).flatten(0, 1)
            for encoder, read in ((whole, vocabulary.tokenizer), (other, tokenizer))
        )
        products[0].add_(ours.T @ ours)
        products[1].add_(ours.T @ theirs)
    ridge = 1e-5 * products[0].diagonal().mean() * torch.eye(TEXT_WIDTH)
    matrix = torch.linalg.solve(products[0] + ridge, products[1]).T
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    seeing = (".attn2.to_k.weight", ".attn2.to_v.weight")
    unet.load_state_dict(
        {name: weight.float() @ matrix if name.endswith(seeing) else weight.float() for name, weight in weights.items()}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time, over all runs since the first")
    length.add_argument("--steps", type=int)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of CLIP's vocab.json and merges.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--size", type=int, default=256, help="edge of the images in pixels")
    parser.add_argument("--variants", type=int, help="use only the first so many: less to learn in a short run")
    parser.add_argument("--batch", type=int, default=32, help="images a step of each process")
    parser.add_argument("--start", type=Path, help="diffusers folder of a model like ours, from whose UNet it starts")
    parser.add_argument(
        "--copying", action="store_true", help="a first course: plain drawings, half of them from noise alone"
    )
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-steps", type=int, default=50, help="steps that a line of the log sums up")
    parser.add_argument("--checkpoint-minutes", type=float, default=5)
    parser.add_argument("--sheet-minutes", type=float, default=20)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches: some for a fast GPU")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()

    accelerator = Accelerator(mixed_precision=options.mixed_precision)
    torch.manual_seed(options.seed)
    folder = options.work / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))

    unet = new_unet(options.size)
    text_encoder = load_text_encoder(options.work, vocabulary)
    text_encoder.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    checkpoint = next((path for path in (folder / "last", folder / "old") if path.exists()), None)
    if options.start and checkpoint is None:
        random, scenes = np.random.default_rng(options.seed), Scenes(icons, PAIR_SHARE)
        sentences = [
            sentence_of(random, scenes.draw(random), icons).replace(NAME_END, "") for _ in range(START_SENTENCES)
        ]
        start_from(unet, options.start, vocabulary, text_encoder, [*sentences, *[""] * (START_SENTENCES // 10)])
    for weight in unet.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
    places = Places(unet)
    learning = [*unet.parameters(), *places.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMAModel(unet.parameters(), decay=options.ema, foreach=True)
    progress = Progress()
    text_encoder.to(accelerator.device)
    prepared, places, optimizer = accelerator.prepare(unet, places, optimizer)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema, progress)
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
    network = torch.compile(prepared) if options.compile else prepared
    steps = range(progress.step, sys.maxsize)
    signal = new_scheduler().alphas_cumprod.to(accelerator.device)
    dataset = Batches(options, vocabulary, icons, accelerator.process_index)
    batches = iter(DataLoader(dataset, batch_size=None, sampler=steps, num_workers=options.workers))

    def sheet() -> None:
        if not accelerator.is_main_process or not (options.work / "vae" / "config.json").exists():
            return
        averaged = load_averaged(options.work)
        pipeline = new_pipeline(averaged, text_encoder, vocabulary, load_vae(options.work))
        images = draw(pipeline, PROMPTS[:32], steps=20, scale=GUIDANCE_SCALE)
        contact_sheet(images, PROMPTS[:32]).save(folder / f"{progress.step:07}.png")

    started, before = time.monotonic(), progress.seconds
    saved = sheeted = before
    losses: list[tuple[float, float]] = []
    while True:
        done = progress.seconds / 60 / options.minutes if options.minutes else progress.step / options.steps
        if done >= 1:
            break
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options.lr, progress.step, done, warmup=options.warmup, cool_down=COOL_DOWN)
        device = accelerator.device
        batch = batch.to(device)
        # In bfloat16 always: what it tells is exact enough, and a CPU is three times as fast.
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            states = batch.captions.spread(batch.captions.encode(text_encoder)).float()
        noisy, target = redrawn(network, batch, states, signal)
        prediction = network(noisy, batch.timesteps, encoder_hidden_states=states).sample
        errors = (prediction.float() - target).square().mean((1, 2, 3))
        loss = (errors * batch.weights).mean()
        lost = places()
        accelerator.backward(loss + PLACE_WEIGHT * lost)
        accelerator.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(prepared.parameters())
        losses.append((loss.item(), lost.item()))

        progress.step += 1
        progress.images += options.batch * accelerator.num_processes
        # The main process keeps the time, or the others might stop, or save, one step sooner or later than it.
        clock = torch.tensor(before + time.monotonic() - started, device=accelerator.device)
        progress.seconds = float(broadcast(clock))
        if progress.step % options.log_steps == 0 and accelerator.is_main_process:
            means = dict(zip(("loss", "places"), np.mean(losses, 0).tolist(), strict=True))
            row = {**vars(progress), **means, "lr": optimizer.param_groups[0]["lr"]}
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            losses.clear()
        if progress.seconds - saved > options.checkpoint_minutes * 60:
            save_checkpoint(accelerator, unet, ema, progress, folder / "last")
            saved = progress.seconds
            if progress.seconds - sheeted > options.sheet_minutes * 60:
                sheet()
                sheeted = progress.seconds
    save_checkpoint(accelerator, unet, ema, progress, folder / "last")
    sheet()


if __name__ == "__main__":
    main()
