"""`sdcli watermark`: read invisible watermarks, or write them."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdcli.cli.console import Console
from sdcli.errors import EXIT_NO, InputFileError, OutputError, UsageError
from sdcli.metadata import record, texts
from sdcli.outputs.folder import cannot_write, claim, written_aside
from sdcli.outputs.formats import opened
from sdcli.settings import Settings, WatermarkMethod

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from sdcli.stages.watermark import ReadBack

_DEFAULT_TEXT: str = Settings.model_fields["watermark"].default
_WRITING = "Writing"


def watermark(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images in any format.")],
    expect: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The text to look for, if not the one that the image's record names."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each image on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on standard error but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Write a mark into a copy of each image.", rich_help_panel=_WRITING)
    ] = False,
    text: Annotated[
        str | None,
        typer.Option(
            "--watermark", metavar="TEXT", help=f"The text to write; {_DEFAULT_TEXT} if none.", rich_help_panel=_WRITING
        ),
    ] = None,
    method: Annotated[
        WatermarkMethod | None,
        typer.Option("--watermark-method", help="How to write it; auto is robust.", rich_help_panel=_WRITING),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER|FILE",
            help="Where the copies go; NAME.marked.png beside each image if not given. Never over a file.",
            rich_help_panel=_WRITING,
        ),
    ] = None,
) -> None:
    """Look for the invisible watermark in images, or write one.

    Exit code 0: every image carries the mark; 1: one does not; 3: one cannot be read.

    [bold]Examples[/]

      [cyan]sdcli watermark outputs/txt2img-samples/samples/*.png[/]

      [cyan]sdcli watermark photo.jpg --expect "our studio"[/]

      [cyan]sdcli watermark --add --watermark "our studio" photo.jpg -o marked/[/]
    """
    report = _Report(as_json=json, console=Console(quiet))
    if add and expect is not None:
        raise UsageError("--expect is for reading and --add writes", fix="Name the text to write with --watermark.")
    of_add = {"--watermark": text, "--watermark-method": method, "--output": output}
    if not add and (idle := [flag for flag, value in of_add.items() if value is not None]):
        raise UsageError(f"{' and '.join(idle)} without --add", fix="Add --add to write; --expect TEXT to read.")
    to_write = _DEFAULT_TEXT if text is None else text
    targets = _targets(images, output) if add else [None] * len(images)
    code = 0
    for path, target in zip(images, targets, strict=True):
        try:
            found = _add(path, target, to_write, method or "auto", report) if target else _look(path, expect, report)
        except InputFileError as error:  # the others may be good
            report.console.error(error.what, error.why, error.fix)
            code = max(code, error.exit_code)
        else:
            code = max(code, 0 if found else EXIT_NO)
    raise typer.Exit(code)


@dataclasses.dataclass(frozen=True)
class _Report:
    """What standard output gets: a line an image, for people or as JSON; the rest goes to standard error."""

    as_json: bool
    console: Console

    def line(self, words: str, values: dict[str, Any]) -> None:
        print(json.dumps(values, ensure_ascii=False) if self.as_json else words, flush=True)


def _look(path: Path, expect: str | None, report: _Report) -> bool:
    """Whether the image carries the mark: the expected one, the one its record names, or the default."""
    from sdcli.stages.watermark import require_text, search

    with opened(path) as image:
        pixels = _pixels(image)
        recorded = _mark_of(_record(image))
    text = recorded.get("text", _DEFAULT_TEXT) if expect is None else expect
    require_text(text)
    back = search(pixels, text, likely=recorded.get("method", ""))
    found = back is not None and back.found
    report.line(f"{path}: {_words(back, text)}", {"file": str(path), **_values(back, text)})
    if not found and expect is None and not recorded:
        report.console.line(
            f"{path} has no record of a mark, so {_DEFAULT_TEXT!r} was looked for; "
            "if it should carry another text, give it with --expect"
        )
    return found


def _add(source: Path, target: Path, text: str, method: str, report: _Report) -> bool:
    """Write a marked copy; whether the mark reads back from it."""
    from sdcli.stages.watermark import check, choose, write

    with opened(source) as image:
        pixels = _pixels(image)
        mark = choose(method, "robust", pixels.shape[0], pixels.shape[1], text)
        marked = write(pixels, mark)
        back = check(marked, mark)
        data = _png(marked, image, dataclasses.asdict(back))
    _save(data, target)
    report.line(str(target), {"file": str(target), **_values(back, text)})
    if not back.found:
        report.console.line(f"{target}: the mark does not read back: {back.wrong_bits} of {back.bits} bits are wrong")
    return back.found


def _words(back: ReadBack | None, text: str) -> str:
    if back is None:
        return f"too small to carry {text!r}"
    reading = f"({back.method}, {back.wrong_bits} of {back.bits} bits wrong)"
    return f"found {text!r} {reading}" if back.found else f"no {text!r}; the best reading is noise {reading}"


def _values(back: ReadBack | None, text: str) -> dict[str, Any]:
    if back is not None:
        return dataclasses.asdict(back)
    bits = len(text.encode()) * 8
    return {"text": text, "method": None, "found": False, "wrong_bits": None, "bits": bits}


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, 3), RGB. What lies under transparency counts: a mark may be there."""
    import numpy as np

    return np.asarray(image.convert("RGB"))


def _record(image: Image.Image) -> dict[str, Any]:
    """What sdcli wrote about the image when it drew it; empty if it did not."""
    return record.of(texts.read(image)) or {}


def _mark_of(record: dict[str, Any]) -> dict[str, str]:
    """Text and method of the mark that the record names; empty if it names none."""
    mark = record.get("watermark")
    if not isinstance(mark, dict) or not isinstance(mark.get("text"), str) or not mark["text"]:
        return {}
    return {"text": mark["text"], "method": str(mark.get("method", ""))}


def _png(pixels: NDArray[np.uint8], original: Image.Image, mark: dict[str, Any]) -> bytes:
    """A PNG of the marked pixels with the original's text, colour profile, EXIF and transparency.

    Its record names the new mark, so that reading it needs no --expect.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo, iTXt

    image = Image.fromarray(pixels)
    if original.has_transparency_data:
        image.putalpha(original.convert("RGBA").getchannel("A"))
    chunks = PngInfo()
    chunks.add_itxt(texts.RECORD_KEY, json.dumps(_record(original) | {"watermark": mark}, ensure_ascii=False))
    for key, value in getattr(original, "text", {}).items():
        if key == texts.RECORD_KEY:
            continue
        if isinstance(value, iTXt):
            chunks.add_itxt(key, value, value.lang or "", value.tkey or "")
        else:
            chunks.add_text(key, value)
    kept = {key: original.info[key] for key in ("icc_profile", "exif", "dpi") if key in original.info}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks, **kept)
    return buffer.getvalue()


def _targets(images: list[Path], output: str | None) -> list[Path]:
    """Where each marked copy goes.

    Raises:
        UsageError: one file for several images, or not a PNG file.
        OutputError: the folder cannot be made.
    """
    names = [f"{path.stem}.marked.png" for path in images]
    if output is None:
        return [path.with_name(name) for path, name in zip(images, names, strict=True)]
    # Without a file's ending it is a folder, there or not.
    target = Path(output)
    if target.suffix and not target.is_dir() and not output.endswith(("/", "\\")):
        if len(images) > 1:
            raise UsageError(
                f"{len(images)} images cannot all go to {output}", fix="Name a folder with --output, ending in /."
            )
        if target.suffix.lower() != ".png":
            raise UsageError(
                f"{output} is not a PNG file", why="Other formats may lose the mark.", fix="Name it .png, or a folder."
            )
        return [target]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(target, error, "--output") from error
    return [target / name for name in names]


def _save(data: bytes, target: Path) -> None:
    """Write a whole new file, or none.

    Raises:
        OutputError: there is one already, or it cannot be written.
    """
    try:
        with written_aside(data, target.parent) as aside:
            claim(aside, target)
    except FileExistsError as error:
        raise OutputError(f"{target} is there already", fix="Move it, or name another with --output.") from error
    except OSError as error:
        raise cannot_write(target, error, "--output") from error
