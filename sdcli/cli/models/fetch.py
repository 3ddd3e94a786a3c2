"""`sdcli models fetch`: models and adapters from the Hugging Face hub, or from any address."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sdcli.cli import completion
from sdcli.cli.console import Console
from sdcli.cli.options import Adapters, Debug, ModelsFolder, Offline, Quiet, given
from sdcli.configuration import load
from sdcli.errors import EXIT_NO, UsageError
from sdcli.terminal import in_bytes, json_line, one_line

if TYPE_CHECKING:
    from sdcli.inventory.download import Progress
    from sdcli.inventory.fetch import Offer

_SECONDS_BETWEEN_LINES = 5.0


def fetch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A name of the list, OWNER/NAME or OWNER/NAME/FILE on the Hugging Face hub, or an "
            "address. Without it the list is printed.",
            show_default=False,
            autocompletion=completion.known_models,
        ),
    ] = None,
    revision: Annotated[
        str, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit on the hub.", show_default=False)
    ] = "",
    into: Annotated[
        str,
        typer.Option(
            "--into",
            metavar="FOLDER",
            show_default=False,
            autocompletion=completion.folders,
            help="Folder for a file; default: --models-folder, for LoRAs and VAEs of the list --adapters.",
        ),
    ] = "",
    save_as: Annotated[
        str, typer.Option("--name", metavar="FILE", help="Name of the file; default: its own.", show_default=False)
    ] = "",
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="HASH", help="Hash that the file must have.", show_default=False)
    ] = "",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", metavar="", help="Also download .ckpt, .pt and .bin files.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")] = False,
    offline: Offline = False,
    models_folder: ModelsFolder = None,
    adapters: Adapters = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Print a line of JSON instead of the path.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download a model or an adapter.

    A model of the Hugging Face hub goes into its cache, in which
    --model OWNER/NAME looks; a file goes into a folder. First it says size,
    licence and place, and asks. A download that breaks off goes on where it
    ended, also when the command is run again. Size and hash are checked if they
    are known, and no file is overwritten.

    The token of the hub (HF_TOKEN) is sent to the hub only.

    Exit code 4: it does not exist, cannot be reached, or is not what it should be; 7: it cannot be written.

    [bold]Examples[/]

      [cyan]sdcli models fetch[/]

      [cyan]sdcli models fetch sd-1.5[/]

      [cyan]sdcli models fetch CompVis/stable-diffusion-v1-4 --yes[/]

      [cyan]sdcli models fetch https://example.org/style.safetensors --into adapters[/]
    """
    from sdcli.inventory import description, places
    from sdcli.inventory.fetch import Wish, find

    if name is None:
        _print_known(as_json=json)
        return
    console = Console(quiet)
    settings = load(given(offline=offline or None, models_folder=models_folder, adapters=adapters)).settings
    offer = find(Wish(name, revision, into, save_as, sha256.lower(), allow_pickle), settings)
    if offer.here:
        console.line(f"{offer.origin} is on this machine already")
    else:
        _describe(offer, console)
        _ask(offer, yes=yes)
    with _progress(quiet=quiet) as progress:
        path = offer.take(progress, console.line)
    found = description.of_hub(offer.origin) if path.is_dir() else description.of_path(path)
    if json:
        place = {"path": str(path), "revision": offer.revision or None, "bytes": found.size, "sha256": found.hash}
        print(json_line({"name": name, "origin": offer.origin, "license": offer.license or None, **place}), flush=True)
    else:
        print(one_line(offer.origin if path.is_dir() else str(path)), flush=True)
    if found.problem:
        console.line(f"sdcli cannot use it: {found.problem}")
    elif command := found.command(places.base_of(found, settings)):
        console.line(f"to use it: {command}")


def _print_known(*, as_json: bool) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from sdcli.inventory import known

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("Name", "Size", "Licence", "What it is"):
        table.add_column(title, overflow="fold", justify="right" if title == "Size" else "left")
    for entry in known.by_name().values():
        columns = (entry.name, in_bytes(entry.bytes), entry.license, entry.title)
        if as_json:
            print(json_line(entry.model_dump(by_alias=True)))
        elif sys.stdout.isatty():
            table.add_row(*columns)
        else:
            print("\t".join(columns))
    if not as_json and sys.stdout.isatty():
        RichConsole(highlight=False, markup=False).print(table)


def _describe(offer: Offer, console: Console) -> None:
    size = "an unknown size" if offer.size is None else in_bytes(offer.size)
    console.line(f"{offer.title}: {size}, licence {offer.license or 'not known'}")
    at = f" at {offer.revision}" if offer.revision and offer.revision not in offer.origin else ""
    console.line(f"from {offer.origin}{at}\nto {offer.target}")


def _ask(offer: Offer, *, yes: bool) -> None:
    """Ask whether to download it.

    Raises:
        UsageError: nobody can be asked.
        typer.Exit: the answer is no.
    """
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"nobody can be asked whether to download {offer.title}", fix="Pass --yes to download it.")
    print("sdcli: Download it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        raise typer.Exit(EXIT_NO)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, elsewhere lines at most every five seconds."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bars:
            task = bars.add_task("", visible=False)
            yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)
    else:
        last = time.monotonic()

        def show(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                of = f" of {in_bytes(total)}" if total else ""
                Console().line(f"{in_bytes(done)}{of}")

        yield show
