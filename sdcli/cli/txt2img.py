"""`sdcli txt2img`: every setting is a flag."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from sdcli.cli import prompt_words
from sdcli.cli.completion import COMPLETERS, choices_of, typed_flags
from sdcli.cli.config import CONFIG_FILE_HELP
from sdcli.cli.console import Console, RunConsole
from sdcli.cli.dry_run import show
from sdcli.cli.options import Debug, Quiet
from sdcli.configuration import Configuration, load, origin, origins_in_errors
from sdcli.errors import InputFileError, UsageError
from sdcli.settings import OUTPUT, Settings, flag, flags, options

if TYPE_CHECKING:
    from sdcli.models.model import ModelSource

_HELP = """Generate images from text, with every flag of the original txt2img.py and more.

[bold]Examples[/]

  [cyan]sdcli txt2img "a red apple"[/]
  [cyan]sdcli txt2img "a cat" "a dog" -n 4 --seed random[/]
  [cyan]sdcli txt2img --from-file prompts.txt --plms --steps 20[/]
  [cyan]sdcli txt2img --resume outputs/txt2img-samples[/]
  [cyan]sdcli txt2img --ckpt sd-v1-4.ckpt "a lighthouse" --plms[/]

Prints the path of each image on standard output as soon as it is saved.
Dashes and underscores in flags are the same.
To set your own defaults in a file or the environment: [cyan]sdcli config --help[/].
"""


_PROMPT_HELP = "Prompts, each in quotes: one image of each and no grid of one image; -n 4: four of each."


def txt2img(
    context: typer.Context, config_file: str | None, dry_run: bool, json: bool, quiet: bool, debug: bool, **values: Any
) -> None:
    given = {
        name: value
        for name, value in values.items()
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }
    typed = typed_flags(context)
    _give_prompts(given, typed, Console(quiet))
    configuration = _resumed(given, typed) if given.get("resume") else load(given, config_file=config_file, typed=typed)
    configuration = _with_seed(configuration, given, Console(quiet))
    named = {
        name: one.value
        for name, one in configuration.given.items()
        if one.origin.kind == "record" and options()[name].path and isinstance(one.value, str)
    }
    with origins_in_errors(configuration.given):
        if named:
            Console(quiet).line(f"resuming with {' '.join(f'{flag(name)} {value}' for name, value in named.items())}")
        model = _require_here(configuration, named)
        if dry_run:
            show(configuration.settings, as_json=json, quiet=quiet)
            return
        _require_room_for_output(configuration.settings, as_json=json)
        settings = configuration.settings
        console = RunConsole(
            quiet=quiet,
            as_json=json,
            resumable=settings.output is None and not settings.skip_save,
            show=settings.show,
            open_last=settings.open,
        )
        with console:
            from sdcli.txt2img import generate

            for _ in generate(settings, console, model):
                pass


def _give_prompts(given: dict[str, Any], typed: dict[str, str], console: Console) -> None:
    """Make prompts of the positional arguments and of the flags that may be repeated.

    Raises:
        UsageError: prompts from more than one place.
    """
    if len(given.get("prompt", ())) == 1:
        (given["prompt"],) = given["prompt"]
    words = given.pop("prompts", None)
    for name in ("prompt", "from_file"):
        if words and name in given:
            prompt_words.require_alone(words, typed.get(name, flag(name)), given[name])
    if {"prompt", "from_file"} <= given.keys():
        raise UsageError(
            f"{' and '.join(typed.get(name, flag(name)) for name in ('prompt', 'from_file'))} contradict each other",
            why="Both say what is generated.",
            fix="Pass one of them, or add the prompt to the file.",
        )
    if words:
        given["prompts"], note = prompt_words.prompts(words)
        typed["prompts"] = "PROMPT"
        if note:
            console.line(note)


def _with_seed(configuration: Configuration, given: dict[str, Any], console: Console) -> Configuration:
    """Report a seed that was chosen. To resume a run is to take the one that its journal has."""
    if not configuration.random_seed:
        return configuration
    settings = configuration.settings
    if settings.resume is not None and not given.get("resume"):
        from sdcli.outputs.journal import seed_of

        seed = seed_of(settings)
        if seed is not None:
            configuration = replace(configuration, settings=settings.model_copy(update={"seed": seed}))
    console.line(f"seed {configuration.settings.seed}")
    return configuration


def _resumed(given: dict[str, Any], typed: Mapping[str, str]) -> Configuration:
    """The settings of the run that `--resume OUTDIR` names, with the given flags over them, and nothing else."""
    from sdcli.outputs.journal import settings_of

    outdir = given["resume"]
    return load(given | {"outdir": outdir}, recorded=settings_of(Path(outdir)), typed=typed)


def _require_here(configuration: Configuration, named: Mapping[str, str]) -> ModelSource | None:
    """Check that what only the journal of a resumed run names is on this machine: nothing of it is downloaded.

    Args:
        configuration: the settings, with the origin of each.
        named: the settings that name files or models and come from the journal.

    Returns:
        The model, if the journal names it.
    """
    settings = configuration.settings
    for name, value in named.items():
        if value != "-" and os.path.exists(value) and not (os.path.isfile(value) or os.path.isdir(value)):  # noqa: PTH110, PTH112, PTH113
            raise InputFileError(
                f"{flag(name)} {value} is neither a file nor a folder",
                fix=f"Pass another one with {flag(name)}.",
                settings=[name],
            )
    _require_adapters(configuration)
    of_checker = (origin(name, configuration.given).kind for name in ("safety_checker", "safety_model"))
    checker = settings.safety_checker not in ("auto", "off") and "record" in of_checker
    if not named.keys() & {"model", "ckpt", "config"} and not checker:
        return None
    from sdcli import models
    from sdcli.stages import safety

    of_model = named.keys() & {"model", "ckpt"}
    source = models.find_here(settings) if of_model else models.find_for(settings)
    if checker:
        safety.require_here(settings, source)
    return source


def _require_adapters(configuration: Configuration) -> None:
    """Check that the files that change the model are here, if only the journal of a resumed run names them."""
    from sdcli.models import adapters

    settings = configuration.settings
    for name in adapters.SETTINGS:
        if origin(name, configuration.given).kind == "record":
            for path in adapters.paths(name, getattr(settings, name)):
                adapters.locate(name, path, settings.adapters, offline=True)


def _require_room_for_output(settings: Settings, *, as_json: bool) -> None:
    """Check that standard output can take the image of `--output -`."""
    if settings.output != "-":
        return
    if as_json:
        raise UsageError("--output - and --json both need standard output", fix="Pass one of them.")
    if sys.stdout.isatty():
        raise UsageError(
            "--output - would print an image on the terminal",
            fix="Redirect it: sdcli txt2img --output - > image.png",
        )


def _signature() -> inspect.Signature:
    """The parameters of the command, made from the table of settings."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
    ]
    words = typer.Argument(metavar="PROMPT", help=_PROMPT_HELP, show_default=False)
    parameters.append(
        inspect.Parameter("prompts", keyword, default=None, annotation=Annotated[list[str] | None, words])
    )
    for name, line, default, choices in flags():
        option = typer.Option(
            *line.names,
            # Choices in the text, because they would make the column of placeholders too wide.
            help=f"{line.help} One of: {', '.join(choices)}." if choices else line.help,
            metavar="NAME" if choices else line.metavar or "",
            rich_help_panel=line.panel,
            show_default=default not in ("", ()),
            autocompletion=choices_of(choices) if choices else COMPLETERS.get(line.path or ""),
        )
        # Texts: the settings read them, so every source of settings has the same spellings and errors.
        kind: Any = str | None
        value: Any = None if default is None else str(default)
        if default is False:
            kind, value = bool, False
        elif name == "prompt" or line.repeats:
            kind, value = list[str], [default] if name == "prompt" else list(default)
        parameters.append(inspect.Parameter(name, keyword, default=value, annotation=Annotated[kind, option]))
    for name, help_text in (
        ("dry_run", "Generate nothing; list what would be generated, with --json one line for each image."),
        ("json", "Print one line of JSON for each image on standard output, instead of its path."),
    ):
        option = typer.Option(f"--{name.replace('_', '-')}", help=help_text, metavar="", rich_help_panel=OUTPUT)
        parameters.append(inspect.Parameter(name, keyword, default=False, annotation=Annotated[bool, option]))
    for name, shared in (("quiet", Quiet), ("debug", Debug)):
        kind, option = get_args(shared)
        option = copy(option)
        option.rich_help_panel = OUTPUT
        parameters.append(inspect.Parameter(name, keyword, default=False, annotation=Annotated[kind, option]))
    file = Annotated[str | None, typer.Option("--config-file", metavar="FILE", help=CONFIG_FILE_HELP)]
    parameters.append(inspect.Parameter("config_file", keyword, default=None, annotation=file))
    return inspect.Signature(parameters)


txt2img.__doc__ = _HELP
_SIGNATURE = _signature()
txt2img.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
txt2img.__annotations__ = {name: p.annotation for name, p in _SIGNATURE.parameters.items()}
