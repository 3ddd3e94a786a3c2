"""Trains the UNet on the latents of `prepare.py`, with the frozen text encoder of `train_text.py`.

    python training/train_unet.py --tokenizer CLIP --minutes 120     # the learning rate falls to 0 at the end
    python training/train_unet.py --tokenizer CLIP --steps 100000    # repeatable: depends on the seed only
    python training/train_unet.py --mixed-precision bf16 --batch 256 --workers 8 --compile ...     # on a GPU
    python training/train_unet.py --start sdcli/models/builtin ...   # from the UNet of a similar model
    python training/train_unet.py --copying ...                      # first phase: rely on the text's layout

After an interruption, the same command continues from the last checkpoint. Writes `unet/checkpoint.pt`,
`unet/log.jsonl` and, once `train_vae.py` has written its weights, contact sheets `unet/STEP.png`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from arguments import add_budget, new_parser
from dataset import Latents, load_checkpoint, read_icons, write_atomically
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from icons import Icon
from model import TEXT_WIDTH, Captions, Tensors, Vocabulary, new_pipeline, new_scheduler, new_unet, states_of
from safetensors.torch import load_file
from scenes import NAME_END, Composer, Scenes, caption_of, every_word
from session import Budget, Session, learning_rate, optimise
from sheet import GUIDANCE_SCALE, PROMPTS, contact_sheet, generate
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from train_text import caption_rows, load_text_encoder
from train_vae import load_vae
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

COOL_DOWN = 0.4
PAIR_SHARE = 0.4
"""Fraction of the images with two objects."""

PURE_NOISE_SHARE = 0.25
COPYING_SHARE = 0.5
"""Fraction of samples of pure noise in the copying phase, where only the text determines the image."""

PLAIN_SHARES = {1: 0.1, 2: 0.85}
"""Fraction of plain images by the number of objects. In the others, a single object has a tinted background if its
caption names none, so that seeds differ; two objects are shifted. Guidance amplifies what is common: one plain
image in five became one in two."""

SELF_DENOISED = slice(0, None, 3)
"""Images of a batch that the UNet gets in the form that it denoised itself, see `self_denoised`."""

MIN_SELF_DENOISED = 40
"""Timestep below which images are not self-denoised: the v target weighs errors in the image without bound as the
noise vanishes. Sampling with 20 steps ends at timestep 49."""

SNR_CEILING = 5.0
POSITION_WEIGHT = 0.1
"""Weight of `PositionLoss`."""

START_CAPTIONS = 600
"""Number of captions to fit the map from our text encoder's states to those of another."""


@dataclass(frozen=True)
class Batch(Tensors):
    """The input of one step; `clean`, `noisy` and `target` are `(batch, 4, edge, edge)`.

    `earlier` are the images of `SELF_DENOISED` with the noise of `earlier_timesteps`, from which the UNet denoises.
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
    """The batch of every step; it depends on the seed, the process and the number of the step only."""

    def __init__(self, options: argparse.Namespace, vocabulary: Vocabulary, icons: list[Icon], process: int) -> None:
        self._seeds, self._size, self._vocabulary, self._icons = (
            (options.seed, process),
            options.batch,
            vocabulary,
            icons,
        )
        self._copying = options.copying
        self._scenes = Scenes(icons, PAIR_SHARE)
        self._composer = Composer(Latents(options.work, options.size, icons, variants=options.variants), icons)
        self._scheduler = new_scheduler()
        self._last = len(self._scheduler.alphas_cumprod) - 1
        snr: Tensor = compute_snr(self._scheduler, torch.arange(self._last + 1))  # type: ignore[no-untyped-call]
        # In terms of the image, the v loss weighs each timestep by SNR + 1: nearly all weight is on the lowest noise.
        # The ceiling of Min-SNR evens that out. Unlike Min-SNR we keep the + 1: without it the highest noise levels,
        # which determine the content, would have nearly no weight.
        self._weights = (snr.clamp(max=SNR_CEILING) + 1) / (snr + 1)

    def __getitem__(self, step: int) -> Batch:
        random = np.random.default_rng([*self._seeds, step])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        scenes = [self._scenes.sample(random) for _ in range(self._size)]
        shares = [1.0 if self._copying else PLAIN_SHARES[len(scene.icons)] for scene in scenes]
        plain = random.random(self._size) < shares
        samples = [self._composer.compose(random, *both) for both in zip(scenes, plain, strict=True)]
        sentences = [caption_of(random, scene, self._icons) for _, scene in samples]
        rows, _, _ = caption_rows(random, sentences, self._vocabulary)
        clean = torch.stack([latents for latents, _ in samples]).float()
        # Stratified timesteps: one from each of `batch` equal intervals, for less variance of the loss.
        timesteps = torch.from_numpy((np.arange(self._size) + random.random(self._size)) / self._size)
        timesteps = (timesteps * (self._last + 1)).long()
        noise = torch.randn(clean.shape, generator=generator)
        pure = torch.from_numpy(random.random(self._size) < (COPYING_SHARE if self._copying else PURE_NOISE_SHARE))
        timesteps[pure] = self._last
        noisy = self._with_noise(clean, noise, timesteps)
        target = self._scheduler.get_velocity(clean, noise, timesteps)  # type: ignore[arg-type]
        captions = Captions.of(rows, self._vocabulary.end, random)
        # Half of them start from the last timestep.
        chosen = timesteps[SELF_DENOISED]
        later = torch.from_numpy(np.minimum(2 * random.random(len(chosen)), 1.0))
        earlier_timesteps = chosen + (later * (self._last - chosen)).long()
        earlier = self._with_noise(clean[SELF_DENOISED], noise[SELF_DENOISED], earlier_timesteps)
        weights = self._weights[timesteps]
        return Batch(clean, noisy, timesteps, captions, target, weights, earlier, earlier_timesteps)

    def _with_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy: Tensor = self._scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]
        # With these betas 7 % of the image remain at the last timestep, but sampling starts from pure noise: train on
        # that. (A zero terminal SNR would work too, but not with every sampler.)
        first = timesteps == self._last
        noisy[first] = noise[first]
        return noisy


@torch.no_grad()
def self_denoised(network: Callable[..., Any], batch: Batch, states: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces `noisy` and `target` of a part of a batch by ones that the UNet reaches itself, with one DDIM step.

    An image with true noise is reliable where there is little noise, and the UNet learns to trust it. In sampling
    the input is its own output, and an error made once would stay (exposure bias). So in training it gets its own
    errors, with the target still computed from the true image. (Ning et al. 2023, "Input Perturbation Reduces
    Exposure Bias in Diffusion Models", approximates such errors by noise.)

    Args:
        network: the UNet.
        states: text states, `(batch, 77, TEXT_WIDTH)`.
        signal: `alphas_cumprod` of the scheduler.

    Returns:
        `noisy` and `target`, `(batch, 4, edge, edge)`.
    """

    def parts(timesteps: Tensor) -> tuple[Tensor, Tensor]:
        kept = signal[timesteps][:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    timesteps = batch.timesteps[SELF_DENOISED]
    image, noise = parts(batch.earlier_timesteps)
    velocity = network(
        batch.earlier, batch.earlier_timesteps, encoder_hidden_states=states[SELF_DENOISED]
    ).sample.float()
    denoised, rest = image * batch.earlier - noise * velocity, noise * batch.earlier + image * velocity
    image, noise = parts(timesteps)
    reached = image * denoised + noise * rest
    new_target = (image * reached - batch.clean[SELF_DENOISED]) / noise
    used = ((timesteps >= MIN_SELF_DENOISED) & (timesteps < batch.earlier_timesteps))[:, None, None, None]
    noisy, target = batch.noisy.clone(), batch.target.clone()
    noisy[SELF_DENOISED], target[SELF_DENOISED] = (
        torch.where(used, reached, noisy[SELF_DENOISED]),
        torch.where(used, new_target, target[SELF_DENOISED]),
    )
    return noisy, target


class PositionLoss(nn.Module):
    """Auxiliary loss: predicts the position of a pixel from the queries of each cross-attention of the decoder.

    Each region of the image is described by other text tokens, so the queries must contain the position. A
    convolutional network only knows it from the zero padding at the borders, and little of that reached the highest
    resolution: an eighth of its attention was on the right one of 16 regions. Here a linear layer per attention
    predicts row and column from the input of the queries. Needed in training only.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self._queries: list[Tensor] = []
        layers = []
        for number, block in enumerate(unet.up_blocks):
            edge = unet.config["sample_size"] >> (len(unet.up_blocks) - 1 - number)
            attentions: Any = block.attentions
            for attention in attentions:
                norm = attention.transformer_blocks[0].norm2
                norm.register_forward_hook(self._record)
                layers.append(nn.Linear(norm.normalized_shape[0], 2 * edge))
        self.layers = nn.ModuleList(layers)

    def _record(self, _norm: nn.Module, _inputs: Any, queries: Tensor) -> None:
        if torch.is_grad_enabled():
            self._queries.append(queries)

    def forward(self) -> Tensor:
        """Mean cross-entropy of row and column for all queries since the last call."""
        losses = []
        for layer, queries in zip(self.layers, self._queries, strict=True):
            rows, columns = layer(queries.float()).chunk(2, -1)  # (batch, edge * edge, edge) each
            place = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
            edge = rows.shape[-1]
            for scores, truth in ((rows, place // edge), (columns, place % edge)):
                losses.append(functional.cross_entropy(scores.flatten(0, 1), truth.flatten()))
        self._queries.clear()
        return torch.stack(losses).mean()


def convert_checkpoint(folder: Path) -> None:
    """Converts a checkpoint of the former format, a folder written by accelerate, to `checkpoint.pt`."""
    old = next((path for path in (folder / "last", folder / "old") if path.exists()), None)
    if old is None:
        return
    state: dict[str, Any] = {"size": json.loads((old / "shape.json").read_text("utf-8"))["size"]}
    for name, file in (("unet", "model.safetensors"), ("places", "model_1.safetensors")):
        state[name] = {key.removeprefix("module."): weight for key, weight in load_file(old / file).items()}
    for name, file in (("optimizer", "optimizer.bin"), ("ema", "custom_checkpoint_0.pkl")):
        state[name] = torch.load(old / file, map_location="cpu", weights_only=True)
    progress = json.loads((old / "progress.json").read_text("utf-8"))
    state |= {"step": progress["step"], "samples": progress["images"], "seconds": progress["seconds"]}
    write_atomically(folder / "checkpoint.pt", lambda path: torch.save(state, path))
    shutil.rmtree(old)


def load_averaged(work: Path) -> UNet2DConditionModel:
    """The UNet with the averaged weights of the last checkpoint, float32 on the CPU."""
    state = load_checkpoint(work / "unet")
    unet = new_unet(state["size"])
    for weight, averaged in zip(unet.parameters(), state["ema"]["shadow_params"], strict=True):
        weight.data.copy_(averaged)
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def start_from(
    unet: UNet2DConditionModel,
    folder: Path,
    vocabulary: Vocabulary,
    text_encoder: CLIPTextModel,
    sentences: Sequence[str],
) -> None:
    """Loads the UNet of a diffusers folder, whose text encoder may be another one.

    The weights that read text states are adapted by a matrix `M` with `theirs = M ours`, fitted by least squares to
    the states of both text encoders for these captions.
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
    text_weights = (".attn2.to_k.weight", ".attn2.to_v.weight")
    unet.load_state_dict(
        {
            name: weight.float() @ matrix if name.endswith(text_weights) else weight.float()
            for name, weight in weights.items()
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__, "--tokenizer", "--size", "--seed", "--mixed-precision")
    add_budget(parser)
    parser.add_argument("--variants", type=int, help="use only the first N variants: less to learn in a short run")
    parser.add_argument("--batch", type=int, default=32, help="images per step and process")
    parser.add_argument("--start", type=Path, help="diffusers folder of a similar model, whose UNet is the start")
    parser.add_argument(
        "--copying", action="store_true", help="first phase: plain images, half of them from pure noise"
    )
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--log-steps", type=int, default=50, help="steps that a line of the log averages")
    parser.add_argument("--checkpoint-minutes", type=float, default=5)
    parser.add_argument("--sheet-minutes", type=float, default=20)
    parser.add_argument("--sheet-images", type=int, default=32, help="images on a contact sheet; 0 for no sheets")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches: some for a fast GPU")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args(arguments)

    accelerator = Accelerator(mixed_precision=options.mixed_precision)
    device = accelerator.device
    torch.manual_seed(options.seed)
    folder = options.work / "unet"
    icons = read_icons(options.work)
    vocabulary = Vocabulary(options.tokenizer, every_word(icons))
    if accelerator.is_main_process:
        convert_checkpoint(folder)
    accelerator.wait_for_everyone()

    unet = new_unet(options.size)
    text_encoder = load_text_encoder(options.work, vocabulary)
    text_encoder.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    if options.start and not (folder / "checkpoint.pt").exists():
        random, scenes = np.random.default_rng(options.seed), Scenes(icons, PAIR_SHARE)
        sentences = [
            caption_of(random, scenes.sample(random), icons).replace(NAME_END, "") for _ in range(START_CAPTIONS)
        ]
        start_from(unet, options.start, vocabulary, text_encoder, [*sentences, *[""] * (START_CAPTIONS // 10)])
    for weight in unet.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
    positions = PositionLoss(unet)
    learning = [*unet.parameters(), *positions.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMAModel(unet.parameters(), decay=options.ema, foreach=True)
    ema.to(device)
    text_encoder.to(device)
    parts = {"unet": unet, "places": positions, "optimizer": optimizer, "ema": ema}
    prepared, prepared_positions, optimizer = accelerator.prepare(unet, positions, optimizer)
    sheeted = 0.0

    def sheet() -> None:
        file = folder / f"{session.step:07}.png"
        if not session.main or not options.sheet_images or file.exists():
            return
        if not (options.work / "vae" / "config.json").exists():
            return
        pipeline = new_pipeline(load_averaged(options.work), text_encoder, vocabulary, load_vae(options.work))
        prompts = PROMPTS[: options.sheet_images]
        images = generate(pipeline, prompts, steps=20, scale=GUIDANCE_SCALE)
        contact_sheet(images, prompts).save(file)

    def sheet_if_due() -> None:
        nonlocal sheeted
        if session.seconds - sheeted > options.sheet_minutes * 60:
            sheet()
            sheeted = session.seconds

    session = Session(
        folder, Budget.of(options), parts, device, save_seconds=options.checkpoint_minutes * 60,
        samples=options.batch * accelerator.num_processes, extra={"size": options.size}, on_save=sheet_if_due,
        accelerator=accelerator,
    )  # fmt: skip
    sheeted = session.seconds
    network = torch.compile(prepared) if options.compile else prepared
    signal = new_scheduler().alphas_cumprod.to(device)
    dataset = Batches(options, vocabulary, icons, accelerator.process_index)
    numbers = range(session.step, sys.maxsize)
    batches = iter(DataLoader(dataset, batch_size=None, sampler=numbers, num_workers=options.workers))
    losses: list[tuple[float, float]] = []
    for step, done in session:
        batch = next(batches).to(device)
        # Always in bfloat16: these states are exact enough, and a CPU computes them three times as fast.
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            states = batch.captions.spread(batch.captions.encode(text_encoder)).float()
        noisy, target = self_denoised(network, batch, states, signal)
        prediction = network(noisy, batch.timesteps, encoder_hidden_states=states).sample
        errors = (prediction.float() - target).square().mean((1, 2, 3))
        loss = (errors * batch.weights).mean()
        position_loss = prepared_positions()
        rate = learning_rate(options.lr, step, done, warmup=options.warmup, cool_down=COOL_DOWN)
        optimise(optimizer, loss + POSITION_WEIGHT * position_loss, rate)
        ema.step(unet.parameters())
        losses.append((loss.item(), position_loss.item()))
        if session.step % options.log_steps == 0:
            means = dict(zip(("loss", "places"), np.mean(losses, 0).tolist(), strict=True))
            session.log(images=session.samples, **means, lr=rate)
            losses.clear()
    sheet()


if __name__ == "__main__":
    main()
