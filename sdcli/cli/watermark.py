"""`sdcli watermark`: read invisible watermarks, or write them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sdcli import signals
from sdcli.cli.console import Console
from sdcli.cli.options import Debug, JsonLines, Quiet
from sdcli.errors import EXIT_NO, OutputError, UsageError
from sdcli.json_text import read_object
from sdcli.outputs.files import cannot_write, write_new
from sdcli.registry import WATERMARK_METHODS
from sdcli.settings import default
from sdcli.terminal import json_line, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from sdcli.records import ImageRecord, WatermarkRecord
    from sdcli.stages.watermark import ReadBack

_DEFAULT_TEXT: str = default("watermark")
_WRITING = "Writing"


def watermark(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF files.")
    ],
    expect: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The text to look for; by default that of the image's record."),
    ] = None,
    json: JsonLines = False,
    quiet: Quiet = False,
    debug: Debug = False,
    add: Annotated[
        bool,
        typer.Option(
            "--add", metavar="", help="Write a watermark into a copy of each image.", rich_help_panel=_WRITING
        ),
    ] = False,
    text: Annotated[
        str | None,
        typer.Option(
            "--watermark",
            metavar="TEXT",
            help=f"The text to write; by default {_DEFAULT_TEXT}.",
            rich_help_panel=_WRITING,
        ),
    ] = None,
    method: Annotated[
        Literal[("auto", *WATERMARK_METHODS)] | None,  # type: ignore[valid-type]
        typer.Option(
            "--watermark-method",
            metavar="NAME",
            help=f"Method; auto is robust. One of: auto, {', '.join(WATERMARK_METHODS)}.",
            rich_help_panel=_WRITING,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER|FILE",
            help="Where the copies go: by default NAME.marked.png beside each image, in another folder NAME.png. "
            "Never overwrites a file.",
            rich_help_panel=_WRITING,
        ),
    ] = None,
) -> None:
    """Read the invisible watermark of images, or write one.

    Exit code 0: every image has the watermark; 1: one does not; 3: one cannot be read.

    [bold]Examples[/]

      [cyan]sdcli watermark outputs/txt2img-samples/samples/*.png[/]

      [cyan]sdcli watermark photo.jpg --expect "our studio"[/]

      [cyan]sdcli watermark --add --watermark "our studio" photo.jpg -o marked/[/]
    """
    from sdcli.stages.watermark import require_text

    report = _Report(as_json=json, console=Console(quiet))
    if add and expect is not None:
        raise UsageError("--expect is for reading, and --add writes", fix="Pass the text to write with --watermark.")
    of_add = {"--watermark": text, "--watermark-method": method, "--output": output}
    if not add and (idle := [flag for flag, value in of_add.items() if value is not None]):
        raise UsageError(f"{' and '.join(idle)} needs --add", fix="Pass --add to write, or --expect TEXT to read.")
    to_write = _DEFAULT_TEXT if text is None else text
    require_text(to_write if expect is None else expect)
    if add:
        signals.raise_stopped()  # so that no incomplete file stays
        targets = iter(_targets(images, output))
        code = report.console.each(
            images, lambda path: 0 if _add(path, next(targets), to_write, method or "auto", report) else EXIT_NO
        )
    else:
        code = report.console.each(images, lambda path: 0 if _look(path, expect, report) else EXIT_NO)
    raise typer.Exit(code)


@dataclasses.dataclass(frozen=True)
class _Report:
    """Prints a line for each image on standard output, as text or JSON; the rest goes to standard error."""

    as_json: bool
    console: Console

    def line(self, words: str, values: dict[str, Any]) -> None:
        print(json_line(values) if self.as_json else one_line(words), flush=True)


def _look(path: Path, expect: str | None, report: _Report) -> bool:
    """Whether the image has the watermark: the expected one, that of its record, or the default."""
    from sdcli.outputs.formats import opened, rgb
    from sdcli.stages.watermark import require_text, search

    with opened(path) as image:
        pixels = rgb(image)
        recorded = _mark_of(_record(image))
    text = (recorded.text if recorded else _DEFAULT_TEXT) if expect is None else expect
    require_text(text)
    back = search(pixels, text, likely=recorded.method if recorded else "")
    found = back is not None and back.found
    report.line(f"{path}: {_in_words(back, text)}", {"file": str(path), **_values(back, text)})
    if not found and expect is None and not recorded:
        report.console.line(
            f"{path} has no record of a watermark, so the default {_DEFAULT_TEXT!r} was looked for; "
            "pass another text with --expect"
        )
    return found


def _add(source: Path, target: Path, text: str, method: str, report: _Report) -> bool:
    """Write a copy with the watermark; returns whether it can be read back."""
    from sdcli.outputs.formats import opened, rgb
    from sdcli.records import WatermarkRecord
    from sdcli.stages.watermark import check, choose, write

    with opened(source) as image:
        pixels = rgb(image)
        mark = choose(method, "robust", pixels.shape[0], pixels.shape[1], text)
        marked = write(pixels, mark)
        back = check(marked, mark)
        data = _png(marked, image, WatermarkRecord(**dataclasses.asdict(back)))
    _save(data, target)
    report.line(str(target), {"file": str(target), **_values(back, text)})
    if not back.found:
        report.console.line(
            f"{target}: the watermark cannot be read back: {back.wrong_bits} of {back.bits} bits are wrong"
        )
    return back.found


def _in_words(back: ReadBack | None, text: str) -> str:
    if back is None:
        return f"too small for {text!r}"
    reading = f"({back.method}, {back.wrong_bits} of {back.bits} bits wrong)"
    return f"found {text!r} {reading}" if back.found else f"no {text!r}; the best match is noise {reading}"


def _values(back: ReadBack | None, text: str) -> dict[str, Any]:
    if back is not None:
        return dataclasses.asdict(back)
    bits = len(text.encode()) * 8
    return {"text": text, "method": None, "found": False, "wrong_bits": None, "bits": bits}


def _record(image: Image.Image) -> ImageRecord:
    """The record of the image; an empty one if it has none."""
    from sdcli.metadata import record_in, texts
    from sdcli.records import ImageRecord

    record = record_in(texts.read(image))
    return record if isinstance(record, ImageRecord) else ImageRecord()


def _mark_of(record: ImageRecord) -> WatermarkRecord | None:
    return record.watermark if record.watermark and record.watermark.text else None


def _png(pixels: NDArray[np.uint8], original: Image.Image, mark: WatermarkRecord) -> bytes:
    """A PNG of the pixels with the original's text, color profile, EXIF, resolution and transparency.

    Its record has the new watermark, so it can be read without --expect.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo, iTXt

    from sdcli.metadata import texts
    from sdcli.outputs.formats import alpha, rgb_profile

    image = Image.fromarray(pixels)
    if (transparency := alpha(original)) is not None:
        image.putalpha(transparency)
    chunks = PngInfo()
    # As it stands, because a newer version may have written it.
    record = (read_object(texts.read(original).get(texts.RECORD_KEY, "")) or {}) | {"watermark": mark.values()}
    chunks.add_itxt(texts.RECORD_KEY, json_line(record))
    for key, value in getattr(original, "text", {}).items():
        if key == texts.RECORD_KEY:
            continue
        if isinstance(value, iTXt):
            chunks.add_itxt(key, value, value.lang or "", value.tkey or "")
        else:
            chunks.add_text(key, value)
    kept = {key: original.info[key] for key in ("exif", "dpi") if key in original.info}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks, icc_profile=rgb_profile(original), **kept)
    return buffer.getvalue()


def _targets(images: list[Path], output: str | None) -> list[Path]:
    """The path of each copy.

    Raises:
        UsageError: one file for several images, or a file that is not PNG.
        OutputError: the folder cannot be created.
    """
    if output is None:
        return [path.with_name(f"{path.stem}.marked.png") for path in images]
    # Without a suffix it is a folder, whether or not it exists.
    target = Path(output)
    if target.suffix and not target.is_dir() and not output.endswith(("/", "\\")):
        if len(images) > 1:
            raise UsageError(
                f"{len(images)} images do not fit into the one file {output}",
                fix="Pass a folder with --output, ending in /.",
            )
        if target.suffix.lower() != ".png":
            raise UsageError(
                f"{output} is not a PNG file",
                why="Other formats may destroy the watermark.",
                fix="Pass a .png file, or a folder.",
            )
        return [target]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(target, error, "--output") from error
    # In the image's own folder the name is taken, so there it is the same as without --output.
    inside = (path.absolute().parent.resolve() == target.resolve() for path in images)
    return [
        target / (f"{path.stem}.marked.png" if same else f"{path.stem}.png")
        for path, same in zip(images, inside, strict=True)
    ]


def _save(data: bytes, target: Path) -> None:
    """Write a new file, whole or not at all.

    Raises:
        OutputError: it already exists, or cannot be written.
    """
    try:
        write_new(target, data)
    except FileExistsError as error:
        raise OutputError(f"{target} already exists", fix="Move it, or pass another name with --output.") from error
    except OSError as error:
        raise cannot_write(target, error, "--output") from error
