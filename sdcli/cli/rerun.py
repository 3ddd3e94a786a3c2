"""`sdcli rerun`: generate an image again from its record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdcli.cli import completion
from sdcli.cli.console import RunConsole
from sdcli.cli.options import Debug, Quiet
from sdcli.configuration import load
from sdcli.errors import EXIT_NO, UsageError
from sdcli.events import Note, Saved
from sdcli.settings import DeviceName
from sdcli.terminal import json_line, printable

if TYPE_CHECKING:
    from sdcli.comparison import Comparison
    from sdcli.images import GeneratedImage


class _ComparingConsole(RunConsole):
    """Leaves standard output to the command, which prints the image together with the comparison."""

    def saved(self, event: Saved) -> None:
        pass


def rerun(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image that sdcli generated.")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting to change, such as steps=30; repeatable.",
            autocompletion=completion.changes,
        ),
    ] = None,
    outdir: Annotated[str | None, typer.Option(metavar="FOLDER", help="Output folder.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Where the model is now: a checkpoint, a diffusers folder or a model id."),
    ] = None,
    device: Annotated[
        DeviceName | None, typer.Option(metavar="NAME", help="Device that runs the model: auto, cpu, cuda or mps.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", metavar="", help="Open no network connection.")] = False,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Use a model that differs from the record's.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON on standard output.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Generate an image again, with the noise that it had in its run.

    Saves the new image in the output folder, in the format of the old one.
    If no setting was changed, standard error shows the difference.
    Asks on a terminal before it downloads a model that only the file names.

    Exit code 0: the same image, except for rounding, or an image with changes;
    1: another image; 3: the file does not say how it was generated;
    4: the model is missing, or another one.

    [bold]Examples[/]

      [cyan]sdcli rerun outputs/txt2img-samples/samples/00004.png[/]

      [cyan]sdcli rerun --set steps=30 --set sampler=plms 00004.png[/]
    """
    given = {name: value for name, value in (("outdir", outdir), ("device", device)) if value is not None}
    where = load(given | ({"offline": True} if offline else {})).settings
    with _ComparingConsole(quiet=quiet, as_json=json) as console:
        from sdcli import rerun as again

        source = again.read(image)
        generated, comparison = again.rerun(
            source,
            console,
            changes=_pairs(changes or []),
            model=model,
            force=force,
            may_download=console.may_download,
            own_safety_model=where.safety_model,
            outdir=where.outdir,
            device=where.device,
            offline=where.offline,
            executor=where.executor,
        )
        if comparison is not None:
            console(Note(_in_words(comparison, source.path)))
    print(json_line(_values(generated, comparison, image)) if json else printable(str(generated.path)), flush=True)
    raise typer.Exit(EXIT_NO if comparison is not None and not comparison.same else 0)


def _pairs(changes: list[str]) -> dict[str, str]:
    """Raise `UsageError` for a change that is not NAME=VALUE, or is given twice."""
    pairs: dict[str, str] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {change} is not of the form NAME=VALUE", fix="For example: --set steps=30")
        if name in pairs:
            raise UsageError(f"--set {name} is given twice", fix="Pass it once.")
        pairs[name] = value
    return pairs


def _in_words(comparison: Comparison, first: Path) -> str:
    if comparison.identical:
        return f"identical to {first}, pixel by pixel"
    difference = f"{comparison.psnr:.1f} dB PSNR, largest difference {comparison.largest_difference} of 255"
    if comparison.same:
        return f"the same as {first}, except for rounding: {difference}"
    return f"not the same as {first}: {difference}"


def _values(generated: GeneratedImage, comparison: Comparison | None, first: Path) -> dict[str, Any]:
    compared = comparison and {
        "with": str(first),
        "identical": comparison.identical,
        "same": comparison.same,
        "psnr": comparison.psnr if math.isfinite(comparison.psnr) else None,
        "largest_difference": comparison.largest_difference,
    }
    return {"file": str(generated.path), "comparison": compared, **generated.record.values()}
