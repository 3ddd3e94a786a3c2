"""`sdcli models info`: all that is known of a model or an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdcli.cli import completion
from sdcli.cli.console import Console
from sdcli.cli.options import Adapters, Debug, ModelsFolder, Quiet, given
from sdcli.configuration import load
from sdcli.terminal import in_bytes, json_line, one_line, printable, shortened

if TYPE_CHECKING:
    from sdcli.inventory.description import Description

_LONGEST = 300
"""Characters of a text of a file's header in the table; the JSON has all of it."""
_TEXTS = {
    "modelspec.title": "Title", "modelspec.author": "Author", "modelspec.description": "Description",
    "ss_output_name": "Name in training", "ss_sd_model_name": "Trained on",
}  # fmt: skip
"""Texts of a file's header, and what the table calls them."""


def info(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="A builtin model, a file, a folder, a name in --models-folder or --adapters, or the "
            "id of a model in the cache of the Hugging Face hub.",
            show_default=False,
            autocompletion=completion.any_models,
        ),
    ],
    models_folder: ModelsFolder = None,
    adapters: Adapters = None,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON for each model on standard output.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show all that is known of a model or an adapter.

    Family, parts with their parameters and precision, defaults, licence, hash;
    of a LoRA also its rank and trigger words; and a command that uses it. No
    connection is opened.

    Exit code 4: a model does not exist or is damaged.

    [bold]Examples[/]

      [cyan]sdcli models info builtin[/]

      [cyan]sdcli models info models/v1-5-pruned-emaonly.safetensors[/]

      [cyan]sdcli models info --json style.safetensors | jq .details[/]
    """
    from sdcli.inventory import description, places

    settings = load(given(models_folder=models_folder, adapters=adapters)).settings

    def show(name: Path) -> int:
        found = description.of_name(str(name), settings)
        base = places.base_of(found, settings)
        if json:
            print(json_line(description.everything(found, base)), flush=True)
        else:
            _print_table(found, base)
        return 0

    raise typer.Exit(Console(quiet).each([Path(name) for name in names], show))


def _print_table(found: Description, base: str) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(found):
        table.add_row(Text(one_line(name)), Text(printable(value)))
    console = RichConsole(highlight=False)
    console.print(Text(one_line(found.name), style="bold cyan"), soft_wrap=True)
    console.print(table)
    if command := found.command(base):
        console.print(Text(printable(command)), soft_wrap=True)
    console.print()


def rows(found: Description) -> Iterator[tuple[str, str]]:
    """The rows of the table."""
    from sdcli.inventory.description import A1111_HASH, bytes_in_memory
    from sdcli.jobs import at_home

    if found.kind != "unknown":
        yield "Kind", found.kind
    if found.problem:
        yield "Cannot be used", found.problem
    if found.family:
        yield "Family" if found.kind in ("model", "unknown") else "Made for", found.family
    if found.layout:
        yield "Layout", found.layout
    yield "Path", at_home(str(found.path))
    if found.revision:
        yield "Revision", found.revision
    memory = f"; {in_bytes(bytes_in_memory(found))} of memory in float32" if found.spec else ""
    yield "Size", f"{in_bytes(found.size)}{memory}"
    for part in found.parts:
        of = f", {part.of}" if part.of else ""
        yield part.name, f"{_number(part.parameters)} parameters, {part.precision}{of}"
    yield from _defaults(found)
    for name, value in found.details.items():
        label = {"words": "Trigger words", "tags": "Frequent words"}.get(name, name.capitalize())
        yield label, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    for name, label in _TEXTS.items():
        if found.texts.get(name):
            yield label, shortened(found.texts[name], _LONGEST)
    yield "Licence", found.license or "not known"
    if found.hash:
        yield "SHA-256", found.hash
        if found.path.is_file():
            yield "In AUTOMATIC1111", found.hash[:A1111_HASH]


def _number(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} million" if parameters >= 1e6 else f"{parameters:,}"


def _defaults(found: Description) -> Iterator[tuple[str, str]]:
    """What a model is used with."""
    spec = found.spec
    if spec is None:
        return
    yield "Prediction", spec.schedule.prediction_type.replace("_", " ")
    only = ", no other size" if spec.only_default_size else f", in multiples of {spec.size_multiple}"
    yield "Image size", f"{spec.default_width} x {spec.default_height} pixels{only}"
    yield "Steps", str(spec.default_steps)
    yield "Guidance scale", f"{spec.default_scale:g}"
    if spec.few_steps_by:
        yield "Needs", f"--sampler {spec.few_steps_by}"
