"""What tests check in an output folder, and Python code (`before=`) that stops or watches a run at a certain place.

The code hooks into libraries and the interpreter, not into sdcli: it does not depend on how sdcli does its work.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def prompts(count: int) -> list[str]:
    return [f"a {('red', 'green', 'blue')[n % 3]} {('apple', 'star', 'house', 'fish')[n % 4]}" for n in range(count)]


def lines(outdir: Path, name: str = "run-0000.jsonl") -> list[dict[str, Any]]:
    """The lines of a journal, each of which has to be complete."""
    data = (outdir / name).read_bytes()
    assert data.endswith(b"\n"), "the journal ends in the middle of a line"
    return [json.loads(line) for line in data.splitlines()]


def visible(outdir: Path) -> list[Path]:
    """All images in the folder."""
    return sorted(path for path in outdir.rglob("*.png") if not path.name.startswith("."))


def hidden(outdir: Path) -> list[Path]:
    """Files that a run has begun to write and not named."""
    return [path for path in outdir.rglob(".*") if path.name != ".sdcli-lock"]


def check_outdir(outdir: Path, *, journals: Sequence[str] = ("run-0000.jsonl",)) -> dict[str, dict[str, Any]]:
    """Check that files and journals agree and every file is complete.

    Returns:
        The last line of each key.
    """
    assert sorted(path.name for path in outdir.glob("run-*.jsonl")) == sorted(journals)
    last: dict[str, dict[str, Any]] = {}
    for name in journals:
        last |= {line["key"]: line for line in lines(outdir, name) if "key" in line}
    files = [line["file"] for line in last.values() if line.get("file")]
    assert len(files) == len(set(files)), "two images have one name"
    assert sorted(files) == [path.relative_to(outdir).as_posix() for path in visible(outdir)]
    for line in last.values():
        if line.get("file"):
            path = outdir / line["file"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"], path
            opened(path)
    assert hidden(outdir) == []
    return last


def opened(path: Path) -> Image.Image:
    """A complete image, read; the file is closed."""
    with Image.open(path) as image:
        image.load()
        return image


def samples(outdir: Path) -> dict[str, bytes]:
    """The bytes of the single images by name."""
    return {path.name: path.read_bytes() for path in (outdir / "samples").rglob("*.png")}


LOADED = 99
NO_MODEL = f"""
import os
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
UNet2DConditionModel.__new__ = lambda *_, **__: os._exit({LOADED})
"""
"""Ends the run with code `LOADED` if it loads the model."""


def pause_at(batch: int) -> str:
    """Code that stops a run with `--steps 1` while it generates a batch, counted from 1.

    The run creates the file `paused` in its working folder and continues when there is a file `continue`.
    """
    return f"""
import os, time
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
forward = UNet2DConditionModel.forward
calls = 0
def pausing_forward(*arguments, **named):
    global calls
    calls += 1
    if calls == {batch}:
        open("paused", "x").close()
        while not os.path.exists("continue"):
            time.sleep(0.005)
    return forward(*arguments, **named)
UNet2DConditionModel.forward = pausing_forward
"""


_ON_FILE_EVENT = """
import os, signal, sys
outdir = os.path.abspath({outdir!r})
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
count = 0
def on_event(event, arguments):
    global count
    if event == "open":
        path, _, flags = arguments
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in ("os.link", "os.rename"):
        path = arguments[1]
    elif event in ("os.mkdir", "os.remove", "os.truncate"):
        path = arguments[0]
    else:
        return
    if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(outdir):
        return
    {action}
sys.addaudithook(on_event)
"""


def log_file_events(outdir: str) -> str:
    """Code that writes the events by which a run changes files below `outdir` to the file `events`, one a line."""
    action = 'os.write(log, f"{event} {os.fsdecode(path)}\\n".encode())'
    return _ON_FILE_EVENT.format(outdir=outdir, log="events", action=action)


def kill_at(number: int, *, outdir: str, kinds: Sequence[str] = (), seconds: float = 0) -> str:
    """Code that kills the run, which nothing can catch, before it changes files for the n-th time.

    Args:
        number: counted from 1.
        outdir: where changes count.
        kinds: the kinds of changes that count; by default all.
        seconds: kill it so long after that moment; the signal is then SIGALRM.
    """
    kill = f"signal.setitimer(signal.ITIMER_REAL, {seconds})" if seconds else "os.kill(os.getpid(), signal.SIGKILL)"
    action = f"count += {f'event in {tuple(kinds)!r}' if kinds else 1}\n    if count == {number}: {kill}"
    return _ON_FILE_EVENT.format(outdir=outdir, log=os.devnull, action=action)
