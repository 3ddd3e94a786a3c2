"""`sdcli models convert`: models in another layout, precision or format."""

from __future__ import annotations

from typing import Annotated

import typer

from sdcli.cli import completion
from sdcli.cli.console import Console
from sdcli.cli.options import Debug, Quiet
from sdcli.inventory import DTYPES
from sdcli.settings import options
from sdcli.terminal import in_bytes, json_line, one_line


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A file of weights, or a folder of diffusers.",
            show_default=False,
            autocompletion=completion.checkpoints,
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="A new file, whose name ends in .safetensors, or a new folder of diffusers.",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            show_default=False,
            autocompletion=completion.choices_of(DTYPES),
            help=f"Type of the weights: {', '.join(DTYPES)}. Default: as in IN.",
        ),
    ] = "",
    half: Annotated[bool, typer.Option("--half", metavar="", help="The same as --dtype float16.")] = False,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="YAML",
            show_default=False,
            help=options()["config"].help,
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", metavar="", help="Print a line of JSON instead of the path.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Convert a model to another layout, precision or format.

    A checkpoint of the original layout becomes a folder of diffusers, and such
    a folder a checkpoint; a pickle becomes a safetensors file. Every tensor is
    read back and compared bit for bit; with --dtype, with the rounded one. OUT
    gets its name when all are right, and nothing is overwritten.

    Exit code 4: IN is no model, or OUT could not say what IN says; 7: OUT exists, or cannot be written.

    [bold]Examples[/]

      [cyan]sdcli models convert sd-v1-4.ckpt sd-v1-4.safetensors --half[/]

      [cyan]sdcli models convert dreamy.safetensors dreamy[/]

      [cyan]sdcli models convert dreamy dreamy-again.safetensors[/]
    """
    from sdcli.errors import UsageError
    from sdcli.inventory import convert as conversions
    from sdcli.inventory import description

    if half and dtype not in ("", "float16"):
        raise UsageError(f"--half and --dtype {dtype} contradict each other", fix="Pass one of them.")
    console = Console(quiet)
    conversion = conversions.of_words(source, target, "float16" if half else dtype, config)
    conversions.convert(conversion, console.line)
    found = description.of_path(conversion.target)
    if json:
        print(json_line(description.summary(found)))
    else:
        print(one_line(target))
    console.line(f"{found.precision}, {in_bytes(found.size)}; every tensor is verified")
