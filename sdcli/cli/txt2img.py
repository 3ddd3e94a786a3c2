"""`sdcli txt2img`: every setting a flag."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sdcli.cli.completion import COMPLETERS
from sdcli.cli.config import CONFIG_FILE_HELP
from sdcli.cli.console import RunConsole
from sdcli.cli.dry_run import show
from sdcli.configuration import Configuration, load, origins_told
from sdcli.errors import OutputError, UsageError
from sdcli.settings import OUTPUT, Settings, flags

_HELP = """Draw images from words; every flag of the original txt2img.py, and more.

[bold]Examples[/]

  [cyan]sdcli txt2img --prompt "a red apple"[/]
  [cyan]sdcli txt2img --prompt "a cat" --n_samples 4 --n_iter 1 --seed 7[/]
  [cyan]sdcli txt2img --from-file prompts.txt --plms --steps 20[/]
  [cyan]sdcli txt2img --resume outputs/txt2img-samples[/]
  [cyan]sdcli txt2img --ckpt sd-v1-4.ckpt --prompt "a lighthouse" --plms[/]

The path of each saved image goes to standard output as soon as it is there.
Dashes and underscores in flags are one and the same.
Defaults of your own, in a file or the environment: [cyan]sdcli config --help[/].
"""


def txt2img(
    context: typer.Context, config_file: str | None, dry_run: bool, json: bool, quiet: bool, debug: bool, **values: Any
) -> None:
    said = {
        name: value
        for name, value in values.items()
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }
    configuration = _resumed(said) if said.get("resume") else load(said, config_file=config_file)
    with origins_told(configuration.said):
        if dry_run:
            show(configuration.settings, as_json=json, quiet=quiet)
            return
        _require_room_for_output(configuration.settings, as_json=json)
        from sdcli.txt2img import draw

        with RunConsole(quiet=quiet, as_json=json) as console:
            for _ in draw(configuration.settings, console):
                pass


def _resumed(said: dict[str, Any]) -> Configuration:
    """The settings of the run that `--resume OUTDIR` names, with the flags given now over them, and nothing else."""
    from sdcli.outputs.journal import settings_of

    outdir = said["resume"]
    return load(said | {"outdir": outdir}, recorded=settings_of(Path(outdir)))


def _require_room_for_output(settings: Settings, *, as_json: bool) -> None:
    """That standard output can take an image where `--output -` puts one there."""
    if settings.output != "-":
        return
    if as_json:
        raise UsageError("--output - and --json both want standard output", fix="Give one of the two.")
    if sys.stdout is None:
        raise OutputError("standard output is closed", fix="Name a file with --output.")
    if sys.stdout.isatty():
        raise UsageError(
            "--output - would write an image to the terminal", fix="Send it on: sdcli txt2img --output - > image.png"
        )


def _signature() -> inspect.Signature:
    """The command's parameters, made from the settings: their flags, defaults, choices and help."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
    ]
    for name, flag, default, choices in flags():
        option = typer.Option(
            *flag.names,
            # Choices in the text rather than in the column of placeholders, which they would make too wide.
            help=f"{flag.help} One of: {', '.join(choices)}." if choices else flag.help,
            metavar="NAME" if choices else flag.metavar or "",
            rich_help_panel=flag.panel,
            show_default=default != "",
            autocompletion=COMPLETERS.get(name),
        )
        kind = Settings.model_fields[name].annotation
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, option]))
    for name, words in (
        ("dry_run", "Draw nothing, and tell what would be drawn; with --json a line for each image."),
        ("json", "A line of JSON for each image on standard output, in place of its path."),
        ("quiet", "Say nothing on standard error but errors."),
        ("debug", "Show the traceback of an error."),
    ):
        option = typer.Option(f"--{name.replace('_', '-')}", help=words, metavar="", rich_help_panel=OUTPUT)
        parameters.append(inspect.Parameter(name, keyword, default=False, annotation=Annotated[bool, option]))
    file = Annotated[str | None, typer.Option("--config-file", metavar="FILE", help=CONFIG_FILE_HELP)]
    parameters.append(inspect.Parameter("config_file", keyword, default=None, annotation=file))
    return inspect.Signature(parameters)


txt2img.__doc__ = _HELP
_SIGNATURE = _signature()
txt2img.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
txt2img.__annotations__ = {name: p.annotation for name, p in _SIGNATURE.parameters.items()}
