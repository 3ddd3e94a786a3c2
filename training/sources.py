"""The npm packages that contain the drawings, one per style, and how to find the drawing of an emoji in each."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

EDGE = 320
"""Edge in pixels at which SVG drawings are rasterised: larger than any image, so that resizing only shrinks."""

LABELS = ("emojibase-data", "17.0.0")


@dataclass(frozen=True)
class Source:
    """An npm package of drawings.

    Attributes:
        find: maps the unpacked folder and a hexcode to an RGBA image, or None if the package does not have the emoji.
    """

    package: str
    version: str
    licence: str
    find: Callable[[Path, str], Image.Image | None]


def package_folder(data: Path, name: str, version: str) -> Path:
    """Folder of an unpacked npm package: `scope-name-1.0/package` for `@scope/name` 1.0, like `npm pack`."""
    return data / f"{name.lstrip('@').replace('/', '-')}-{version}" / "package"


def download(data: Path) -> None:
    """Downloads and unpacks all packages that are missing, from the registry that npm is configured for."""
    data.mkdir(parents=True, exist_ok=True)
    for name, version in [LABELS, *((source.package, source.version) for source in STYLES.values())]:
        folder = package_folder(data, name, version).parent
        if not folder.exists():
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=data, check=True)
            shutil.unpack_archive(data / f"{folder.name}.tgz", folder, filter="data")


def _spellings(hexcode: str) -> tuple[str, ...]:
    """File names to try: packages disagree on whether the variation selector belongs to the name."""
    code = hexcode.lower()
    return code, f"{code}-fe0f", code.replace("-fe0f", "")


def _rasterised(svg: str) -> Image.Image:
    import resvg_py

    with Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=EDGE, height=EDGE)))) as image:
        return image.convert("RGBA")


def _webp(folder: Path, hexcode: str) -> Image.Image | None:
    for name in _spellings(hexcode):
        if (path := folder / "assets" / f"{name}.webp").exists():
            with Image.open(path) as image:
                return image.convert("RGBA")
    return None


def _svg(folder: Path, hexcode: str) -> Image.Image | None:
    for name in _spellings(hexcode):
        if (path := folder / "assets" / f"{name}.svg").exists():
            return _rasterised(path.read_text("utf-8"))
    return None


@cache
def _iconify_set(folder: Path) -> tuple[dict[str, str], dict[str, str], int]:
    icons = json.loads((folder / "icons.json").read_text("utf-8"))
    names = json.loads((folder / "chars.json").read_text("utf-8"))
    return names, {name: icon["body"] for name, icon in icons["icons"].items()}, icons["width"]


def _iconify(folder: Path, hexcode: str) -> Image.Image | None:
    names, bodies, width = _iconify_set(folder)
    for name in _spellings(hexcode):
        if (body := bodies.get(names.get(name, ""))) is not None:
            return _rasterised(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {width}">{body}</svg>')
    return None


STYLES: dict[str, Source] = {
    "3d": Source("@lobehub/fluent-emoji-3d", "1.1.0", "MIT", _webp),
    "flat": Source("@lobehub/fluent-emoji-flat", "1.1.0", "MIT", _svg),
    "outlined": Source("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT", _iconify),
}
"""Style -> its drawings. "outlined" drawings have a black ink; `icons.inked` changes it on dark backgrounds."""
