"""Shell completion of models, checkpoints and folders, and of flags with dashes or underscores.

Typer and the shell complete the rest: commands, choices, other files. The shell calls this at every press of the Tab
key, so nothing heavy is imported and no connection is opened.
"""

from __future__ import annotations

import os
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from sdcli.cli.help import PlainHelp

_WITHOUT_QUOTES = re.compile(r"[\w/.,+@~-]*", re.ASCII)


def models(incomplete: str) -> list[str]:
    """The builtin model, models in the Hugging Face cache, and folders."""
    names = ["builtin", *_cached("model_index.json")]
    return [name for name in names if name.startswith(incomplete)] + folders(incomplete)


def safety_models(incomplete: str) -> list[str]:
    """Image models in the Hugging Face cache, and folders."""
    return [name for name in _cached("preprocessor_config.json") if name.startswith(incomplete)] + folders(incomplete)


def checkpoints(incomplete: str) -> list[str]:
    """Checkpoint files, and folders that lead to them."""
    return _paths(incomplete, (".ckpt", ".safetensors"))


def folders(incomplete: str) -> list[str]:
    """Folders only."""
    return _paths(incomplete, ())


COMPLETERS = {
    "model": models,
    "safety model": safety_models,
    "checkpoint": checkpoints,
    "folder": folders,
    "output folder": folders,
}
"""Completion by the kind of path that a setting holds. The shell completes other files."""


def _cached(file: str) -> list[str]:
    """Hub ids of the models in the local cache that have this file."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = {path.parents[2].name for path in Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{file}")}
    return sorted(folder.removeprefix("models--").replace("--", "/") for folder in folders)


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, and files with one of the suffixes, that begin with what was typed.

    The content of a single folder is listed, because shells end a single answer with a blank. If a name needs quotes,
    nothing is returned, and the shell completes files itself.
    """
    start = incomplete.rpartition("/")[2]
    before = incomplete.removesuffix(start)
    try:
        found = sorted(
            f"{before}{entry.name}{'/' * entry.is_dir()}"
            for entry in os.scandir(Path(before).expanduser())
            if entry.name.startswith(start)
            and entry.name.startswith(".") == start.startswith(".")
            and (entry.is_dir() or entry.name.lower().endswith(suffixes))
        )
    except (OSError, RuntimeError):  # the folder or the user does not exist
        return []
    if not all(_WITHOUT_QUOTES.fullmatch(path) for path in found):
        return []
    if len(found) == 1 and found[0].endswith("/"):
        return _paths(found[0], suffixes) or found
    return found


class Command(PlainHelp, TyperCommand):
    """A command whose flags are completed with dashes and with underscores.

    A flag in `may_be_alone` without a value has the empty one.
    """

    may_be_alone = ("--resume",)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; some flags need no value."""
        alone = (
            arg in self.may_be_alone and (value is None or value.startswith("-"))
            for arg, value in zip_longest(args, args[1:])
        )
        return super().parse_args(
            ctx, [f"{arg}=" if is_alone else arg for arg, is_alone in zip(args, alone, strict=True)]
        )

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; during completion each has all its spellings, the usual one first."""
        parameters = super().get_params(ctx)
        if ctx.resilient_parsing:
            for parameter in parameters:
                for name in tuple(parameter.opts):
                    spellings = (name[:2] + name[2:].replace("_", "-"), name[:2] + name[2:].replace("-", "_"))
                    parameter.opts += [spelling for spelling in spellings if spelling not in parameter.opts]
        return parameters

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The flags that begin with what was typed, each once."""
        once: dict[str, Any] = {}
        for item in super().shell_complete(ctx, incomplete):
            once.setdefault(item.value.replace("-", "_"), item)
        return list(once.values())
