"""The table of settings: one line for each, with its name, type, default, help and facets.

Everything that lists settings is derived from this table: flags, configuration files, environment variables, rows of
prompt files, the fields of a `Job`, its identity, records, the `parameters` text, commands, `rerun --set`, `inspect`,
the gallery, names of output files, completion and the documentation. Flags and defaults are those of the original
`txt2img.py`; modern spellings are aliases.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from sdcli.errors import UsageError
from sdcli.registry import EXECUTORS, FORMATS, SAFETY_CHECKERS, SAMPLERS, SYNTAXES, WATERMARK_METHODS
from sdcli.sampler_names import SCHEDULES, is_lacking, nearest_sampler, nearest_schedule, own_schedule, split
from sdcli.suggestions import did_you_mean, near, spelling
from sdcli.terminal import shortened

Rng = Literal["cuda", "cpu"]
Precision = Literal["autocast", "full"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
OnUnsafe = Literal["replace", "blur", "skip", "keep"]
SeedMode = Literal["run", "image"]
OnError = Literal["stop", "skip"]
LongPrompt = Literal["cut", "chunk"]
Scope = Literal["image", "file", "run", "output"]
"""What a setting belongs to.

image: what is generated. A field of `ImageSettings` and so of `Job`; part of the job's key and of the `parameters`
text.
file: what is done with the generated image before it is saved. Part of the key, not of the job.
run: which images are generated, with which model, and where.
output: where files go and what they are called.
"""
PathKind = Literal["file", "folder", "model", "checkpoint", "config", "safety model", "output folder", "adapter"]

Texts = Annotated[tuple[str, ...], Strict(False)]
"""The value of a setting with the facet `repeats`. JSON, which jobs are read from, has lists."""

PROMPT, SIZE, SAMPLING, MODEL, STAGES, OUTPUT = (
    "Prompt",
    "Size and number",
    "Sampling",
    "Model and device",
    "Safety and watermark",
    "Output",
)
"""Panels of the help page, in order."""

ORIGINAL_STEPS = 50
"""Sampling steps of the original script."""
ORIGINAL_SAMPLER = "ddim"
"""The sampler of the original script."""
AUTO = "auto"
"""The value of `--sampler` for the model's own sampler."""
LARGEST_SIDE = 16_384
"""Pixels. No model generates larger images, and checking them would take memory."""
MOST_IMAGES = 10**9
"""Of a run. More would take centuries."""
RANDOM = "random"
"""The value of `--seed` that chooses a seed; -1 does the same, as in other tools."""
MOST_SEEDS = 10_000
"""Of one value of `--seed`: the journal keeps them all."""

LAION_DEFAULTS = {
    "config": "configs/latent-diffusion/txt2img-1p4B-eval.yaml",
    "ckpt": "models/ldm/text2img-large/model.ckpt",
    "outdir": "outputs/txt2img-samples-laion400m",
}


@dataclass(frozen=True)
class PromptFormat:
    """A format of prompt files.

    Attributes:
        reader: import path of a function from a `PromptFile` to its rows.
        suffixes: the suffixes of files that have this format.
    """

    reader: str
    suffixes: tuple[str, ...] = ()


PROMPT_FORMATS = {
    "auto": PromptFormat("sdcli.prompts.formats:by_content"),
    "text": PromptFormat("sdcli.prompts.formats:text"),
    "jsonl": PromptFormat("sdcli.prompts.formats:json_lines", (".jsonl", ".ndjson")),
    "json": PromptFormat("sdcli.prompts.formats:json_array", (".json",)),
    "csv": PromptFormat("sdcli.prompts.formats:comma_separated", (".csv",)),
    "tsv": PromptFormat("sdcli.prompts.formats:tab_separated", (".tsv",)),
    "a1111": PromptFormat("sdcli.prompts.flags:a1111"),
    "kohya": PromptFormat("sdcli.prompts.flags:kohya"),
    "invoke": PromptFormat("sdcli.prompts.flags:invoke"),
}
"""The formats that `--prompt-format` takes. A new one is a function and a line here."""


@dataclass(frozen=True)
class Option:
    """The facets of a setting.

    Attributes:
        names: its flags; the original's name comes first. Empty for a setting with `list_of`.
        scope: what it belongs to, see `Scope`.
        panel: the panel of the help page that lists it.
        help: one sentence for help pages and documentation.
        aliases: further flags, those of other tools, which help pages leave out.
        list_of: the setting that this one holds several values of. A list of values of that setting sets this one.
        repeats: whether its flag may be repeated. One image has all of these values.
        metavar: the placeholder of its value on help pages.
        choices: the values it takes; empty if they are not a fixed set.
        path: the kind of path it holds; None if it holds none. Relative paths of what is read start from the folder of
            the configuration file that names them. A shell completes paths by their kind.
        tail: a regular expression of what may follow the path in a value.
        may_be_empty: whether the path may be empty.
        row: whether a row of a prompt file may set it. By default, if its scope is "image".
        varies: whether the images of one batch may differ in it.
        recorded: whether a record keeps its value beside the job. By default, if its scope is "file".
        rerun: whether `sdcli rerun --set` may change it. By default, if its scope is "image" or "file".
        journal: whether the header of a journal keeps its value, so that `--resume OUTDIR` restores it.
        of_grid: whether the record of a grid keeps its value.
        always_shown: whether a command names it even at its default.
        essential: whether an image of another tool cannot be generated again without it.
        contradicts: settings that it cannot be combined with. A stronger source of settings drops them.
        displaces: settings of weaker sources that it makes meaningless.
        stands_for: the settings that a switch sets.
        left_out: a value besides the default that keys of jobs leave out: the default of older versions.
        least: the smallest value.
        most: the largest value.
        parameter: its name in the `parameters` text; by default its own name, capitalised.
    """

    names: tuple[str, ...]
    scope: Scope
    panel: str
    help: str
    aliases: tuple[str, ...] = ()
    list_of: str | None = None
    repeats: bool = False
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    path: PathKind | None = None
    tail: str = ""
    may_be_empty: bool = False
    row: bool = False
    varies: bool = False
    recorded: bool = False
    rerun: bool = False
    journal: bool = True
    of_grid: bool = True
    always_shown: bool = False
    essential: bool = False
    contradicts: tuple[str, ...] = ()
    displaces: tuple[str, ...] = ()
    stands_for: Mapping[str, Any] = field(default_factory=dict)
    left_out: Any = None
    least: float | None = None
    most: float | None = None
    parameter: str | None = None


def option(
    default: Any, *names: str, scope: Scope, panel: str, help: str, choices: Sequence[str] = (), **facets: Any
) -> Any:
    """One line of the table: a pydantic field with its default and its `Option`."""
    line = Field(default=default)
    facets = {
        "row": scope == "image",
        "recorded": scope == "file",
        "rerun": scope in ("image", "file"),
        **facets,
    }
    line.metadata.append(Option(names, scope, panel, help, choices=tuple(choices), **facets))
    return line


class ImageSettings(BaseModel):
    """The settings that decide what one image looks like."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    prompt: str = option(
        "a painting of a virus monster playing guitar", "--prompt", "-p", aliases=("--text",),
        scope="image", essential=True, panel=PROMPT, metavar="TEXT", varies=True, displaces=("from_file", "prompts"),
        help="Text that describes the image. Repeatable: --n_samples x --n_iter images of each.",
    )  # fmt: skip
    negative_prompt: str = option(
        "", "--negative-prompt", aliases=("--negative", "--neg-prompt"), scope="image", panel=PROMPT, metavar="TEXT",
        varies=True,
        help="Text that describes what to avoid.",
    )  # fmt: skip
    prompt_syntax: str = option(
        "plain", "--prompt-syntax", scope="image", panel=PROMPT, choices=tuple(SYNTAXES),
        help="How weights are written into prompts: plain: not at all, as in the original; a1111: (word:1.3), [a:b:8], "
        "AND, BREAK; novelai: {{word}}; compel: word++.",
    )  # fmt: skip
    long_prompt: LongPrompt = option(
        "cut", "--long-prompt", scope="image", panel=PROMPT,
        help="What to do with more tokens than the model reads: cut them, as the original; or encode them in chunks.",
    )  # fmt: skip
    clip_skip: int = option(
        1, "--clip-skip", aliases=("--clip-stop-at-last-layers",), scope="image", panel=PROMPT, metavar="N", least=1,
        most=100,
        help="Layer of the text encoder that gives the embeddings, counted from the end; 1: the last one, or with "
        "Stable Diffusion XL the one before it.",
    )  # fmt: skip
    steps: int | None = option(
        None, "--ddim_steps", "--steps",
        aliases=("--num-inference-steps", "--inference-steps", "--sampling-steps", "--sample-steps", "--num-steps"),
        scope="image", essential=True, panel=SAMPLING, metavar="N", least=1, most=1_000_000, left_out=ORIGINAL_STEPS,
        help="Number of sampling steps, for every sampler. Default: 20 with the builtin model, 4 with "
        "builtin-fast, 50 with any other.",
    )  # fmt: skip
    sampler: str = option(
        AUTO, "--sampler", aliases=("--sampler-name", "--sampling-method", "--sample-method"),
        scope="image", essential=True, panel=SAMPLING, choices=(AUTO, *SAMPLERS),
        displaces=("plms", "dpm_solver"), left_out=ORIGINAL_SAMPLER,
        help="Sampler; auto: the original's ddim for Stable Diffusion 1 and 2, the model's own for others.",
    )  # fmt: skip
    scale: float | None = option(
        None, "--scale", "--guidance-scale", aliases=("--cfg", "--cfg-scale", "--guidance"),
        scope="image", essential=True, panel=SAMPLING, metavar="X",
        parameter="CFG scale",
        help="Guidance scale: how closely to follow the prompt; 1 turns guidance off. Default: 2 with the builtin "
        "model, 1 with builtin-fast, 5 with Stable Diffusion XL, 7.5 with any other.",
    )  # fmt: skip
    schedule: str = option(
        "auto", "--schedule", aliases=("--scheduler", "--schedule-type"), scope="image", panel=SAMPLING,
        choices=tuple(SCHEDULES), parameter="Schedule type", contradicts=("sigmas",),
        help="Where the steps of the sampler are; auto: as the model's files say.",
    )  # fmt: skip
    sigmas: str = option(
        "", "--sigmas", scope="image", panel=SAMPLING, metavar="X,X,...", contradicts=("schedule",),
        displaces=("steps",),
        help="Noise levels of the steps, falling, such as 14.6,6.5,3.9,1.9,0.4; instead of --schedule and --steps.",
    )  # fmt: skip
    eta: float = option(
        0.0, "--ddim_eta", "--eta", scope="image", panel=SAMPLING, metavar="X", least=0, most=1,
        help="Share of new noise in each step of DDIM and TCD, 0 to 1.",
    )  # fmt: skip
    guidance_rescale: float = option(
        0.0, "--guidance-rescale", aliases=("--cfg-rescale",), scope="image", panel=SAMPLING, metavar="X", least=0,
        most=1,
        help="How far guidance is rescaled to the contrast of the prediction without it, 0 to 1; for models with a "
        "zero terminal SNR 0.7.",
    )  # fmt: skip
    seed: int = option(
        42, "--seed", aliases=("--seeds",), scope="image", essential=True, panel=SAMPLING, metavar="N", varies=True,
        least=0, most=2**64 - 1, always_shown=True, displaces=("seeds",),
        help="Seed of the random numbers: the same seed gives the same images. random or -1: a new one, which is "
        "printed; 1,2,3 or 1-3: one image of each prompt with each seed.",
    )  # fmt: skip
    rng: Rng = option(
        "cuda", "--rng", scope="image", panel=SAMPLING, parameter="RNG",
        help="Random number generator to reproduce: cuda (on any device) or cpu.",
    )  # fmt: skip
    height: int | None = option(
        None, "--H", "--height", aliases=("-H",), scope="image", essential=True, panel=SIZE, metavar="PIXELS", least=1,
        most=LARGEST_SIDE,
        help="Height. Default: the model's own size; 512 for a checkpoint of Stable Diffusion 1.",
    )  # fmt: skip
    width: int | None = option(
        None, "--W", "--width", aliases=("-W",), scope="image", essential=True, panel=SIZE, metavar="PIXELS", least=1,
        most=LARGEST_SIDE,
        help="Width. Default: the model's own size; 512 for a checkpoint of Stable Diffusion 1.",
    )  # fmt: skip
    original_size: str = option(
        "", "--original-size", scope="image", panel=SIZE, metavar="WxH",
        help="Width and height that Stable Diffusion XL is told the image had before it was scaled, such as 1024x1024. "
        "Default: the image's own size.",
    )  # fmt: skip
    crop: str = option(
        "", "--crop", aliases=("--crops-coords-top-left",), scope="image", panel=SIZE, metavar="TOP,LEFT",
        help="Pixels that Stable Diffusion XL is told were cut off at the top and at the left. Default: 0,0.",
    )  # fmt: skip
    lora: Texts = option(
        (), "--lora", aliases=("--loras", "--lora-path", "--lora-paths", "--lora-weights"), scope="image", panel=MODEL,
        metavar="FILE", path="adapter", repeats=True, tail=r"(?::[-+]?(?:\d+\.?\d*|\.\d+)){0,2}",
        help="LoRA that changes the model: a file, a name in --adapters, or OWNER/NAME/FILE@REVISION on the "
        "Hugging Face hub; FILE:0.8 has another weight than 1, FILE:0.8:0.5 another one for the text encoder. "
        "Repeatable.",
    )  # fmt: skip
    embedding: Texts = option(
        (), "--embedding", aliases=("--embeddings", "--textual-inversion", "--embeddings-dir", "--embd-dir"),
        scope="image", panel=MODEL, metavar="FILE", path="adapter", repeats=True, tail=r"(?:=[^=/\\]+)?",
        help="Textual inversion that adds a word for prompts: a file, or OWNER/NAME/FILE@REVISION on the Hugging "
        "Face hub; all files of a folder. The word is the file's name, or that of FILE=WORD. Repeatable.",
    )  # fmt: skip
    vae: str = option(
        "", "--vae", aliases=("--vae-path", "--vae-name", "--taesd", "--tae"), scope="image", panel=MODEL,
        metavar="FILE", path="adapter", may_be_empty=True, parameter="VAE",
        help="VAE that decodes the images instead of the model's: a file, a diffusers folder, or OWNER/NAME on the "
        "Hugging Face hub; an AutoencoderKL or TAESD.",
    )  # fmt: skip
    precision: Precision = option(
        "autocast", "--precision", scope="image", panel=MODEL,
        help="autocast: 16 bits on a GPU, 32 bits on a CPU; full: 32 bits.",
    )  # fmt: skip


class Settings(ImageSettings):
    """All settings of a run, checked. Frozen; `model_fields_set` names those that were given."""

    prompts: tuple[str, ...] | None = option(
        None, scope="run", list_of="prompt", panel=PROMPT, metavar="TEXT", contradicts=("from_file",),
        displaces=("prompt",), help="Several prompts.",
    )  # fmt: skip
    from_file: str | None = option(
        None, "--from-file", aliases=("--prompt-file", "--prompts-file", "--prompts-from-file"), scope="run",
        panel=PROMPT, metavar="FILE", path="file", contradicts=("prompts",),
        help="File of prompts, one image each: text (a prompt on each line), JSON, JSON Lines, CSV or TSV. - is "
        "standard input.",
    )  # fmt: skip
    prompt_format: str = option(
        "auto", "--prompt-format", scope="run", panel=PROMPT, choices=tuple(PROMPT_FORMATS),
        help="Format of --from-file; auto: by its suffix, otherwise text; a1111, kohya, invoke: text with the flags "
        "of that tool.",
    )  # fmt: skip
    any_words: bool = option(
        False, "--any-words", scope="run", panel=PROMPT,
        help="Also generate prompts of which the builtin models know no word.",
    )  # fmt: skip
    matrix: bool = option(
        False, "--matrix", scope="run", panel=PROMPT, contradicts=("compat",),
        help="Generate every combination of {a|b} and __NAME__ instead of one chosen by the seed.",
    )  # fmt: skip
    wildcards: str = option(
        "wildcards", "--wildcards", scope="run", panel=PROMPT, metavar="FOLDER", path="folder",
        help="Folder of the files NAME.txt; __NAME__ in a prompt stands for one of their lines.",
    )  # fmt: skip
    compat: bool = option(
        False, "--compat", scope="run", panel=PROMPT, contradicts=("matrix",),
        help="Read prompts as the original does: blank lines and # count, { and __ are ordinary characters.",
    )  # fmt: skip
    n_samples: int = option(
        3, "--n_samples", "--batch-size", scope="run", panel=SIZE, metavar="N", least=1, most=100_000,
        help="Batch size: the prompt N times, or N lines of a file at once.",
    )  # fmt: skip
    n_iter: int = option(
        2, "--n_iter", "--iterations", aliases=("--batch-count",), scope="run",
        panel=SIZE, metavar="N", least=1, most=MOST_IMAGES,
        always_shown=True,
        help="How often to repeat the prompts, or the whole file. Default: 1 with standard input, "
        "--images-per-prompt, --matrix, several seeds and every format but text, which the original does not have.",
    )  # fmt: skip
    images_per_prompt: int | None = option(
        None, "--images-per-prompt", "-n", "--count",
        aliases=("--num-images", "--num-images-per-prompt", "--number-of-images", "--images", "--num-outputs"),
        scope="run", panel=SIZE, metavar="K", least=1, most=MOST_IMAGES, row=True,
        help="Number of images for each prompt, generated in batches of --n_samples.",
    )  # fmt: skip
    channels: int = option(
        4, "--C", "--channels", scope="run", panel=SIZE, metavar="N", least=1, most=1_000_000,
        help="Latent channels; the model decides, another value is refused.",
    )  # fmt: skip
    downscale: int = option(
        8, "--f", "--downscale", scope="run", panel=SIZE, metavar="N", least=1, most=1_000_000,
        help="Image pixels for each latent pixel; the model decides, another value is refused.",
    )  # fmt: skip
    plms: bool = option(
        False, "--plms", scope="run", panel=SAMPLING, stands_for={"sampler": "plms"},
        displaces=("sampler", "dpm_solver"), help="The same as --sampler plms.",
    )  # fmt: skip
    dpm_solver: bool = option(
        False, "--dpm_solver", scope="run", panel=SAMPLING, stands_for={"sampler": "dpm_solver"},
        displaces=("sampler", "plms"), help="The same as --sampler dpm_solver; overrides --plms.",
    )  # fmt: skip
    seeds: tuple[int, ...] | None = option(
        None, scope="run", list_of="seed", panel=SAMPLING, metavar="N",
        contradicts=("seed_mode", "seed_step", "fixed_code"), displaces=("seed", "n_iter", "images_per_prompt"),
        help="Several seeds.",
    )  # fmt: skip
    seed_mode: SeedMode = option(
        "run", "--seed-mode", scope="run", panel=SAMPLING, contradicts=("fixed_code", "seeds"),
        help="run: one stream of random numbers for the whole run, as the original; image: image i has the seed "
        "SEED + i.",
    )  # fmt: skip
    seed_step: int | None = option(
        None, "--seed-step", scope="run", panel=SAMPLING, metavar="N", least=0, most=2**64 - 1,
        contradicts=("fixed_code", "seeds"),
        help="Another step for --seed-mode image: image i has the seed SEED + i x N. 0: one seed for all.",
    )  # fmt: skip
    fixed_code: bool = option(
        False, "--fixed_code", scope="run", panel=SAMPLING, contradicts=("seed_mode", "seed_step", "seeds"),
        help="Start every batch from the same noise.",
    )  # fmt: skip
    model: str | None = option(
        None, "--model", aliases=("--model-id", "--pretrained-model-name-or-path"),
        scope="run", panel=MODEL, metavar="MODEL", path="model", recorded=True,
        contradicts=("ckpt", "config", "laion400m"),
        help="Diffusers folder, name in --models-folder, Hugging Face model id, or builtin-fast: the builtin model in "
        "4 steps. Default: the builtin model.",
    )  # fmt: skip
    revision: str | None = option(
        None, "--revision", scope="run", panel=MODEL, metavar="NAME", recorded=True, rerun=True,
        help="Branch, tag or commit of a Hugging Face model.",
    )  # fmt: skip
    ckpt: str = option(
        "models/ldm/stable-diffusion-v1/model.ckpt", "--ckpt", aliases=("--checkpoint", "--ckpt-path", "--ckpt-name"),
        scope="run", panel=MODEL, metavar="FILE", path="checkpoint", recorded=True, contradicts=("model",),
        help="Checkpoint of Stable Diffusion 1, 2 or XL in one file, or its name in --models-folder; the default file "
        "is used if it exists.",
    )  # fmt: skip
    config: str = option(
        "configs/stable-diffusion/v1-inference.yaml", "--config", scope="run", panel=MODEL, metavar="YAML",
        path="config", recorded=True, rerun=True, contradicts=("model",),
        help="Configuration of the checkpoint, where its tensors do not show it: a file, or a name that sdcli ships.",
    )  # fmt: skip
    models_folder: str = option(
        "models", "--models-folder", aliases=("--models-dir", "--ckpt-dir"), scope="run", panel=MODEL,
        metavar="FOLDER", path="folder", rerun=True,
        help="Folder in which --model NAME and --ckpt NAME look for models, also in its folders.",
    )  # fmt: skip
    adapters: str = option(
        "adapters", "--adapters", aliases=("--lora-dir", "--lora-model-dir"), scope="run", panel=MODEL,
        metavar="FOLDER", path="folder", rerun=True,
        help="Folder in which --lora NAME looks for NAME.safetensors, also in its folders.",
    )  # fmt: skip
    laion400m: bool = option(
        False, "--laion400m", scope="run", panel=MODEL, stands_for=LAION_DEFAULTS, contradicts=("model",),
        displaces=("ckpt", "config"), help="Use the LAION-400M model: its config, ckpt and outdir.",
    )  # fmt: skip
    offline: bool = option(
        False, "--offline", scope="run", panel=MODEL, rerun=True,
        help="Open no network connection (HF_HUB_OFFLINE=1 does the same).",
    )  # fmt: skip
    device: DeviceName = option(
        "auto", "--device", scope="run", panel=MODEL, rerun=True, help="Device that runs the model."
    )
    executor: str = option(
        "local", "--executor", scope="run", panel=MODEL, choices=tuple(EXECUTORS),
        help="What generates the batches; local: this process.",
    )  # fmt: skip
    safety_checker: str = option(
        "auto", "--safety-checker", scope="file", panel=STAGES, choices=("auto", *SAFETY_CHECKERS, "off"),
        help="Safety checker; auto: the first that is installed.",
    )  # fmt: skip
    safety_model: str = option(
        "CompVis/stable-diffusion-safety-checker", "--safety-model", scope="file", panel=STAGES, metavar="MODEL",
        path="safety model", help="Model for --safety-checker clip if the model's own folder has none.",
    )  # fmt: skip
    nsfw_threshold: float | None = option(
        None, "--nsfw-threshold", scope="file", panel=STAGES, metavar="X",
        help="Score from which --safety-checker opennsfw flags an image, 0 to 1; default: the model's own, or 0.5.",
    )  # fmt: skip
    on_unsafe: OnUnsafe = option(
        "replace", "--on-unsafe", scope="file", panel=STAGES,
        help="What to save instead of an unsafe image: a black image, a blurred one, nothing, or the image itself.",
    )  # fmt: skip
    watermark: str = option(
        "StableDiffusionV1", "--watermark", scope="file", panel=STAGES, metavar="TEXT", displaces=("no_watermark",),
        help="Text of the invisible watermark.",
    )  # fmt: skip
    watermark_method: str = option(
        "auto", "--watermark-method", scope="file", panel=STAGES, choices=("auto", *WATERMARK_METHODS),
        help="auto: dwtDct, as the original; robust for the builtin models and for small images.",
    )  # fmt: skip
    no_watermark: bool = option(False, "--no-watermark", scope="file", panel=STAGES, help="Write no watermark.")
    outdir: str = option(
        "outputs/txt2img-samples", "--outdir", aliases=("--output-dir", "--out-dir", "--output-folder"),
        scope="output", panel=OUTPUT, metavar="FOLDER", path="output folder", journal=False,
        help="Output folder.",
    )  # fmt: skip
    output: str | None = option(
        None, "--output", "-o", aliases=("--output-file",), scope="output", panel=OUTPUT, metavar="FILE", path="file",
        contradicts=("resume", "output_name", "gallery", "skip_save"),
        displaces=("prompts", "from_file", "matrix", "n_samples", "n_iter", "images_per_prompt", "seeds", "skip_grid"),
        help="Generate one image and save it as this file only, in the format of its suffix; without suffix, in "
        "--format. - is standard output.",
    )  # fmt: skip
    output_name: str | None = option(
        None, "--output-name", scope="output", panel=OUTPUT, metavar="NAME", contradicts=("output",),
        help='Pattern of file names in OUTDIR/samples, such as "{index:05}-{seed}-{prompt:slug}.png". Default: '
        "00000.png, 00001.png and so on.",
    )  # fmt: skip
    resume: str | None = option(
        None, "--resume", scope="output", panel=OUTPUT, metavar="[OUTDIR]", path="output folder",
        may_be_empty=True, journal=False,
        contradicts=("skip_save", "output"),
        help="Generate the missing images of the run in OUTDIR; without OUTDIR, of the run of this same command.",
    )  # fmt: skip
    on_error: OnError = option(
        "stop", "--on-error", scope="run", panel=OUTPUT,
        help="After an invalid row of --from-file or an image that fails: stop, or skip it.",
    )  # fmt: skip
    format: str = option(
        "png", "--format", aliases=("--image-format", "--output-format", "--file-format"),
        scope="file", panel=OUTPUT, choices=tuple(FORMATS),
        help="File format; jpeg is lossy (quality 95, 4:4:4), webp is lossless.",
    )  # fmt: skip
    skip_save: bool = option(
        False, "--skip_save", scope="output", panel=OUTPUT, contradicts=("resume", "output"),
        help="Do not save the single images.",
    )  # fmt: skip
    skip_grid: bool = option(
        False, "--skip_grid", aliases=("--no-grid",), scope="output", panel=OUTPUT, help="Do not save the grid."
    )
    n_rows: int = option(
        0,
        "--n_rows",
        scope="output",
        panel=OUTPUT,
        metavar="N",
        most=MOST_IMAGES,
        help="Images in a row of the grid; 0: n_samples.",
    )
    gallery: bool = option(
        False, "--gallery", scope="output", panel=OUTPUT, contradicts=("output",),
        help="Also write a web page of the run, OUTDIR/gallery-0000.html.",
    )  # fmt: skip

    show: bool = option(
        False, "--show", scope="output", panel=OUTPUT, journal=False, of_grid=False,
        help="Also show the images in the terminal.",
    )  # fmt: skip
    open: bool = option(
        False, "--open", scope="output", panel=OUTPUT, journal=False, of_grid=False,
        help="At the end, open the grid or the only image in the system's viewer.",
    )  # fmt: skip

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings by name; those that are not given have their defaults.

        Raises:
            UsageError: a value or a combination that is not valid.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            if name in cls.model_fields:
                raise invalid(name, first.get("input")) from None
            raise UsageError(f"{name} {first.get('input')!r} is not valid", why=first["msg"]) from None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Apply switches that stand for other settings, and defaults that depend on other settings."""
        values = {name: value for _, name, value in assignments(values)}
        for name, value in values.items():
            # Python, and so pydantic, counts booleans as numbers.
            if isinstance(value, bool) and name in options() and not isinstance(default(name), bool):
                raise UsageError(
                    f"{flag(name)} {str(value).lower()} is not valid",
                    why="It is true or false, and the setting is not a switch.",
                    settings=(name,),
                )
        for name, line in options().items():
            if line.list_of and isinstance(values.get(name), (list, tuple)):
                if not values[name]:
                    raise UsageError(f"{flag(name)} is an empty list", fix="Pass at least one value.", settings=(name,))
                # Where one is needed, as in the checks before a run.
                values[line.list_of] = values[name][0]
        if values.get("seed") == RANDOM:
            # 32 bits, which every other tool takes too.
            values["seed"] = secrets.randbelow(2**32)
        if values.get("seed_step") is not None and values.setdefault("seed_mode", "image") != "image":
            raise UsageError(
                f"--seed-step {values['seed_step']} contradicts --seed-mode {values['seed_mode']}",
                fix="Pass one of them.",
                settings=("seed_step", "seed_mode"),
            )
        _require_no_contradiction(values)
        if values.get("laion400m"):
            values = {**options()["laion400m"].stands_for, **values}
        switch = next((name for name in ("dpm_solver", "plms") if values.get(name)), None)
        if switch:
            if values.get("sampler", switch) != switch:
                raise UsageError(
                    f"--{switch} contradicts --sampler {values['sampler']}",
                    fix=f"Pass --{switch} or --sampler.",
                    settings=(switch, "sampler"),
                )
            values |= options()[switch].stands_for
        # The default 2 is that of the original, which has none of these kinds of prompts.
        new = values.get("images_per_prompt") is not None or values.get("matrix") or values.get("from_file") == "-"
        read_as = prompt_format(values.get("from_file"), values.get("prompt_format", "auto"))
        if new or values.get("seeds") or read_as not in ("auto", "text"):
            values.setdefault("n_iter", 1)
        if values.get("output") is not None:
            values = {"n_samples": 1, "n_iter": 1, "skip_grid": True, **values}
            by_name = image_format(values["output"])
            suffix = Path(values["output"]).suffix
            if suffix and not by_name and "format" not in values:
                raise UsageError(
                    f"--output {values['output']} has the suffix {suffix}, which is no format of sdcli",
                    fix=f"Pass a name that ends in {', '.join(suffixes())}, or no suffix.",
                    settings=("output",),
                )
            if by_name and values.setdefault("format", by_name) != by_name:
                raise UsageError(
                    f"--output {values['output']} contradicts --format {values['format']}",
                    fix="Pass one of them, or change the suffix of the file.",
                    settings=("output", "format"),
                )
        return values

    @model_validator(mode="after")
    def _check(self) -> Settings:
        # In the order of the table; defaults are valid.
        given = self.model_fields_set
        for name, line in options().items():
            if name in given:
                _check_value(name, line, getattr(self, name))
        sigmas_of(self)
        original_size_of(self)
        crop_of(self)
        if self.sampler != AUTO:
            require_taken(self, self.sampler)
        if self.revision is not None and self.model is None:
            raise UsageError(
                "--revision needs a Hugging Face model id", fix="Pass the id with --model.", settings=("revision",)
            )
        if self.seeds is not None and (self.n_iter > 1 or self.images_per_prompt not in (None, 1)):
            other = "n_iter" if self.n_iter > 1 else "images_per_prompt"
            raise UsageError(
                f"several seeds contradict {flag(other)} {getattr(self, other)}",
                why="Each prompt has one image with each seed.",
                fix=f"Leave out {flag(other)}, or pass one seed.",
                settings=("seeds", other),
            )
        several = any(len(getattr(self, name) or ()) > 1 for name, line in options().items() if line.list_of)
        one_image = self.n_samples == self.n_iter == 1 and self.images_per_prompt in (None, 1) and self.skip_grid
        one_image = one_image and not several
        if self.output is not None and not (one_image and self.from_file is None and not self.matrix):
            raise UsageError(
                f"--output {self.output} takes one image, and this run generates more",
                fix="Pass --outdir FOLDER instead, or --n_samples 1 --n_iter 1.",
                settings=("output", *options()["output"].displaces),
            )
        return self

    def has_grid(self, images: int | None) -> bool:
        """Whether a run of so many images, None if that is not known, writes a grid.

        A grid of one image is the original's way; a list of prompts, which the original does not have, has none.
        """
        needless = images == 1 and self.prompts is not None and not self.skip_save
        return not (self.skip_grid or needless)

    @property
    def checkpoint(self) -> str | None:
        """The original checkpoint to load: the one that was given, or the original's default if that file exists.

        A default that exists and cannot be read, such as a link whose target is missing, is an error when it is loaded.
        """
        if self.model is not None:
            return None
        if not self.model_fields_set.isdisjoint({"ckpt", "config", "laion400m"}):
            return self.ckpt
        try:
            Path(self.ckpt).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            pass
        return self.ckpt


def _require_no_contradiction(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` if two settings that contradict each other are both in use."""
    for name, line in options().items():
        if name not in values:
            continue
        for other in line.contradicts:
            if in_use(name, values) and in_use(other, values):
                one, two = (
                    f"{flag(each)} {values[each]}" if options()[each].choices else flag(each) for each in (name, other)
                )
                raise UsageError(
                    f"{one} and {two} contradict each other", fix="Pass one of them.", settings=(name, other)
                )


def _check_value(name: str, line: Option, value: Any) -> None:
    """Raise `UsageError` if a value is not one of the choices, not in the range, not text, or no path."""
    if isinstance(value, tuple):
        for each in value:
            _check_value(name, options()[line.list_of] if line.list_of else line, each)
    elif isinstance(value, str):
        if line.path and ("\0" in value or not (value or line.may_be_empty)):
            raise UsageError(
                f"{flag(name)} {value!r} is not a path",
                fix=f"Pass another, or no {flag(name)}.",
                settings=(name,),
            )
        if line.choices and value not in line.choices:
            raise invalid(name, value)
        if not is_text(value):
            raise UsageError(
                f"{flag(name)} {value!r} is not text",
                fix="Pass it in UTF-8, with a UTF-8 locale such as LC_ALL=C.UTF-8.",
                settings=(name,),
            )
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{flag(name)} {value} is not a number", fix="Pass a finite number.", settings=(name,))
        low, high = line.least, line.most
        if (low is not None and value < low) or (high is not None and value > high):
            most = "2^64 - 1" if high == 2**64 - 1 else str(high)
            limit = (
                f"of {low} or more"
                if high is None
                else f"of {most} or less"
                if low is None
                else f"from {low} to {most}"
            )
            shown = value if abs(value) < 10**30 else f"{str(value)[:10]}..."
            raise UsageError(f"{flag(name)} {shown} is out of range", fix=f"Pass a number {limit}.", settings=(name,))


_EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def invalid(name: str, value: Any) -> UsageError:
    """The error of a value that is not one of the choices, or has another type than the setting."""
    shown = shortened(repr(value), 100)
    if name in ("seed", "seeds"):
        fix = f"Pass a number from 0 to 2^64 - 1, up to {MOST_SEEDS:,} of them such as 1,2,3 or 1-3, or random."
    elif choices := options()[name].choices:
        fix = f"Pass one of: {', '.join(choices)}."
    else:
        kinds = re.findall(r"\w+", str(Settings.model_fields[name].annotation))
        fix = f"Pass {next((_EXPECTED[kind] for kind in kinds if kind in _EXPECTED), 'another value')}."
    why = _meant(name, str(value)) or did_you_mean(near(str(value), options()[name].choices))
    return UsageError(f"{flag(name)} {shown} is not valid", why=why, fix=fix, settings=(name,))


def _meant(name: str, value: str) -> str:
    """What to use here instead of another tool's sampler or schedule; empty if that is not known."""
    if name not in ("sampler", "schedule"):
        return ""
    by_name = {"sampler": own_schedule(value), "schedule": split(value)[0]}
    other = "schedule" if name == "sampler" else "sampler"
    if by_name[name] in options()[other].choices:
        return f"It is a {other}: {flag(other)} {by_name[name]}."
    nearest = (nearest_sampler if name == "sampler" else nearest_schedule)(value)
    typing_error = near(value, options()[name].choices) and not is_lacking(value)
    return f"sdcli does not have it; the nearest is {nearest}." if nearest and not typing_error else ""


def is_text(value: str) -> bool:
    """Whether a string has no surrogates, which stand for bytes of another encoding or for half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@cache
def options() -> dict[str, Option]:
    """Every setting's facets by its name, in the order of the help page."""
    panels = (PROMPT, SIZE, SAMPLING, MODEL, STAGES, OUTPUT)
    found = {
        name: line for name, info in Settings.model_fields.items() for line in info.metadata if isinstance(line, Option)
    }
    for name, line in found.items():
        literals = get_args(Settings.model_fields[name].annotation)
        if literals and all(isinstance(literal, str) for literal in literals):
            found[name] = replace(line, choices=literals)
    return dict(sorted(found.items(), key=lambda item: panels.index(item[1].panel)))


@cache
def names(*scopes: Scope, **facets: Any) -> tuple[str, ...]:
    """The settings of these scopes whose facets have these values, in order."""
    return tuple(
        name
        for name, line in options().items()
        if (not scopes or line.scope in scopes)
        and all(getattr(line, facet) == value for facet, value in facets.items())
    )


def default(name: str) -> Any:
    """The default of a setting."""
    return Settings.model_fields[name].default


def flag(name: str) -> str:
    """The first flag of a setting: the original's, if it has one. A list of values has that of each value."""
    line = options()[name]
    return flag(line.list_of) if line.list_of else line.names[0]


@cache
def lists() -> dict[str, str]:
    """The setting for several values by the setting for one."""
    return {line.list_of: name for name, line in options().items() if line.list_of}


def assigned(name: str, value: Any) -> dict[str, Any]:
    """The settings that a value sets, and their values.

    Several values set the setting for lists; the name of a sampler may set the schedule, too. Choices and seeds may be
    spelled in several ways. A value that is not valid stays as it is.
    """
    if name == "seed":
        value = seeds(value)
    if name in lists() and isinstance(value, (list, tuple)):
        return {lists()[name]: tuple(value)}
    if name in options() and options()[name].repeats:
        return {name: ((value,) if value else ()) if isinstance(value, str) else _as_tuple(value)}
    if name == "sampler" and isinstance(value, str):
        sampler, schedule = split(value)
        if schedule is not None and sampler in SAMPLERS:
            return {"sampler": sampler, "schedule": schedule}
    return {name: as_choice(name, value) if name in options() else value}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def path_and_tail(name: str, value: str) -> tuple[str, str]:
    """A value of a setting that holds a path: the path, and what follows it, such as `:0.8`."""
    found = re.fullmatch(rf"(.*?)({options()[name].tail})", value, re.DOTALL)
    return (found[1], found[2]) if found else (value, "")


def with_paths(name: str, value: Any, change: Callable[[str], str]) -> Any:
    """The value of a setting that holds paths, with each path changed; any other value unchanged."""
    if isinstance(value, list | tuple):
        return type(value)(with_paths(name, each, change) for each in value)
    if options()[name].path is None or not isinstance(value, str):
        return value
    path, tail = path_and_tail(name, value)
    return change(path) + tail


def assignments(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What the values of one source set: the name of the setting that is given, that of the one it sets, and its value.

    Raises:
        UsageError: the name of the sampler has another schedule than the one that is given.
    """
    for given, value in values.items():
        for name, its_value in assigned(given, value).items():
            if name != given and name in values and as_choice(name, values[name]) != its_value:
                raise UsageError(
                    f"{flag(given)} {value!r} contradicts {flag(name)} {values[name]}",
                    why=f"The name stands for {flag(name)} {its_value}.",
                    fix=f"Pass one of them, or the name of the {given} alone.",
                    settings=(given, name),
                )
            yield given, name, its_value


_SEED_LIST = re.compile(r"\s*\d{1,20}\s*(-\s*\d{1,20}\s*)?(,\s*\d{1,20}\s*(-\s*\d{1,20}\s*)?)*", re.ASCII)


def seeds(value: Any) -> Any:
    """The seeds that `1,2,3` or `1-3` stand for; `RANDOM` for random and -1. Any other value stays as it is."""
    if isinstance(value, str):
        value = value.strip()
        if value.casefold() == RANDOM or value == "-1":
            return RANDOM
        if not value.isdecimal() and _SEED_LIST.fullmatch(value):
            parts = [[int(end) for end in part.split("-")] for part in value.split(",")]
            ranges = [range(part[0], part[-1] + 1) for part in parts]
            if all(ranges) and sum(part[-1] - part[0] + 1 for part in parts) <= MOST_SEEDS:
                return [seed for each in ranges for seed in each]
        return value
    return RANDOM if value == -1 and not isinstance(value, bool) else value


def as_choice(name: str, value: Any) -> Any:
    """The choice of a setting that a value spells; other values stay unchanged.

    Dashes and underscores are the same, and so are capital and small letters. A format may be named by its suffix, a
    sampler by its name in other tools.
    """
    choices = options()[name].choices
    if not isinstance(value, str) or not choices:
        return value
    plain = value.replace("-", "_").casefold()
    if found := next((choice for choice in choices if choice.replace("-", "_").casefold() == plain), None):
        return found
    if name == "format":
        return image_format(f"x.{value.removeprefix('.')}") or value
    if name == "sampler":
        sampler, schedule = split(value)
        return sampler if schedule is None else value
    return (name == "schedule" and own_schedule(value)) or value


def sigmas_of(settings: ImageSettings) -> tuple[float, ...]:
    """The noise levels of `--sigmas`, falling, without a 0 at the end; none if it is empty.

    Raises:
        UsageError: they are not falling numbers above 0.
    """
    if not settings.sigmas:
        return ()
    try:
        found = [float(each) for each in settings.sigmas.split(",")]
    except ValueError:
        found = [0.0]
    if found[-1] == 0:
        found.pop()
    if not found or found[-1] <= 0 or not all(math.inf > one > other for one, other in pairwise([*found, 0.0])):
        raise UsageError(
            f"--sigmas {shortened(settings.sigmas, 60)!r} is not valid",
            fix="Pass falling numbers above 0, such as 14.6,6.5,3.9,1.9,0.4.",
            settings=("sigmas",),
        )
    return tuple(found)


def original_size_of(job: ImageSettings) -> tuple[int, int]:
    """Height and width of `--original-size`; those of the image by default.

    Raises:
        UsageError: it is not such a size.
    """
    if not job.original_size:
        return job.height or 0, job.width or 0
    width, height = _pair("original_size", job.original_size, r"(\d+) ?[xX] ?(\d+)", "1024x768", least=1)
    return height, width


def crop_of(job: ImageSettings) -> tuple[int, int]:
    """Top and left of `--crop`.

    Raises:
        UsageError: it is not such a place.
    """
    return _pair("crop", job.crop or "0,0", r"(\d+) ?, ?(\d+)", "0,128", least=0)


def _pair(name: str, value: str, pattern: str, example: str, *, least: int) -> tuple[int, int]:
    """The two numbers in a value.

    Raises:
        UsageError: they are not two, or out of range.
    """
    found = re.fullmatch(pattern, value.strip(), re.ASCII)
    numbers = [int(each[:9]) for each in found.groups()] if found else []
    if not numbers or not all(least <= each <= LARGEST_SIDE for each in numbers):
        raise UsageError(
            f"{flag(name)} {shortened(value, 60)!r} is not valid",
            fix=f"Pass {options()[name].metavar} in pixels, from {least} to {LARGEST_SIDE}, such as {example}.",
            settings=(name,),
        )
    return numbers[0], numbers[1]


def require_taken(settings: ImageSettings, sampler: str) -> None:
    """Raise `UsageError` if the settings have a schedule, sigmas or an eta that a sampler does not take."""
    row = SAMPLERS[sampler]
    shown = {
        "schedule": f"--schedule {settings.schedule}", "sigmas": "--sigmas", "eta": f"--ddim_eta {settings.eta:g}",
    }  # fmt: skip
    for name in shown:
        value = getattr(settings, name)
        if row.takes(name, value):
            continue
        own = f"{sampler} takes the schedules auto, {', '.join(row.schedules)}."
        if not row.schedules:
            own = f"{sampler} has a schedule of its own."
        raise UsageError(
            f"{shown[name]} cannot be used with the sampler {sampler}",
            why=own if name == "schedule" else "",
            fix=f"Leave it out, or pass --sampler with one of: "
            f"{', '.join(able for able, other in SAMPLERS.items() if other.takes(name, value))}.",
            settings=(name, "sampler"),
        )


def in_use(name: str, values: Mapping[str, Any]) -> bool:
    """Whether `values` turn a setting on: it is given and not off; choices and empty texts are off by default."""
    value = values.get(name)
    is_off = value == default(name) and bool(options()[name].choices or value in ("", ()))
    return value is not None and value is not False and not is_off


def flags() -> Iterator[tuple[str, Option, Any, tuple[str, ...]]]:
    """Every setting with a flag in the order of the help page: its name, facets, default and choices."""
    for name, line in options().items():
        if line.names:
            yield name, line, default(name), line.choices


@cache
def spellings() -> dict[str, str]:
    """The name of a setting by each spelling: its name and its flags, see `spelling`."""
    return {
        spelling(each): line.list_of or name
        for name, line in options().items()
        for each in (name, *line.names, *line.aliases)
    }


def with_flags(text: str, rename: Callable[[str], str]) -> str:
    """A message with each flag in it renamed."""
    return re.sub(r"(?<![\w-])--?[A-Za-z][\w-]*", lambda found: rename(found[0]), text)


@cache
def suffixes() -> tuple[str, ...]:
    """The suffixes of the formats that are written."""
    return tuple(suffix for known in FORMATS.values() for suffix in known.suffixes)


def image_format(file: str) -> str | None:
    """The format that a file's suffix names; None if it names none."""
    suffix = Path(file).suffix.lower()
    return next((name for name, known in FORMATS.items() if suffix in known.suffixes), None) if suffix else None


@cache
def prompt_format(file: str | None, given: str) -> str:
    """The format of a prompt file: the one that is given, or the one that its suffix names."""
    if given != "auto" or file is None:
        return given
    suffix = Path(file).suffix.lower()
    return next((name for name, known in PROMPT_FORMATS.items() if suffix in known.suffixes), "auto")
