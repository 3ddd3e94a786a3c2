"""Runs all stages of the training: VAE, missing drawings, text encoder, classifiers, UNet, VAE on the UNet's outputs.

    python training/train.py --tokenizer CLIP --teacher TAESD --minutes 120
    python training/train.py ... --mixed-precision bf16 --processes 2                       # on two CPU cores
    python training/train.py ... --mixed-precision bf16 --batch 256 --workers 8 --compile   # on a GPU
    python training/train.py ... --steps 2                                                  # smoke run

Each stage is also a script; see its `--help`. Arguments that are not listed here go to `train_unet.py`. After an
interruption, the same command continues with the stage that was running. A larger budget trains every stage further.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import torch
from arguments import add_budget, new_parser
from torch.multiprocessing.spawn import start_processes

STAGES = (
    (0.06, "train_vae"),
    (0.1, "imagine"),
    (0.16, "train_text"),
    (0.16, "classifier"),
    (0.28, "train_unet", "--copying"),
    (0.16, "train_unet"),
    (0.03, "redraw"),
    (0.05, "train_vae", "--redrawn"),
)
"""Share of the minutes, script and arguments of each stage, in order. `--steps` are the same for each."""

PRELOADED = (
    "accelerate",
    "diffusers.models.unets.unet_2d",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
)
"""Modules that take seconds to import: the fork server imports them once for all stages."""


def run_stage(
    process: int, script: str, arguments: Sequence[str], processes: int, port: int, threads: int | None
) -> None:
    """Runs one of a stage's processes.

    Args:
        process: its number, from 0.
        port: port at which the processes of the stage find each other.
        threads: its number of threads; None keeps torch's default.
    """
    if processes > 1:
        os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(process), "LOCAL_RANK": str(process), "WORLD_SIZE": str(processes)}
    if threads:
        torch.set_num_threads(threads)
    importlib.import_module(script).main(arguments)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__, "--tokenizer", "--teacher", "--size", "--seed", "--mixed-precision")
    add_budget(parser)
    parser.add_argument("--start", type=Path, help="exported model of the same drawings to continue from")
    parser.add_argument("--processes", type=int, default=1, help="number of processes of the UNet's training on a CPU")
    options, for_unet = parser.parse_known_args(arguments)

    tokenizer = ["--tokenizer", str(options.tokenizer)]
    size = ["--size", str(options.size)]
    teacher = ["--teacher", str(options.teacher)]
    precision = ["--mixed-precision", options.mixed_precision]
    start = ["--start", str(options.start)] if options.start else []
    own = {
        "train_vae": [*size, *teacher, *precision, *start],
        "imagine": [*size, *teacher, *precision],
        "train_text": [*size, *tokenizer, *precision, *start],
        "classifier": precision,
        "redraw": [*size, *tokenizer, *precision],
        "train_unet": [*size, *tokenizer, *precision, *start, *for_unet],
    }
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    spent: dict[str, float] = {}
    for share, script, *extra in STAGES:
        # The budget of a script covers all its stages so far.
        spent[script] = spent.get(script, 0) + (options.steps or share * options.minutes)
        budget = ["--steps" if options.steps else "--minutes", str(spent[script])]
        processes = options.processes if script == "train_unet" else 1
        command = [*budget, *own[script], *extra, "--work", str(options.work), "--seed", str(options.seed)]
        print(f"{script} {' '.join([*extra, *budget])}", flush=True)
        start_processes(  # type: ignore[no-untyped-call]
            run_stage,
            (script, command, processes, free_port(), 1 if processes > 1 else None),
            nprocs=processes,
            start_method="forkserver",
        )


if __name__ == "__main__":
    main()
