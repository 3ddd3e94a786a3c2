"""All that a user may set: the only home of names, defaults and help texts.

The command line, the library call and the README's table of options are made from `Settings`. Names of flags and
defaults are those of the original `txt2img.py`; modern spellings stand beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sdcli.errors import UsageError

SamplerName = Literal["ddim", "plms", "dpm_solver"]
Rng = Literal["cuda", "cpu"]
Precision = Literal["autocast", "full"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
SafetyName = Literal["auto", "clip", "opennsfw", "off"]
OnUnsafe = Literal["replace", "blur", "skip", "keep"]
WatermarkMethod = Literal["auto", "dwtDct", "dwtDctSvd", "robust"]
ImageFormat = Literal["png", "jpeg", "webp"]
PromptFormat = Literal["auto", "text", "jsonl", "csv"]
SeedMode = Literal["run", "image"]
OnError = Literal["stop", "skip"]

LAION_DEFAULTS = {
    "config": "configs/latent-diffusion/txt2img-1p4B-eval.yaml",
    "ckpt": "models/ldm/text2img-large/model.ckpt",
    "outdir": "outputs/txt2img-samples-laion400m",
}
"""What `--laion400m` sets where nothing else was said."""


@dataclass(frozen=True)
class Flag:
    """How a setting is spelt on the command line: the original's name first, and what the help says of it."""

    names: tuple[str, ...]
    panel: str
    help: str
    metavar: str | None = None


def _flag(*names: str, panel: str, help: str, metavar: str | None = None) -> Flag:
    return Flag(names, panel, help, metavar)


PROMPT, SIZE, SAMPLING, MODEL, STAGES, OUTPUT = (
    "What to draw",
    "How large, how many",
    "Sampling",
    "Model and device",
    "Safety and watermark",
    "Output",
)


class Settings(BaseModel):
    """One run's settings, checked. Frozen; `model_fields_set` tells what was said and what is a default.

    Raises `UsageError` through `Settings.of` for values that are wrong whatever the model is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    prompt: Annotated[str, _flag("--prompt", panel=PROMPT, help="The words to draw.", metavar="TEXT")] = (
        "a painting of a virus monster playing guitar"
    )
    from_file: Annotated[
        str | None,
        _flag(
            "--from-file",
            panel=PROMPT,
            metavar="FILE",
            help="Prompts from a file: text, one a line, each one image; JSON Lines; CSV. - is standard input.",
        ),
    ] = None
    prompt_format: Annotated[
        PromptFormat,
        _flag("--prompt-format", panel=PROMPT, help="Of --from-file; auto: by the ending .jsonl or .csv, else text."),
    ] = "auto"
    negative_prompt: Annotated[
        str, _flag("--negative-prompt", panel=PROMPT, help="Words to steer away from.", metavar="TEXT")
    ] = ""
    matrix: Annotated[
        bool,
        _flag("--matrix", panel=PROMPT, help="Every combination of {a|b} and __name__, not one by the seed."),
    ] = False
    wildcards: Annotated[
        str,
        _flag(
            "--wildcards", panel=PROMPT, metavar="FOLDER", help="Where NAME.txt lies, of whose lines __NAME__ is one."
        ),
    ] = "wildcards"
    compat: Annotated[
        bool,
        _flag(
            "--compat",
            panel=PROMPT,
            help="Prompts as the original reads them: blank lines and # count, { and __ are ordinary signs.",
        ),
    ] = False

    height: Annotated[
        int | None,
        _flag(
            "--H",
            "--height",
            panel=SIZE,
            metavar="PIXELS",
            help="Height. Default: 512 with --ckpt, else the model's own size.",
        ),
    ] = None
    width: Annotated[
        int | None,
        _flag(
            "--W",
            "--width",
            panel=SIZE,
            metavar="PIXELS",
            help="Width. Default: 512 with --ckpt, else the model's own size.",
        ),
    ] = None
    n_samples: Annotated[
        int,
        _flag(
            "--n_samples",
            "--batch-size",
            panel=SIZE,
            metavar="N",
            help="Images drawn together: the prompt so many times, or so many lines of a file.",
        ),
    ] = 3
    n_iter: Annotated[
        int,
        _flag(
            "--n_iter",
            "--iterations",
            panel=SIZE,
            metavar="N",
            help="How often to repeat the prompt, or the file as a whole. 1 where the original has no such thing: with "
            "JSON Lines, CSV, standard input, --images-per-prompt, --matrix.",
        ),
    ] = 2
    images_per_prompt: Annotated[
        int | None,
        _flag(
            "--images-per-prompt",
            panel=SIZE,
            metavar="K",
            help="Images of every prompt; they are drawn --n_samples at a time.",
        ),
    ] = None
    channels: Annotated[
        int, _flag("--C", "--channels", panel=SIZE, help="Channels of the latents; the model decides.", metavar="N")
    ] = 4
    downscale: Annotated[
        int,
        _flag("--f", "--downscale", panel=SIZE, metavar="N", help="Image pixels per latent pixel; the model decides."),
    ] = 8

    steps: Annotated[
        int, _flag("--ddim_steps", "--steps", panel=SAMPLING, help="Sampling steps, for every sampler.", metavar="N")
    ] = 50
    sampler: Annotated[SamplerName, _flag("--sampler", panel=SAMPLING, help="How to take the noise away.")] = "ddim"
    plms: Annotated[bool, _flag("--plms", panel=SAMPLING, help="The same as --sampler plms.")] = False
    dpm_solver: Annotated[
        bool, _flag("--dpm_solver", panel=SAMPLING, help="The same as --sampler dpm_solver; wins over --plms.")
    ] = False
    scale: Annotated[
        float | None,
        _flag(
            "--scale",
            "--guidance-scale",
            panel=SAMPLING,
            metavar="X",
            help="How closely to follow the prompt; 1 is without guidance. Default: 2 with the builtin model, 7.5 "
            "with any other.",
        ),
    ] = None
    eta: Annotated[
        float,
        _flag(
            "--ddim_eta",
            "--eta",
            panel=SAMPLING,
            metavar="X",
            help="New noise at every DDIM step, 0 (none) to 1 (all).",
        ),
    ] = 0.0
    seed: Annotated[
        int, _flag("--seed", panel=SAMPLING, help="Where the noise begins: same seed, same images.", metavar="N")
    ] = 42
    seed_mode: Annotated[
        SeedMode,
        _flag(
            "--seed-mode",
            panel=SAMPLING,
            help="run: one stream of noise for the run, as the original; image: image i has the seed SEED + i.",
        ),
    ] = "run"
    rng: Annotated[
        Rng,
        _flag(
            "--rng",
            panel=SAMPLING,
            help="Whose noise: that of a CUDA card, on any device, or that of PyTorch's CPU generator.",
        ),
    ] = "cuda"
    fixed_code: Annotated[
        bool, _flag("--fixed_code", panel=SAMPLING, help="The same starting noise for every batch.")
    ] = False

    model: Annotated[
        str | None,
        _flag(
            "--model",
            panel=MODEL,
            metavar="MODEL",
            help="A diffusers folder or a hub id. Default: the builtin model.",
        ),
    ] = None
    revision: Annotated[
        str | None, _flag("--revision", panel=MODEL, help="Branch, tag or commit of a hub id.", metavar="NAME")
    ] = None
    ckpt: Annotated[
        str,
        _flag(
            "--ckpt",
            panel=MODEL,
            metavar="FILE",
            help="An original checkpoint, .ckpt or .safetensors; used by default where this file exists.",
        ),
    ] = "models/ldm/stable-diffusion-v1/model.ckpt"
    config: Annotated[
        str,
        _flag(
            "--config",
            panel=MODEL,
            metavar="YAML",
            help="The checkpoint's configuration; looked for here, then among those shipped.",
        ),
    ] = "configs/stable-diffusion/v1-inference.yaml"
    laion400m: Annotated[
        bool, _flag("--laion400m", panel=MODEL, help="Draw with the LAION-400M model: its config, ckpt and outdir.")
    ] = False
    offline: Annotated[
        bool, _flag("--offline", panel=MODEL, help="Open no connection (HF_HUB_OFFLINE=1 does the same).")
    ] = False
    device: Annotated[DeviceName, _flag("--device", panel=MODEL, help="Where to compute.")] = "auto"
    precision: Annotated[
        Precision,
        _flag("--precision", panel=MODEL, help="autocast: 16 bits where the device does them well; full: 32."),
    ] = "autocast"

    safety_checker: Annotated[
        SafetyName,
        _flag("--safety-checker", panel=STAGES, help="Who looks for unsafe images; auto: the first at hand."),
    ] = "auto"
    safety_model: Annotated[
        str,
        _flag(
            "--safety-model",
            panel=STAGES,
            metavar="MODEL",
            help="Where --safety-checker clip comes from, if not from the model's folder.",
        ),
    ] = "CompVis/stable-diffusion-safety-checker"
    nsfw_threshold: Annotated[
        float,
        _flag(
            "--nsfw-threshold",
            panel=STAGES,
            metavar="X",
            help="Score from which --safety-checker opennsfw calls an image unsafe, 0 to 1.",
        ),
    ] = 0.5
    on_unsafe: Annotated[
        OnUnsafe,
        _flag(
            "--on-unsafe",
            panel=STAGES,
            help="What is saved in place of an unsafe image: a black one, a blurred one, none, or itself.",
        ),
    ] = "replace"
    watermark: Annotated[
        str, _flag("--watermark", panel=STAGES, help="The text hidden in every image.", metavar="TEXT")
    ] = "StableDiffusionV1"
    watermark_method: Annotated[
        WatermarkMethod,
        _flag(
            "--watermark-method",
            panel=STAGES,
            help="auto: dwtDct, as the original; robust for the builtin model and for small images.",
        ),
    ] = "auto"
    no_watermark: Annotated[bool, _flag("--no-watermark", panel=STAGES, help="Hide no text.")] = False

    outdir: Annotated[str, _flag("--outdir", panel=OUTPUT, help="The folder to write to.", metavar="FOLDER")] = (
        "outputs/txt2img-samples"
    )
    output: Annotated[
        str | None,
        _flag(
            "--output",
            "-o",
            panel=OUTPUT,
            metavar="FILE",
            help="Draw one image, into this file and nowhere else. - is standard output.",
        ),
    ] = None
    output_name: Annotated[
        str | None,
        _flag(
            "--output-name",
            panel=OUTPUT,
            metavar="NAME",
            help='Names in OUTDIR/samples, such as "{index:05}-{seed}-{prompt:slug}.png". Default: 00000.png and on.',
        ),
    ] = None
    resume: Annotated[
        str | None,
        _flag(
            "--resume",
            panel=OUTPUT,
            metavar="[OUTDIR]",
            help="Draw what is missing of the run in OUTDIR; without OUTDIR, of this same command's run.",
        ),
    ] = None
    on_error: Annotated[
        OnError,
        _flag(
            "--on-error",
            panel=OUTPUT,
            help="At a wrong row of --from-file, or an image that cannot be drawn: stop, or go on without it.",
        ),
    ] = "stop"
    format: Annotated[
        ImageFormat,
        _flag(
            "--format",
            panel=OUTPUT,
            help="Of the files; jpeg loses a little (quality 95, 4:4:4), webp nothing.",
        ),
    ] = "png"
    skip_save: Annotated[bool, _flag("--skip_save", panel=OUTPUT, help="Do not save the single images.")] = False
    skip_grid: Annotated[bool, _flag("--skip_grid", panel=OUTPUT, help="Do not save the grid.")] = False
    n_rows: Annotated[
        int, _flag("--n_rows", panel=OUTPUT, help="Images in a row of the grid; 0: n_samples.", metavar="N")
    ] = 0
    gallery: Annotated[
        bool, _flag("--gallery", panel=OUTPUT, help="Show the run on a web page too, OUTDIR/gallery-0000.html.")
    ] = False

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings from values by name; what is not given keeps its default.

        Raises:
            UsageError: a value, or a combination, that cannot be meant.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            flag = flag_of(name).names[0] if name in cls.model_fields else name
            raise UsageError(f"{flag} {first.get('input')!r} is not valid", why=first["msg"]) from None

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`--laion400m` and the two sampler switches stand for other settings."""
        values = dict(values)
        for other in ("ckpt", "config"):
            if values.get("model") is not None and other in values:
                raise UsageError(
                    f"--model and --{other} contradict each other",
                    fix="Give --model for a diffusers folder or hub id, or --ckpt with --config for a checkpoint.",
                )
        if values.get("laion400m"):
            if values.get("model") is not None:
                raise UsageError("--model and --laion400m contradict each other", fix="Give one of the two.")
            values = {**LAION_DEFAULTS, **values}
        asked = "dpm_solver" if values.get("dpm_solver") else "plms" if values.get("plms") else None
        if asked and values.get("sampler", asked) != asked:
            raise UsageError(f"--{asked} contradicts --sampler {values['sampler']}", fix="Give one of the two.")
        if asked:
            values["sampler"] = asked
        # What the original has not is repeated only if somebody says so.
        fresh = values.get("images_per_prompt") is not None or values.get("matrix") or values.get("from_file") == "-"
        if fresh or prompt_format(values.get("from_file"), values.get("prompt_format", "auto")) in ("jsonl", "csv"):
            values.setdefault("n_iter", 1)
        if values.get("output") is not None:
            values = {"n_samples": 1, "n_iter": 1, "skip_grid": True, **values}
            by_name = image_format(values["output"])
            if by_name and values.setdefault("format", by_name) != by_name:
                raise UsageError(
                    f"--output {values['output']} contradicts --format {values['format']}", fix="Give one of the two."
                )
        return values

    @model_validator(mode="after")
    def _check(self) -> Settings:
        counts = ("n_samples", "n_iter", "images_per_prompt", "steps", "channels", "downscale", "height", "width")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{flag_of(name).names[0]} {value} is not possible", fix="Give 1 or more.")
        for name, value in self:
            if isinstance(value, str) and not _is_text(value):
                raise UsageError(f"{flag_of(name).names[0]} {value!r} is no text", fix="Give it in UTF-8.")
        for name in ("scale", "eta", "nsfw_threshold"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{flag_of(name).names[0]} {value} is not a number", fix="Give a finite number.")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"--ddim_eta {self.eta:g} is out of range", fix="Give a number from 0 to 1.")
        if self.sampler == "plms" and self.eta != 0:
            raise UsageError(
                f"--ddim_eta {self.eta:g} does not go with PLMS",
                why="PLMS adds no noise of its own.",
                fix="Leave --ddim_eta out, or draw with --sampler ddim.",
            )
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed} is out of range", fix="Give a number from 0 to 2^64 - 1.")
        if self.revision is not None and self.model is None:
            raise UsageError("--revision goes with a hub id", fix="Name the hub id with --model.")
        self._check_contradictions()
        return self

    def _check_contradictions(self) -> None:
        """That no two settings want different things."""
        contradictions = [
            ("--fixed_code", "--seed-mode image", self.fixed_code and self.seed_mode == "image"),
            ("--matrix", "--compat", self.matrix and self.compat),
            ("--resume", "--skip_save", self.resume is not None and self.skip_save),
            ("--resume", "--output", self.resume is not None and self.output is not None),
            ("--output", "--output-name", self.output is not None and self.output_name is not None),
            ("--output", "--gallery", self.output is not None and self.gallery),
            ("--output", "--skip_save", self.output is not None and self.skip_save),
        ]
        for one, other, both in contradictions:
            if both:
                raise UsageError(f"{one} and {other} contradict each other", fix="Give one of the two.")
        one_image = self.n_samples == self.n_iter == 1 and self.images_per_prompt in (None, 1) and self.skip_grid
        if self.output is not None and not (one_image and self.from_file is None and not self.matrix):
            raise UsageError(
                f"--output {self.output} takes one image, and this run draws more",
                fix="Leave out --output and name a folder with --outdir, or draw with --n_samples 1 --n_iter 1.",
            )

    @property
    def checkpoint(self) -> str | None:
        """The original checkpoint to draw from: one that was asked for, or the original's default if it is there."""
        if self.model is not None:
            return None
        asked = not self.model_fields_set.isdisjoint({"ckpt", "config", "laion400m"})
        return self.ckpt if asked or Path(self.ckpt).exists() else None


def _is_text(value: str) -> bool:
    """Whether these are whole characters: a byte of another encoding, or half of a character, is none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_format(name: str) -> ImageFormat | None:
    """The format that a file's name asks for; None if its ending is none of theirs."""
    endings: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
    return endings.get(Path(name).suffix.lower())


def prompt_format(file: str | None, said: PromptFormat) -> PromptFormat:
    """What `--from-file` holds: what is said, or by the name's ending."""
    if said != "auto" or file is None:
        return said
    endings: dict[str, PromptFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
    return endings.get(Path(file).suffix.lower(), "text")


def flag_of(name: str) -> Flag:
    """The flag of a setting, by the setting's name."""
    for item in Settings.model_fields[name].metadata:
        if isinstance(item, Flag):
            return item
    raise KeyError(name)


def flags() -> Iterator[tuple[str, Flag, Any, tuple[str, ...]]]:
    """Every setting in order: its name, flag, default, and its choices where it has a fixed set of them."""
    for name, field in Settings.model_fields.items():
        choices = get_args(field.annotation) if getattr(field.annotation, "__origin__", None) is Literal else ()
        yield name, flag_of(name), field.default, choices


def spellings() -> dict[str, str]:
    """Every way to name a setting, its name and its flags without dashes, underscores within, to its name."""
    return {
        spelling.lstrip("-").replace("-", "_"): name for name, flag, _, _ in flags() for spelling in (name, *flag.names)
    }
