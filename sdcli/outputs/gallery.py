"""All images of a run on one web page: thumbnails and how each was made, in a single file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from sdcli.jobs import Job
from sdcli.outputs.command import command_line
from sdcli.outputs.folder import cannot_write
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.settings import Settings
from sdcli.version import VERSION

THUMBNAIL = 320
"""The longest side of a thumbnail, in pixels."""
_QUALITY = 80
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="sdcli {version}">
<title>{name} · {model}</title>
<style>{style}</style>
<script>{script}</script>
</head>
<body>
<header>
<div class="title">
<h1>{name}</h1>
<p>drawn by sdcli {version} with <span dir="auto">{model}</span></p>
</div>
<search class="filter">
<label for="filter">Filter</label>
<input id="filter" type="search" placeholder="words, a seed, a sampler …" autocomplete="off" spellcheck="false">
<output for="filter"></output>
</search>
</header>
<main>
<p class="unfinished">The run is still drawing, or was stopped: these are its images so far. Reload to see more.</p>
<p class="nothing" hidden>No image matches.</p>
<ul>
"""

_ENTRY = """<li>
{thumbnail}
<div class="info">
<p class="prompt" dir="auto">{prompt}</p>
{negative}<dl>
{facts}
{safety}
</dl>
</div>
<div class="command">
<button type="button">Copy command</button>
<details>
<summary>Command</summary>
<pre dir="ltr">{command}</pre>
</details>
</div>
</li>
"""

_FOOT = """</ul>
</main>
<footer>
<p>{count}</p>
</footer>
</body>
</html>
"""


class Gallery:
    """The page of a run, written as its images come.

    It grows by an entry an image. Browsers show a page that has not ended, so that of a stopped run tells what was
    drawn.

    Args:
        path: an empty file in OUTDIR, as `OutputFolder.new_gallery` makes it.
        settings: of the run.
        model: its name.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, settings: Settings, model: str) -> None:
        self.path = path
        self.settings = settings
        self.count = 0
        style, script = _asset("gallery.css"), _asset("gallery.js")
        # The page holds what others wrote, so the browser is told to run and load nothing but what is here.
        policy = (
            f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
            "base-uri 'none'; form-action 'none'"
        )
        self._append(
            _HEAD.format(
                policy=policy, version=VERSION, name=self.path.stem, model=_text(model), style=style, script=script
            )
        )

    def add(self, pixels: NDArray[np.uint8], job: Job, record: dict[str, Any], path: Path | None) -> None:
        """Add an image.

        Args:
            pixels: (height, width, 3), as it is saved.
            job: how it was drawn.
            record: what its file says of itself.
            path: where it is saved, in the gallery's folder or below; None if it is not.

        Raises:
            OutputError: it cannot be written.
        """
        self.count += 1
        name = str(self.count) if path is None else path.name
        facts = {
            "image": name,
            "seed": job.seed,
            "sampler": SAMPLERS[job.sampler].title,
            "steps": job.steps,
            "scale": f"{job.scale:g}",
            "size": f"{job.width} x {job.height}",
        }
        negative = f'<p class="negative" dir="auto">{_text(job.negative_prompt)}</p>\n' if job.negative_prompt else ""
        self._append(
            _ENTRY.format(
                thumbnail=self._thumbnail(pixels, name, path),
                prompt=_text(job.prompt),
                negative=negative,
                facts="\n".join(f"<div><dt>{key}</dt><dd>{_text(str(fact))}</dd></div>" for key, fact in facts.items()),
                safety=_safety(record.get("safety")),
                command=_text(command_line(job, self.settings)),
            )
        )

    def finish(self) -> None:
        """End the page: the run is done.

        Raises:
            OutputError: it cannot be written.
        """
        self._append(_FOOT.format(count="1 image" if self.count == 1 else f"{self.count} images"))

    def _thumbnail(self, pixels: NDArray[np.uint8], name: str, path: Path | None) -> str:
        """The image, small, as a link to its file if there is one."""
        from PIL import Image

        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        shown = (
            f'<img src="data:image/jpeg;base64,{data}" alt="image {_text(name)}" '
            f'width="{image.width}" height="{image.height}" decoding="async">'
        )
        if path is None:
            return shown
        link = quote(path.relative_to(self.path.parent).as_posix())
        return f'<a href="{link}">{shown}</a>'

    def _append(self, text: str) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(text.encode(errors="replace"))
        except OSError as error:
            raise cannot_write(self.path.parent, error, "--outdir") from error


def _asset(name: str) -> str:
    return resources.files("sdcli.outputs").joinpath(name).read_text("utf-8").strip()


def _digest(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(words: str) -> str:
    """Words as HTML takes them, also between quotes; control characters, which it does not take, as a sign."""
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", words)).replace("\r", "&#13;")


def _safety(verdict: dict[str, Any] | None) -> str:
    """What the safety checker found."""
    kind, words = "unchecked", "not checked"
    if verdict is not None:
        kind = "unsafe" if verdict["flagged"] else "safe"
        done = {"replace": ", replaced", "blur": ", blurred", "keep": ", kept", None: ""}[verdict["done"]]
        words = f"{kind} by {verdict['checker']}{done}"
    return f'<div class="{kind}"><dt>safety</dt><dd>{_text(words)}</dd></div>'
