"""`sdcli rerun`: draw an image again from what it says of itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from sdcli import rerun as again
from sdcli.cli.console import RunConsole
from sdcli.configuration import load
from sdcli.errors import EXIT_NO, UsageError
from sdcli.settings import DeviceName
from sdcli.terminal import json_line, printable
from sdcli.txt2img import GeneratedImage


class _LastWord(RunConsole):
    """Leaves standard output to the command, which has more to say of the image once it is compared."""

    def saved(self, path: Path, record: dict[str, Any]) -> None:
        pass


def rerun(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image drawn by sdcli.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting to change, such as steps=30; repeatable."),
    ] = None,
    outdir: Annotated[str | None, typer.Option(metavar="FOLDER", help="The folder to write to.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Where the model lies now: a checkpoint, a diffusers folder or a hub id."),
    ] = None,
    device: Annotated[DeviceName | None, typer.Option(help="Where to compute.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Draw also with another model than the record's.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on standard error but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Draw an image again, with the noise it had in its run.

    The new image goes to the output folder, in the format of the first.
    If nothing was changed, standard error tells how far apart they are.

    Exit code 0: the same image, to rounding, or one with changes;
    1: another image; 3: the file does not say how it was drawn;
    4: the model is missing, or another one.

    [bold]Examples[/]

      [cyan]sdcli rerun outputs/txt2img-samples/samples/00004.png[/]

      [cyan]sdcli rerun --set steps=30 --set sampler=plms 00004.png[/]
    """
    said = {name: value for name, value in (("outdir", outdir), ("device", device)) if value is not None}
    where = load(said | ({"offline": True} if offline else {})).settings
    source = again.read(image)
    with _LastWord(quiet=quiet, as_json=json) as console:
        generated, comparison = again.rerun(
            source,
            console,
            changes=_pairs(changes or []),
            model=model,
            force=force,
            outdir=where.outdir,
            device=where.device,
            offline=where.offline,
        )
        if comparison is not None:
            console.note(_words(comparison, source.path))
    print(json_line(_values(generated, comparison, image)) if json else printable(str(generated.path)), flush=True)
    raise typer.Exit(EXIT_NO if comparison is not None and not comparison.same else 0)


def _pairs(changes: list[str]) -> dict[str, str]:
    """Raises `UsageError` for what is not of the form NAME=VALUE, or said twice."""
    pairs: dict[str, str] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {change} is not of the form NAME=VALUE", fix="For example: --set steps=30")
        if name in pairs:
            raise UsageError(f"--set {name} is there twice", fix="Give one of the two.")
        pairs[name] = value
    return pairs


def _words(comparison: again.Comparison, first: Path) -> str:
    if comparison.identical:
        return f"identical to {first}, pixel by pixel"
    apart = f"{comparison.psnr:.1f} dB PSNR, largest difference {comparison.largest_difference} of 255"
    return f"the same as {first}, to rounding: {apart}" if comparison.same else f"not the same as {first}: {apart}"


def _values(generated: GeneratedImage, comparison: again.Comparison | None, first: Path) -> dict[str, Any]:
    compared = comparison and {
        "with": str(first),
        "identical": comparison.identical,
        "same": comparison.same,
        "psnr": comparison.psnr if math.isfinite(comparison.psnr) else None,
        "largest_difference": comparison.largest_difference,
    }
    return {"file": str(generated.path), "comparison": compared, **generated.record}
