"""What a person sees: bars on a terminal, plain lines off it, all on standard error. Standard output is data only."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sdcli.errors import OutputError
from sdcli.events import Watch
from sdcli.terminal import json_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 5.0


class Console:
    """Words for people, on standard error; rich where it is a terminal, plain lines where it is not."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def error(self, what: str, why: str = "", fix: str = "") -> None:
        """What failed, why, what to do; said even when quiet."""
        from rich.console import Console as RichConsole
        from rich.text import Text

        rich = RichConsole(stderr=True, soft_wrap=True, highlight=False)
        rich.print(Text.assemble(("sdcli: ", "bold red"), printable(what)))
        for line in (why, fix):
            if line:
                rich.print(Text(f"  {printable(line)}"))

    def line(self, text: str) -> None:
        if not self.quiet:
            print(f"sdcli: {printable(text)}", file=sys.stderr, flush=True)

    def indented(self, text: str) -> None:
        """A line that belongs to what standard output has just said."""
        if not self.quiet:
            print(f"  {printable(text)}", file=sys.stderr, flush=True)


class RunConsole(Watch):
    """Tells a run: each saved path on standard output at once, the rest on standard error.

    Args:
        quiet: nothing on standard error but errors.
        as_json: JSON Lines on standard output instead of paths.
    """

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.console = Console(quiet)
        self.quiet = quiet
        self.as_json = as_json
        self.bars: Progress | None = None
        self.steps: TaskID | None = None
        self.images: TaskID | None = None
        self.done = self.batch = 0
        self.total: int | None = None
        self.evaluation = self.evaluations = 0
        self.said = 0.0

    def __enter__(self) -> RunConsole:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bars = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                TextColumn("{task.fields[count]:>9}"),
                TimeRemainingColumn(compact=True),
                console=RichConsole(stderr=True),
                # Paths on standard output pass beside the bars, also where both are the same terminal.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
                redirect_stderr=True,
                transient=True,
            )
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def planned(self, images: int | None, model: str, compute: str) -> None:
        self.total = images
        count = "images" if images is None else "1 image" if images == 1 else f"{images} images"
        self.console.line(f"{count} to draw with {model} on {compute}")
        if self.bars is not None:
            self.steps = self.bars.add_task("loading", total=None, count="")

    def loading(self, part: str) -> None:
        if self.bars is not None and self.steps is not None:
            self.bars.update(self.steps, description=part[:16])
        else:
            self._now_and_then(f"loading {part}")

    def drawing(self, images: int, evaluations: int) -> None:
        self.evaluation, self.evaluations = 0, evaluations
        self.batch = images
        if self.bars is not None and self.steps is not None:
            self.bars.reset(self.steps, total=evaluations, description="steps", count=f"0/{evaluations}")
            if self.images is None:
                self.images = self.bars.add_task("images", total=self.total, count=self._count())

    def step(self) -> None:
        self.evaluation += 1
        if self.bars is None or self.steps is None or self.images is None:
            of = "" if self.total is None else f" of {self.total}"
            self._now_and_then(f"image {self.done + 1}{of}, step {self.evaluation} of {self.evaluations}")
            return
        self.bars.update(self.steps, advance=1, count=f"{self.evaluation}/{self.evaluations}")
        # In parts of an image, so that the time left is known from the first step on.
        part = self.batch * self.evaluation / self.evaluations
        self.bars.update(self.images, completed=self.done + part)

    def drawn(self, images: int) -> None:
        self.done += images
        if self.bars is not None and self.images is not None:
            self.bars.update(self.images, completed=self.done, count=self._count())

    def saved(self, path: Path, record: dict[str, Any]) -> None:
        with standard_output():
            print(json_line({"file": str(path), **record}) if self.as_json else path, flush=True)

    def output(self, data: bytes) -> None:
        with standard_output():
            if sys.stdout is None:
                raise OSError(errno.EBADF, "It is closed")
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def note(self, text: str) -> None:
        self.console.line(text)

    def _count(self) -> str:
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"

    def _now_and_then(self, text: str) -> None:
        """A plain line every few seconds, so that a log file tells the progress without drowning in it."""
        if time.monotonic() - self.said >= _SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            self.console.line(text)


@contextmanager
def standard_output() -> Iterator[None]:
    """A standard output that cannot be written is an error that a person can act on; one that nobody reads is not."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            "cannot write to standard output", why=f"{error.strerror}.", fix="What was saved is kept."
        ) from error
