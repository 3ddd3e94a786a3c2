"""`sdcli inspect`: what images say of how they were drawn, by whatever tool."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sdcli import rerun
from sdcli.cli.console import Console
from sdcli.errors import EXIT_NO, InputFileError, ModelError, UsageError
from sdcli.metadata.provenance import NEEDED
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.terminal import json_line, printable

_LONGEST = 400
"""Characters of a foreign value in the table; all of it is in the JSON."""


def inspect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG or WebP files.")],
    command: Annotated[
        bool, typer.Option("--command", help="The shell command that draws each image again, and nothing else.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each image on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on standard error but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Show what images say of how they were drawn.

    Reads what sdcli, AUTOMATIC1111's web UI, ComfyUI and InvokeAI write.
    The watermark that a record of sdcli's names is looked for in the pixels.

    Exit code 0: every image says how it was drawn; 1: one does not;
    3: one cannot be read.

    [bold]Examples[/]

      [cyan]sdcli inspect outputs/txt2img-samples/samples/00000.png[/]

      [cyan]sdcli inspect --command image.jpg[/]

      [cyan]sdcli inspect --json *.png | jq -r .settings.prompt[/]
    """
    if command and json:
        raise UsageError("--command and --json contradict each other", fix="Give one of the two.")
    console = Console(quiet)
    code = 0
    for path in images:
        try:
            source = rerun.read(path)
        except InputFileError as error:  # the others may be good
            console.error(error.what, error.why, error.fix)
            code = max(code, error.exit_code)
            continue
        if source.provenance is None or (command and not source.provenance.settings):
            code = max(code, EXIT_NO)
        if command:
            _print_command(source, console)
        elif json:
            print(json_line(_values(source)), flush=True)
        else:
            _print_table(source)
    raise typer.Exit(code)


def _print_command(source: rerun.Source, console: Console) -> None:
    try:
        print(rerun.command(source), flush=True)
    except InputFileError as error:
        console.error(error.what, error.why, error.fix)
        return
    if source.provenance is not None and source.provenance.record is None:
        for note in (*source.provenance.notes, *rerun.nearest(source.provenance)[1]):
            console.line(f"{source.path}: {note}")


def _values(source: rerun.Source) -> dict[str, Any]:
    """An image as JSON has it."""
    found = source.provenance
    height, width, _ = source.pixels.shape
    return {
        "file": str(source.path),
        "format": source.format,
        "width": width,
        "height": height,
        "tool": found.tool if found else None,
        "version": found.version if found else None,
        "settings": found.settings if found else {},
        "unknown": found.unknown if found else list(NEEDED),
        "other": found.other if found else {},
        "notes": found.notes if found else [],
        "watermark": _watermark(source),
        "record": found.record if found else None,
    }


def _watermark(source: rerun.Source) -> dict[str, Any] | None:
    """How the mark that the record names reads from the pixels now; None where it names none, or none can be read."""
    from sdcli.stages.watermark import METHODS, Mark, check

    mark = _fields(source, "watermark")
    text, method = mark.get("text"), mark.get("method")
    if not isinstance(text, str) or not text or method not in METHODS:
        return None
    try:
        return dataclasses.asdict(check(source.pixels, Mark(text, str(method))))
    except (ValueError, ModelError):  # it does not fit into such an image, or OpenCV is not here
        return None


def _print_table(source: rerun.Source) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(source):
        # Text, not a string: brackets in a prompt are no markup.
        table.add_row(name, Text(printable(value)))
    console = RichConsole(highlight=False)
    console.print(Text(printable(str(source.path)), style="bold cyan"), soft_wrap=True)
    console.print(table)
    console.print()


def _rows(source: rerun.Source) -> Iterator[tuple[str, str]]:
    height, width, _ = source.pixels.shape
    yield "File", f"{source.format}, {width} x {height} pixels, {source.path.stat().st_size:,} bytes"
    found = source.provenance
    if found is None:
        yield "Drawn by", "not known: it holds no metadata of how it was drawn"
        return
    settings, record = found.settings, found.record or {}
    yield "Drawn by", f"{found.tool} {found.version}".strip()
    if source.grid is not None:
        yield "Grid", "of the images of one run; below is the first of them"
    for name, label in (("prompt", "Prompt"), ("negative_prompt", "Negative prompt")):
        if settings.get(name):
            yield label, settings[name]
    if record.get("words_cut"):
        yield "Not drawn", f"{record['words_cut']} (longer than the model reads)"
    yield from _sampling(source)
    if "model" in settings:
        yield "Model", settings["model"]
    if settings.get("model_hash"):
        yield "Model hash", settings["model_hash"][:16]
    if "device" in record:
        yield "Computed", f"on {record['device']}, precision {record.get('precision')}"
    if "safety" in record:
        yield "Safety", _safety_words(_fields(source, "safety"))
    if "watermark" in record:
        yield "Watermark", _watermark_words(source)
    for name, value in found.other.items():
        words = str(value)
        yield name, words if len(words) <= _LONGEST else f"{words[:_LONGEST]}... ({len(words):,} characters)"
    for note in found.notes:
        yield "Note", note
    if found.unknown:
        yield "Not known", ", ".join(name.replace("_", " ") for name in found.unknown)


def _sampling(source: rerun.Source) -> Iterator[tuple[str, str]]:
    settings = source.provenance.settings if source.provenance else {}
    if "seed" in settings:
        whose = {"cuda": ", noise of a CUDA card", "cpu": ", noise of a CPU"}.get(settings.get("rng", ""), "")
        yield "Seed", f"{settings['seed']}{whose}"
    job = source.job
    if job is not None and source.grid is None and (job.noise.rows > 1 or job.index):
        yield "Place", f"image {job.index + 1} of its run, {job.noise.row + 1} of {job.noise.rows} in its batch"
    if "steps" in settings:
        yield "Steps", str(settings["steps"])
    if "sampler" in settings:
        own = SAMPLERS.get(settings["sampler"])
        eta = f", eta {settings['eta']:g}" if settings.get("eta") else ""
        yield "Sampler", f"{own.title}{eta}" if own else f"{settings['sampler']}{eta} (sdcli has no such sampler)"
    if "scale" in settings:
        yield "Guidance scale", f"{settings['scale']:g}"
    if {"width", "height"} <= settings.keys():
        yield "Size", f"{settings['width']} x {settings['height']} pixels"


def _safety_words(safety: Mapping[str, Any]) -> str:
    if not safety:
        return "not checked"
    scores = safety.get("scores")
    told = "".join(f", {name} {score}" for name, score in scores.items()) if isinstance(scores, dict) else ""
    done = {"replace": "replaced", "blur": "blurred", "keep": "kept"}.get(str(safety.get("done")), "")
    verdict = f"unsafe, {done}" if safety.get("flagged") else "safe"
    return f"{verdict} by {safety.get('checker')}{told}"


def _watermark_words(source: rerun.Source) -> str:
    mark = _fields(source, "watermark")
    if not mark:
        return "none"
    then = (
        f"{mark.get('text')!r} by {mark.get('method')}; wrong bits of {mark.get('bits')}: {mark.get('wrong_bits')} then"
    )
    now = _watermark(source)
    if now is None:
        return f"{then}, and now it cannot be read"
    return f"{then}, {now['wrong_bits']} now{'' if now['found'] else ': not found'}"


def _fields(source: rerun.Source, part: str) -> Mapping[str, Any]:
    """A part of the record; empty if there is none."""
    value = (source.provenance.record or {}).get(part) if source.provenance else None
    return value if isinstance(value, dict) else {}
