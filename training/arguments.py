"""Command-line arguments that several scripts share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent

ARGUMENTS: dict[str, dict[str, Any]] = {
    "--work": {"type": Path, "default": HERE / "work", "help": "folder of all intermediate files"},
    "--tokenizer": {"type": Path, "required": True, "help": "folder with CLIP's vocab.json and merges.txt"},
    "--teacher": {"type": Path, "required": True, "help": "folder with TAESD's two safetensors files"},
    "--size": {"type": int, "default": 256, "help": "edge of the images in pixels"},
    "--seed": {"type": int, "default": 0},
    "--device": {"default": "cuda" if torch.cuda.is_available() else "cpu"},
    "--mixed-precision": {"choices": ("no", "bf16"), "default": "no"},
}


def new_parser(description: str | None, *flags: str) -> argparse.ArgumentParser:
    """Returns a parser with `--work` and these flags of `ARGUMENTS`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--work", *flags):
        parser.add_argument(flag, **ARGUMENTS[flag])
    return parser


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Adds `--minutes` and `--steps`, of which exactly one is required."""
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="training time, summed over all runs")
    budget.add_argument("--steps", type=int, help="number of optimisation steps, summed over all runs")


def training_parser(
    description: str | None, *flags: str, batch: int, lr: float | None = None
) -> argparse.ArgumentParser:
    """Returns the parser of a training script.

    Args:
        flags: further ones of `ARGUMENTS`.
        batch: default of `--batch`.
        lr: default of `--lr`; None for a script without a learning rate.
    """
    parser = new_parser(description, "--seed", "--device", "--mixed-precision", *flags)
    add_budget(parser)
    parser.add_argument("--batch", type=int, default=batch)
    if lr is not None:
        parser.add_argument("--lr", type=float, default=lr)
    return parser
