"""Distils an exported model into one that needs four steps and no guidance: `sdcli/models/builtin-fast`.

    python training/distil.py --start sdcli/models/builtin --minutes 240

Phased consistency distillation, see README.md. Needs `icons.jsonl` of `prepare.py`, for the captions; no latents. After
an interruption, the same command continues from the last checkpoint. Writes `distil/paths/*.safetensors`,
`distil/checkpoint.pt` and `distil/log.jsonl`. `compare_steps.py` evaluates the student, `export.py --fast` exports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import training_parser
from dataset import load_checkpoint, read_icons, write_atomically
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.training_utils import EMAModel
from icons import Icon
from model import NEUTRAL_WORD, load_exported, new_scheduler, states_of
from safetensors.torch import load_file, save_file
from scenes import NAME_END, Random, Scene, Scenes, caption_of
from session import Budget, Session, learning_rate, optimise
from sheet import GUIDANCE_SCALE
from torch import Tensor
from train_text import FILLER_SHARE
from train_unet import PAIR_SHARE, PLAIN_SHARES
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

PHASES = 4
SOLVER_STEPS = 4
"""Steps of the teacher in each phase."""

OWN_SHARE = 0.5
"""Fraction of the phases that start where the student, not the teacher, arrives."""

INNER_SHARE = 0.3
"""Fraction of the samples that start inside of a phase: for sampling with more than four steps."""

EMPTY_SHARE = 0.02
COOL_DOWN = 0.5
PATHS_PER_FILE = 32
STEPS_PER_FILE = 12
"""Optimisation steps per file of new paths. Both take about the same time."""

FIRST_FILES = 2
MOST_FILES = 100
"""The newest files that are used: in older ones the student that chose the starts was another."""


@dataclass(frozen=True)
class Paths:
    """Solutions of the teacher's guided ODE, by phases.

    Attributes:
        texts: text states, `(n, 77, TEXT_WIDTH)`, float16.
        states: the latents at the start of each step and at the end of the phase,
            `(n, PHASES, SOLVER_STEPS + 1, 4, edge, edge)`, float16.
    """

    texts: Tensor
    states: Tensor

    def save(self, path: Path) -> None:
        write_atomically(path, lambda part: save_file({"texts": self.texts, "states": self.states}, part))

    @classmethod
    def load(cls, path: Path) -> Paths:
        return cls(**load_file(path))


class Ways:
    """The timesteps of the phases and of the teacher's steps, and the geometry of a jump to the end of a phase."""

    def __init__(self) -> None:
        scheduler = new_scheduler()
        solver = self.new_solver()
        self.timesteps: Tensor = solver.timesteps.view(PHASES, SOLVER_STEPS)
        signal = torch.cat((scheduler.alphas_cumprod, torch.ones(1)))
        self.ends = torch.cat((self.timesteps[1:, 0], torch.tensor([len(signal) - 1])))
        self.signal, self.noise = signal.sqrt(), (1 - signal).sqrt()

    @staticmethod
    def new_solver() -> DPMSolverMultistepScheduler:
        """DPM-Solver++(2M) (Lu et al. 2022), of second order; the first step of a phase is of first order."""
        solver: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler.from_config(new_scheduler().config)
        solver.set_timesteps(PHASES * SOLVER_STEPS)
        return solver

    def parts(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of image and noise at these timesteps, `(n, 1, 1, 1)` each."""
        return self.signal[timesteps][:, None, None, None], self.noise[timesteps][:, None, None, None]

    def jump(self, latents: Tensor, velocity: Tensor, timesteps: Tensor, ends: Tensor) -> Tensor:
        """One DDIM step (eta 0) from `timesteps` to `ends`, for a v prediction."""
        (image, noise), (end_image, end_noise) = self.parts(timesteps), self.parts(ends)
        return end_image * (image * latents - noise * velocity) + end_noise * (noise * latents + image * velocity)

    def target(self, latents: Tensor, reached: Tensor, timesteps: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """The v prediction with which `jump` reaches `reached`, and the weight of its squared error, `(n,)`.

        The jump is linear in v, so its error is that of v times a factor. In terms of where it arrives, the loss would
        hardly weigh the first phases, which choose the content; in terms of the image that v means, hardly the last.
        The weight is the geometric mean of both.
        """
        (image, noise), (end_image, end_noise) = self.parts(timesteps), self.parts(ends)
        factor = end_noise * image - end_image * noise
        velocity = (reached - (end_image * image + end_noise * noise) * latents) / factor
        return velocity, (factor.abs() * noise).flatten()


def captions_of(random: Random, scenes: Scenes, icons: Sequence[Icon], count: int) -> list[str]:
    """Samples captions as the UNet's training does."""
    captions = []
    for _ in range(count):
        scene = scenes.sample(random)
        if len(scene.icons) == 1 and not scene.background:
            scene = Scene(scene.icons, 0, scene.place, tinted=random.random() >= PLAIN_SHARES[1])
        caption = caption_of(random, scene, icons).replace(NAME_END, "")
        if random.random() < FILLER_SHARE:
            fillers = [NEUTRAL_WORD] * int(random.integers(1, 5))
            before = int(random.integers(len(fillers) + 1))
            caption = " ".join([*fillers[:before], caption, *fillers[before:]])
        captions.append("" if random.random() < EMPTY_SHARE else caption)
    return captions


class Teacher:
    """The exported model, with guidance."""

    def __init__(self, folder: Path, icons: Sequence[Icon], scale: float, device: torch.device) -> None:
        self.unet: UNet2DConditionModel
        self._text_encoder: CLIPTextModel
        self._tokenizer: CLIPTokenizer
        self.unet, self._text_encoder, self._tokenizer = load_exported(folder)
        self.unet.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-arg]
        self._text_encoder.to(device)  # type: ignore[arg-type]
        self._icons, self._scenes, self._scale = icons, Scenes(icons, PAIR_SHARE), scale
        self._empty = states_of([""], self._tokenizer, self._text_encoder)
        self._edge = int(self.unet.config["sample_size"])

    @torch.inference_mode()
    def paths(self, seeds: Sequence[int], student: UNet2DConditionModel, ways: Ways, own_share: float) -> Paths:
        """New paths for random captions and noise.

        Args:
            seeds: the captions and the noise depend on these only.
            own_share: fraction of the phases that start where `student` arrives.
        """
        random = np.random.default_rng(seeds)
        device = self.unet.device
        captions = captions_of(random, self._scenes, self._icons, PATHS_PER_FILE)
        texts = states_of(captions, self._tokenizer, self._text_encoder)
        both = torch.cat((self._empty.expand_as(texts), texts))
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        latents = torch.randn(len(texts), 4, self._edge, self._edge, generator=generator).to(device)
        phases = []
        for phase, timesteps in enumerate(ways.timesteps):
            solver = ways.new_solver()  # without the history: the start may be the student's
            states = [latents]
            for timestep in timesteps:
                doubled = torch.cat((latents, latents))
                plain, conditional = self.unet(doubled, timestep, encoder_hidden_states=both).sample.chunk(2)
                guided = plain + self._scale * (conditional - plain)
                latents = solver.step(guided, timestep, latents).prev_sample  # type: ignore[union-attr]
                states.append(latents)
            phases.append(torch.stack(states, 1))
            own = torch.from_numpy(random.random(len(texts)) < own_share).to(device)
            if phase < PHASES - 1 and own.any():
                start = states[0][own]
                first, end = (at.expand(len(start)) for at in (timesteps[0], ways.ends[phase]))
                velocity = student(start, first, encoder_hidden_states=texts[own]).sample
                latents = latents.clone()
                latents[own] = ways.jump(start, velocity, first, end)
        return Paths(texts.half().cpu(), torch.stack(phases, 1).half().cpu())


class Samples:
    """Samples of the student's training, from the newest files of paths."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        files = sorted(folder.glob("*.safetensors"))
        self.count = int(files[-1].stem) + 1 if files else 0
        """Number of files ever written."""
        self._paths = [Paths.load(file) for file in files[-MOST_FILES:]]

    def add(self, paths: Paths) -> None:
        paths.save(self._folder / f"{self.count:05}.safetensors")
        self.count += 1
        self._paths = [*self._paths, paths][-MOST_FILES:]
        (self._folder / f"{self.count - 1 - MOST_FILES:05}.safetensors").unlink(missing_ok=True)

    def batch(self, random: Random, size: int, ways: Ways) -> tuple[Tensor, ...]:
        """Latents, latents at the end of the phase, timesteps, timesteps of the end, phases, text states."""
        chosen = [self._paths[index] for index in random.integers(len(self._paths), size=size)]
        rows = random.integers(PATHS_PER_FILE, size=size)
        # Stratified: the same number of samples of each phase.
        phases = torch.from_numpy((np.arange(size) + int(random.integers(PHASES))) % PHASES)
        inner = random.random(size) < INNER_SHARE
        steps = torch.from_numpy(np.where(inner, random.integers(1, SOLVER_STEPS, size=size), 0))
        places = list(zip(chosen, rows, phases, steps, strict=True))
        latents = torch.stack([paths.states[row, phase, step] for paths, row, phase, step in places]).float()
        reached = torch.stack([paths.states[row, phase, -1] for paths, row, phase, _ in places]).float()
        texts = torch.stack([paths.texts[row] for paths, row, _, _ in places]).float()
        return latents, reached, ways.timesteps[phases, steps], ways.ends[phases], phases, texts


@torch.inference_mode()
def arrive(student: UNet2DConditionModel, ways: Ways, texts: Tensor, latents: Tensor) -> Tensor:
    """The student's images, as latents, in one step per phase from this noise."""
    for phase in range(PHASES):
        timesteps, ends = (at[phase].expand(len(latents)) for at in (ways.timesteps[:, 0], ways.ends))
        velocity = student(latents, timesteps, encoder_hidden_states=texts).sample
        latents = ways.jump(latents, velocity, timesteps, ends)
    return latents


def load_student(work: Path, start: Path) -> UNet2DConditionModel:
    """The student with the averaged weights of the last checkpoint, float32 on the CPU.

    Args:
        start: the exported model that it started from.
    """
    student, _, _ = load_exported(start)
    averaged = load_checkpoint(work / "distil")["ema"]["shadow_params"]
    for weight, value in zip(student.parameters(), averaged, strict=True):
        weight.data.copy_(value)
    return student


def main(arguments: Sequence[str] | None = None) -> None:
    parser = training_parser(__doc__, batch=32, lr=2e-4)
    parser.add_argument("--start", type=Path, required=True, help="exported model: teacher, and start of the student")
    parser.add_argument("--scale", type=float, default=GUIDANCE_SCALE, help="guidance scale of the teacher")
    parser.add_argument("--ema", type=float, default=0.995, help="decay of the averaged weights")
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    folder = options.work / "distil"
    ways = Ways()
    teacher = Teacher(options.start, read_icons(options.work), options.scale, device)
    student, _, _ = load_exported(options.start)
    student.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-arg]
    samples = Samples(folder / "paths")
    judged = folder / "judged.safetensors"
    if not judged.exists():
        teacher.paths([options.seed, 2**40], student, ways, 0.0).save(judged)
    held = Paths.load(judged)
    student.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMAModel(student.parameters(), decay=options.ema, foreach=True)
    losses: list[list[float]] = []

    def measure() -> None:
        ema.store(student.parameters())
        ema.copy_to(student.parameters())
        reached = arrive(student, ways, held.texts.float().to(device), held.states[:, 0, 0].float().to(device))
        ema.restore(student.parameters())
        error = (reached.cpu() - held.states[:, -1, -1].float()).square().mean().sqrt()
        # There are none if training goes on from a checkpoint that is complete.
        each = np.nanmean(losses, 0).round(6).tolist() if losses else []
        means = {f"phase {phase + 1}": value for phase, value in enumerate(each)}
        session.log(paths=samples.count * PATHS_PER_FILE, images=session.samples, error=float(error), **means)
        losses.clear()

    parts: dict[str, Any] = {"student": student, "optimizer": optimizer, "ema": ema}
    session = Session(
        folder, Budget.of(options), parts, device, save_seconds=240, samples=options.batch, on_save=measure
    )
    for step, done in session:
        while samples.count < FIRST_FILES + step // STEPS_PER_FILE:
            samples.add(teacher.paths([options.seed, samples.count], student, ways, OWN_SHARE))
        random = np.random.default_rng([options.seed, 1, step])
        latents, reached, timesteps, ends, phases, texts = samples.batch(random, options.batch, ways)
        target, weights = ways.target(latents, reached, timesteps, ends)
        prediction = student(
            latents.to(device), timesteps.to(device), encoder_hidden_states=texts.to(device)
        ).sample.float()
        errors = (prediction - target.to(device)).square().mean((1, 2, 3)) * weights.to(device)
        optimise(optimizer, errors.mean(), learning_rate(options.lr, step, done, cool_down=COOL_DOWN))
        ema.step(student.parameters())
        by_phase = errors.detach().cpu()
        losses.append([float(by_phase[phases == phase].mean()) for phase in range(PHASES)])


if __name__ == "__main__":
    main()
