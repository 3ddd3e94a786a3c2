"""Shell completion of models, checkpoints and folders, and of flags with dashes or underscores.

Typer and the shell complete the rest: commands, choices, other files. The shell calls this at every press of the Tab
key, so nothing heavy is imported and no connection is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import zip_longest
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from sdcli.cli.help import PlainHelp
from sdcli.errors import UsageError
from sdcli.models import shipped
from sdcli.settings import default, names, options, spellings

_WITHOUT_QUOTES = re.compile(r"[\w/.,+@~-]*", re.ASCII)


_LARGEST_SEARCH = 2_000
"""Entries of folders that are looked at for one answer. Folders beyond them are offered unseen."""
_MODEL = "model_index.json"
_SUFFIXES = (".ckpt", ".safetensors")


def models(incomplete: str) -> list[str]:
    """The builtin models, models in the Hugging Face cache, folders of models, and folders that lead to them."""
    names = [*shipped.NAMES, *_cached(_MODEL), *_names(default("models_folder"))]
    found = _paths(incomplete, (), _Search(lambda name: name == _MODEL))
    return [name for name in names if name.startswith(incomplete)] + found


def any_models(incomplete: str) -> list[str]:
    """Models and adapters: builtin, in the Hugging Face cache, in the default folders, and files."""
    names = [*shipped.NAMES, *_cached(_MODEL), *_names(default("models_folder")), *_names(default("adapters"))]
    return [name for name in names if name.startswith(incomplete)] + checkpoints(incomplete)


def known_models(incomplete: str) -> list[str]:
    """The names that `sdcli models fetch` knows."""
    from sdcli.inventory import known

    return choices_of(tuple(known.by_name()))(incomplete)


def _names(folder: str) -> list[str]:
    """The names of the models and adapters in a folder, without those of folders below."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    stems = [Path(entry.name).stem for entry in entries if entry.name.lower().endswith(_SUFFIXES)]
    names = stems + [entry.name for entry in entries if os.path.isfile(os.path.join(entry.path, _MODEL))]  # noqa: PTH113, PTH118
    return [name for name in names if _WITHOUT_QUOTES.fullmatch(name)]


def safety_models(incomplete: str) -> list[str]:
    """Image models in the Hugging Face cache, and folders."""
    return [name for name in _cached("preprocessor_config.json") if name.startswith(incomplete)] + folders(incomplete)


def checkpoints(incomplete: str) -> list[str]:
    """Checkpoint files, and folders that lead to them."""
    names = [name for name in _names(default("models_folder")) if name.startswith(incomplete)]
    return names + _paths(incomplete, _SUFFIXES, _Search(lambda name: name.lower().endswith(_SUFFIXES)))


def adapters(incomplete: str) -> list[str]:
    """Names of the files in the default folder of adapters, files of adapters, and folders that lead to them."""
    from sdcli.models import adapters as files

    names = {file.stem for file in files.files_below(Path(default("adapters")))}
    found = _paths(incomplete, files.SUFFIXES, _Search(lambda name: name.lower().endswith(files.SUFFIXES)))
    return sorted(name for name in names if name.startswith(incomplete) and _WITHOUT_QUOTES.fullmatch(name)) + found


def folders(incomplete: str) -> list[str]:
    """Folders only."""
    return _paths(incomplete, (), None)


COMPLETERS = {
    "model": models,
    "safety model": safety_models,
    "checkpoint": checkpoints,
    "adapter": adapters,
    "folder": folders,
    "output folder": folders,
}
"""Completion by the kind of path that a setting holds. The shell completes other files."""


def choices_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """The completion of a setting that takes one of these choices."""
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def changes(incomplete: str) -> list[str]:
    """What `sdcli rerun --set` takes: NAME= and, after the name of a setting with choices, each choice.

    With a single name its values are returned, too, because shells end a single answer with a blank.
    """
    name, equals, value = incomplete.partition("=")
    if equals:
        line = options().get(spellings().get(name.replace("-", "_"), ""))
        return [f"{name}={choice}" for choice in choices_of(line.choices if line else ())(value)]
    found = [each for each in names(rerun=True) if each.startswith(incomplete)]
    if len(found) == 1:
        line = options()[found[0]]
        return [f"{found[0]}=", *(f"{found[0]}={each}" for each in line.choices or [line.metavar or "true"])]
    return [f"{each}=" for each in found]


def _cached(file: str) -> list[str]:
    """Hub ids of the models in the local cache that have this file."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = {path.parents[2].name for path in Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{file}")}
    return sorted(folder.removeprefix("models--").replace("--", "/") for folder in folders)


class _Search:
    """Whether folders lead to a file whose name is wanted. Hidden folders and links to folders are not searched."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._left = _LARGEST_SEARCH

    def leads(self, folder: str) -> bool:
        """Whether the folder, or one below it, has such a file; True if that takes too long."""
        below = [folder]
        while below:
            try:
                entries = list(os.scandir(below.pop(0)))
            except OSError:
                continue
            self._left -= len(entries)
            if self._left < 0 or any(self._wanted(entry.name) for entry in entries):
                return True
            below += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."]
        return False


def _paths(incomplete: str, suffixes: tuple[str, ...], search: _Search | None) -> list[str]:
    """Folders, and files with one of the suffixes, that begin with what was typed.

    Only folders that lead to what `search` looks for, if it is given. The content of a single folder is listed,
    because shells end a single answer with a blank. If a name needs quotes, nothing is returned, and the shell
    completes files itself.
    """
    start = incomplete.rpartition("/")[2]
    before = incomplete.removesuffix(start)
    try:
        found = sorted(
            f"{before}{entry.name}{'/' * entry.is_dir()}"
            for entry in os.scandir(Path(before).expanduser())
            if entry.name.startswith(start)
            and entry.name.startswith(".") == start.startswith(".")
            and (
                search is None or search.leads(entry.path) if entry.is_dir() else entry.name.lower().endswith(suffixes)
            )
        )
    except (OSError, RuntimeError):  # the folder or the user does not exist
        return []
    if not all(_WITHOUT_QUOTES.fullmatch(path) for path in found):
        return []
    if len(found) == 1 and found[0].endswith("/"):
        return _paths(found[0], suffixes, search) or found
    return found


_TYPED = "sdcli.flags"
"""The key of the typed flags in the context of a command."""


def typed_flags(context: Any) -> dict[str, str]:
    """The flags of a command line as they were typed, by the names of its parameters and by their usual spelling."""
    return dict(context.meta.get(_TYPED, {}))


class Command(PlainHelp, TyperCommand):
    """A command whose flags are completed with dashes and with underscores, and may have aliases.

    A flag in `may_be_alone` without a value has the empty one. A value with a blank that is no folder is the next
    argument.
    """

    may_be_alone = ("--resume",)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; some flags need no value."""
        ctx.meta[_TYPED] = {} if ctx.resilient_parsing else dict(self._typed(ctx, args))
        alone = (
            arg in self.may_be_alone
            and (value is None or value.startswith("-") or (" " in value and not os.path.isdir(value)))  # noqa: PTH112
            for arg, value in zip_longest(args, args[1:])
        )
        return super().parse_args(
            ctx, [f"{arg}=" if is_alone else arg for arg, is_alone in zip(args, alone, strict=True)]
        )

    def _typed(self, ctx: Any, args: list[str]) -> Iterator[tuple[str, str]]:
        """Each flag among the arguments: the name of its parameter, and its usual spelling, with what was typed."""
        known = {}
        for parameter in self.get_params(ctx):
            for name in (*parameter.opts, *_aliases(parameter)):
                known[name[:2] + name[2:].replace("-", "_")] = parameter.name
        for arg in args:
            if arg == "--":
                break
            if not arg.startswith("-"):
                continue
            usual = arg.partition("=")[0].replace("-", "_")
            if not arg.startswith("--") and len(usual) > 2 and f"-{usual}".replace("_", "-", 2) in known:
                raise UsageError(f"unknown flag {arg}", fix=f"A long flag has two dashes: -{arg}")
            # Of letters the value may follow at once.
            typed = arg.partition("=")[0] if arg.startswith("--") else arg[:2]
            usual = typed[:2] + typed[2:].replace("-", "_")
            yield known.get(usual, usual), typed

    def make_parser(self, ctx: Any) -> Any:
        """The parser of the arguments, which knows the aliases of flags, too."""
        parser = super().make_parser(ctx)
        for parameter in self.get_params(ctx):
            if aliases := _aliases(parameter):
                alias = copy(parameter)
                alias.opts = list(aliases)
                alias.add_to_parser(parser, ctx)
        return parser

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


def _aliases(parameter: Any) -> tuple[str, ...]:
    """The further flags of a parameter that stands for a setting."""
    line = options().get(parameter.name or "")
    return line.aliases if line and line.names and line.names[0] in parameter.opts else ()
