"""Shows images: in the terminal, or in the system's viewer. What cannot be shown is a note, not an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_BLOCKS = 64
"""The width of an image of half blocks, each of which is one pixel wide."""


def terminal() -> Callable[[Path], None] | None:
    """A function that shows an image file in the terminal; None if this process has no terminal.

    Asks the terminal what it can show: Sixel (also iTerm2), the graphics protocol of kitty, otherwise half blocks.
    """
    streams = (sys.__stdin__, sys.__stdout__)
    if not all(stream is not None and stream.isatty() for stream in streams):
        return None
    from PIL import Image as Pillow
    from rich.console import Console
    from textual_image.renderable import HalfcellImage, Image

    def show(path: Path) -> None:
        console = Console()
        with Pillow.open(path) as image:
            # A cell of a terminal is about 8 pixels wide, and twice as high as wide.
            columns = _BLOCKS if Image is HalfcellImage else max(32, image.width // 8)
            fits = 2 * (console.height - 2) * image.width // image.height
            console.print(Image(image, width=max(1, min(columns, console.width, fits)), height="auto"))

    return show


def open_in_viewer(path: Path) -> str:
    """Open a file or a folder with the program that the system has for it, and do not wait for that program.

    Returns:
        Why it is not opened; "" if it is.
    """
    if sys.platform == "win32":
        os.startfile(path)
        return ""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if shutil.which(program) is None:
        return f"there is no program {program}"
    if program == "xdg-open" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no graphical display"
    try:
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            [program, path.absolute()], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError as error:
        return f"{program}: {error.strerror}"
    # Without a viewer of its own, the program is the viewer and runs until the user closes it.
    threading.Thread(target=process.wait, daemon=True).start()
    return ""
