"""`sdcli models lock` and `sdcli models verify`: which files of models are used, and whether they changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdcli.cli import completion
from sdcli.cli.console import Console, plural
from sdcli.cli.options import Adapters, Debug, ModelsFolder, Quiet, given
from sdcli.configuration import load
from sdcli.errors import InputFileError, ModelError
from sdcli.terminal import in_bytes, json_line, one_line

_File = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="Lock file; default: models.lock.json.", show_default=False)
]


def lock(
    file: _File = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            show_default=False,
            autocompletion=completion.any_models,
            help="A model or an adapter, as sdcli models info takes it. Repeatable. Default: all in --models-folder "
            "and --adapters.",
        ),
    ] = None,
    update: Annotated[bool, typer.Option("--update", metavar="", help="Replace the file if it exists.")] = False,
    models_folder: ModelsFolder = None,
    adapters: Adapters = None,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON for each file that is locked.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a lock file: the files of models, with sizes, hashes and commits.

    sdcli models verify compares the files with it later, or elsewhere.

    [bold]Examples[/]

      [cyan]sdcli models lock[/]

      [cyan]sdcli models lock project.json --model dreamy --model CompVis/stable-diffusion-v1-4[/]
    """
    from sdcli.inventory import lock as locks

    settings = load(given(models_folder=models_folder, adapters=adapters)).settings
    path = file or Path(locks.NAME)
    locks.require_new(path, update=update)
    found = list(locks.files_of(model or [], settings, path.absolute().parent))
    if not found:
        raise ModelError(
            f"there are no models in {settings.models_folder} and {settings.adapters}",
            fix="Pass --models-folder, or name a model with --model.",
        )
    locks.write(found, path, update=update)
    for each in found if json else ():
        print(json_line(each.model_dump()))
    if not json:
        print(one_line(str(path)))
    total = in_bytes(sum(each.bytes for each in found))
    Console(quiet).line(f"{plural(len(found), 'file')}, {total}, in {path}")


def verify(
    file: _File = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Print one line of JSON for each file.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare the files of models with a lock file.

    Every file is read. Each has a line: ok, changed or missing, then its path.

    Exit code 4: a file is changed or missing; 3: there is no such lock file.

    [bold]Examples[/]

      [cyan]sdcli models verify[/]

      [cyan]sdcli models verify --json | jq -r 'select(.state != "ok") | .path'[/]
    """
    from sdcli.inventory import lock as locks

    path = file or Path(locks.NAME)
    content = locks.read(path)
    wrong = 0
    for checked in locks.check(content, path.absolute().parent):
        wrong += checked.state != "ok"
        locked = checked.file
        if json:
            print(json_line(locked.model_dump() | {"state": checked.state, "why": checked.why or None}), flush=True)
        else:
            at = f"{locked.model}@{locked.revision}/" if locked.model else ""
            why = f"\t{checked.why}" if checked.why else ""
            print(f"{checked.state}\t{one_line(f'{at}{locked.path}{why}')}", flush=True)
    if not content.files:
        raise InputFileError(f"{path} lists no files", fix="sdcli models lock writes one.")
    if wrong:
        raise ModelError(f"{wrong} of {plural(len(content.files), 'file')} in {path} changed or are missing")
    Console(quiet).line(f"{plural(len(content.files), 'file')} as in {path}")
