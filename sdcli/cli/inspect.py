"""`sdcli inspect`: show how images were generated, by sdcli or another tool."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdcli.cli.console import Console
from sdcli.cli.options import Debug, JsonLines, Quiet
from sdcli.errors import EXIT_NO, InputFileError, ModelError, UsageError
from sdcli.registry import WATERMARK_METHODS
from sdcli.sampler_names import SCHEDULES, sampler_title
from sdcli.settings import default, names, options
from sdcli.terminal import json_line, one_line, printable, shortened

if TYPE_CHECKING:
    from sdcli import rerun
    from sdcli.records import ImageRecord, SafetyRecord, WatermarkRecord

_LONGEST, _LONGEST_MARK = 400, 80
"""Characters of another tool's value, and of a watermark, in the table; the JSON contains all of it."""
_MOST_PIXELS = 2**23
"""Of an image from which the watermark is read. For more it takes many seconds and much memory."""


def inspect(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF files.")
    ],
    command: Annotated[
        bool,
        typer.Option("--command", metavar="", help="Print only the shell command that generates each image again."),
    ] = False,
    json: JsonLines = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show how images were generated.

    Reads the metadata of sdcli, AUTOMATIC1111's web UI and its forks, ComfyUI,
    InvokeAI, SwarmUI, Fooocus, NovelAI, Draw Things, Easy Diffusion,
    stable-diffusion.cpp and Civitai.
    Reads the watermark that sdcli's record names from the pixels; nothing else
    needs them.

    Exit code 0: every image says how it was generated; 1: one does not;
    3: one cannot be read.

    [bold]Examples[/]

      [cyan]sdcli inspect outputs/txt2img-samples/samples/00000.png[/]

      [cyan]sdcli inspect --command image.jpg[/]

      [cyan]sdcli inspect --json *.png | jq -r .settings.prompt[/]
    """
    if command and json:
        raise UsageError("--command and --json contradict each other", fix="Pass one of them.")
    console = Console(quiet)
    from sdcli import rerun

    def show(path: Path) -> int:
        source = rerun.read(path)
        if command:
            return _print_command(source, console)
        if json:
            print(json_line(_values(source)), flush=True)
        else:
            _print_table(source)
        return EXIT_NO if source.provenance is None else 0

    raise typer.Exit(console.each(images, show))


def _print_command(source: rerun.Source, console: Console) -> int:
    """Print the command, and what it leaves out; returns the exit code."""
    from sdcli import rerun

    try:
        print(rerun.command(source), flush=True)
    except InputFileError as error:
        console.error(error.what, error.why, error.fix)
        return error.exit_code if source.provenance and source.provenance.settings else EXIT_NO
    if source.provenance is not None and source.provenance.record is None:
        for note in (*source.provenance.notes, *rerun.nearest(source.provenance)[1]):
            console.line(f"{source.path}: {note}")
    return 0


def _values(source: rerun.Source) -> dict[str, Any]:
    """An image as a JSON object."""
    from sdcli.metadata.provenance import needed

    found = source.provenance
    width, height = source.size
    mark, not_read = _watermark(source)
    return {
        "file": str(source.path),
        "format": source.format,
        "width": width,
        "height": height,
        "tool": found.tool if found else None,
        "version": found.version if found else None,
        "settings": found.settings if found else {},
        "unknown": found.unknown if found else needed(),
        "other": found.other if found else {},
        "notes": [*(found.notes if found else ()), *not_read],
        "watermark": mark,
        "record": found.record.values() if found and found.record else None,
    }


def _watermark(source: rerun.Source) -> tuple[dict[str, Any] | None, list[str]]:
    """How the watermark of the record reads from the pixels now, and why it is not read.

    None without a reason, if the record has no watermark or it cannot be in such an image.
    """
    from sdcli.stages.watermark import Mark, check

    mark = source.record.watermark if source.record else None
    if mark is None or not mark.text or mark.method not in WATERMARK_METHODS:
        return None, []
    width, height = source.size
    if width * height > _MOST_PIXELS:
        return None, [f"the watermark is not read, because the image has more than {_MOST_PIXELS:,} pixels"]
    try:
        return dataclasses.asdict(check(source.pixels, Mark(mark.text, mark.method))), []
    except InputFileError as error:
        return None, [f"the watermark is not read, because the pixels cannot be decoded: {error.why.rstrip('.')}"]
    except (ValueError, ModelError):  # it does not fit into such an image, or OpenCV cannot be loaded
        return None, []


def _print_table(source: rerun.Source) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(source):
        # Text, not a string: brackets in a prompt are no markup.
        table.add_row(Text(one_line(name)), Text(printable(value)))
    console = RichConsole(highlight=False)
    console.print(Text(one_line(str(source.path)), style="bold cyan"), soft_wrap=True)
    console.print(table)
    console.print()


def _rows(source: rerun.Source) -> Iterator[tuple[str, str]]:
    from sdcli.records import GridRecord, ImageRecord

    width, height = source.size
    yield "File", f"{source.format}, {width} x {height} pixels, {source.path.stat().st_size:,} bytes"
    found = source.provenance
    if found is None:
        yield "Generated by", "unknown: the file has no metadata about it"
        return
    settings, record = found.settings, found.record
    yield "Generated by", f"{found.tool} {found.version}".strip()
    if isinstance(record, GridRecord):
        yield "Grid", "of the images of one run; the rows below describe the first of them"
    for name, label in (("prompt", "Prompt"), ("negative_prompt", "Negative prompt")):
        if settings.get(name):
            yield label, settings[name]
    if isinstance(record, ImageRecord):
        yield from _reading(record)
    if isinstance(record, ImageRecord) and record.words_cut:
        yield "Ignored", f"{record.words_cut} (longer than the model reads)"
    yield from _sampling(source)
    if "model" in settings:
        yield "Model", settings["model"]
    if settings.get("model_hash"):
        yield "Model hash", settings["model_hash"][:16]
    if isinstance(record, ImageRecord):
        if record.device is not None:
            yield "Computed", f"on {record.device}, precision {record.precision}"
        if "safety" in record.model_fields_set:
            yield "Safety", _safety_in_words(record.safety)
    if record is not None and "watermark" in record.model_fields_set:
        yield from _watermark_rows(source, record.watermark)
    # The other stages of the run.
    for name, value in (record.model_extra or {}).items() if record is not None else ():
        yield name.replace("_", " ").capitalize(), value if isinstance(value, str) else json_line(value)
    for name, value in found.other.items():
        text = str(value)
        yield name, text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"
    for note in found.notes:
        yield "Note", note
    if found.unknown:
        yield "Unknown", ", ".join(name.replace("_", " ") for name in found.unknown)


def _reading(record: ImageRecord) -> Iterator[tuple[str, str]]:
    """How the model's vocabulary read the prompt."""
    if record.job is not None and record.job.read_as is not None:
        yield "Read as", record.job.read_as
    for word, name in record.reading.taken.items():
        yield "Drawn as", f"{word}: {name}"
    if record.reading.unknown:
        yield "Not known", ", ".join(record.reading.unknown)
    if record.reading.not_obeyed:
        yield "Not obeyed", ", ".join(record.reading.not_obeyed)


def _sampling(source: rerun.Source) -> Iterator[tuple[str, str]]:
    from sdcli.records import ImageRecord

    settings = source.provenance.settings if source.provenance else {}
    if "seed" in settings:
        generator = {"cuda": ", random numbers of CUDA", "cpu": ", random numbers of the CPU"}
        yield "Seed", f"{settings['seed']}{generator.get(settings.get('rng', ''), '')}"
    job = source.job
    if job is not None and isinstance(source.record, ImageRecord) and (job.noise.rows > 1 or job.index):
        yield "Place", f"image {job.index + 1} of its run, {job.noise.row + 1} of {job.noise.rows} in its batch"
    if "steps" in settings:
        yield "Steps", str(settings["steps"])
    if "sampler" in settings:
        name = settings["sampler"]
        eta = f", eta {settings['eta']:g}" if settings.get("eta") else ""
        known = name in options()["sampler"].choices
        yield "Sampler", f"{sampler_title(name)}{eta}" if known else f"{name}{eta} (sdcli does not have it)"
    if (schedule := settings.get("schedule", default("schedule"))) != default("schedule"):
        yield "Schedule", schedule if schedule in SCHEDULES else f"{schedule} (sdcli does not have it)"
    if "scale" in settings:
        yield "Guidance scale", f"{settings['scale']:g}"
    if {"width", "height"} <= settings.keys():
        yield "Size", f"{settings['width']} x {settings['height']} pixels"
    shown = {"prompt", "negative_prompt", "seed", "rng", "steps", "sampler", "schedule", "eta", "scale", "width",
             "height"}  # fmt: skip
    for name in names("image"):
        # The record names the precision that was used, see "Computed".
        if name not in {*shown, "precision"} and settings.get(name, default(name)) != default(name):
            value = settings[name]
            shown_value = ", ".join(value) if isinstance(value, list | tuple) else str(value)
            yield name.replace("_", " ").capitalize(), shown_value


def _safety_in_words(safety: SafetyRecord | None) -> str:
    if safety is None:
        return "not checked"
    scores = "".join(f", {name} {score}" for name, score in safety.scores.items())
    limit = "" if safety.threshold is None else f", limit {safety.threshold:g}"
    done = {"replace": ", replaced", "blur": ", blurred", "keep": ", kept"}.get(safety.done or "", "")
    return f"{'unsafe' if safety.flagged else 'safe'} by {safety.checker}{scores}{limit}{done}"


def _watermark_rows(source: rerun.Source, mark: WatermarkRecord | None) -> Iterator[tuple[str, str]]:
    if mark is None:
        yield "Watermark", "none"
        return
    then = f"{shortened(repr(mark.text), _LONGEST_MARK)} by {shortened(mark.method, _LONGEST_MARK)}"
    then = f"{then}; wrong bits of {mark.bits}: {mark.wrong_bits} when saved"
    now, not_read = _watermark(source)
    if now is None:
        yield "Watermark", f"{then}; it cannot be read now"
    else:
        yield "Watermark", f"{then}, {now['wrong_bits']} now{'' if now['found'] else ': not found'}"
    for note in not_read:
        yield "Note", note
