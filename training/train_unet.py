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
from scenes import NAME_END, Painter, Scenes, every_word, sentence_of
from session import Budget, Session, learning_rate, optimise
from sheet import GUIDANCE_SCALE, PROMPTS, contact_sheet, draw
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from train_text import caption_rows, load_text_encoder
from train_vae import load_vae
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

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


def convert_checkpoint(folder: Path) -> None:
    """Writes `checkpoint.pt` from a checkpoint of the earlier format, a folder of accelerate's; deletes that."""
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
    ema.to(device)
    text_encoder.to(device)
    parts = {"unet": unet, "places": places, "optimizer": optimizer, "ema": ema}
    prepared, prepared_places, optimizer = accelerator.prepare(unet, places, optimizer)
    sheeted = 0.0

    def sheet() -> None:
        file = folder / f"{session.step:07}.png"
        if not session.main or not options.sheet_images or file.exists():
            return
        if not (options.work / "vae" / "config.json").exists():
            return
        pipeline = new_pipeline(load_averaged(options.work), text_encoder, vocabulary, load_vae(options.work))
        prompts = PROMPTS[: options.sheet_images]
        images = draw(pipeline, prompts, steps=20, scale=GUIDANCE_SCALE)
        contact_sheet(images, prompts).save(file)

    def sheet_at_times() -> None:
        nonlocal sheeted
        if session.seconds - sheeted > options.sheet_minutes * 60:
            sheet()
            sheeted = session.seconds

    session = Session(
        folder, Budget.of(options), parts, device, save_seconds=options.checkpoint_minutes * 60,
        samples=options.batch * accelerator.num_processes, extra={"size": options.size}, on_save=sheet_at_times,
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
        noisy, target = redrawn(network, batch, states, signal)
        prediction = network(noisy, batch.timesteps, encoder_hidden_states=states).sample
        errors = (prediction.float() - target).square().mean((1, 2, 3))
        loss = (errors * batch.weights).mean()
        lost = prepared_places()
        rate = learning_rate(options.lr, step, done, warmup=options.warmup, cool_down=COOL_DOWN)
        optimise(optimizer, loss + PLACE_WEIGHT * lost, rate)
        ema.step(unet.parameters())
        losses.append((loss.item(), lost.item()))
        if session.step % options.log_steps == 0:
            means = dict(zip(("loss", "places"), np.mean(losses, 0).tolist(), strict=True))
            session.log(images=session.samples, **means, lr=rate)
            losses.clear()
    sheet()


if __name__ == "__main__":
    main()
