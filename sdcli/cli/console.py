"""What the user sees: progress bars on a terminal, plain lines elsewhere, all on standard error. Standard output is for
data."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from sdcli.errors import OutputError
from sdcli.events import BatchDone, BatchStarted, Event, Loading, Note, Output, Saved, Started, StepDone
from sdcli.terminal import json_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 5.0


class Console:
    """Messages on standard error: with colors on a terminal, plain elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def error(self, what: str, why: str = "", fix: str = "") -> None:
        """Print what failed, why, and what to do, also with --quiet."""
        from rich.console import Console as RichConsole
        from rich.text import Text

        rich = RichConsole(stderr=True, soft_wrap=True, highlight=False)
        rich.print(Text.assemble(("sdcli: ", "bold red"), printable(what)))
        for line in (why, fix):
            if line:
                rich.print(Text(f"  {printable(line)}"))

    def line(self, text: str) -> None:
        """Print a line, unless quiet."""
        if not self.quiet:
            print(f"sdcli: {printable(text)}", file=sys.stderr, flush=True)

    def indented(self, text: str) -> None:
        """Print a line that belongs to the last line on standard output."""
        if not self.quiet:
            print(f"  {printable(text)}", file=sys.stderr, flush=True)


class RunConsole:
    """A `Progress` that prints each saved path on standard output at once, and the rest on standard error.

    Args:
        quiet: print nothing on standard error except errors.
        as_json: print JSON Lines on standard output instead of paths.
    """

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.console = Console(quiet)
        self.quiet = quiet
        self.as_json = as_json
        self._bars: Bars | None = None
        self._steps: TaskID | None = None
        self._images: TaskID | None = None
        self._done = self._batch = self._evaluations = 0
        self._total: int | None = None
        self._last_line = 0.0

    def __enter__(self) -> RunConsole:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                TextColumn("{task.fields[count]:>9}"),
                TimeRemainingColumn(compact=True),
                console=RichConsole(stderr=True),
                # Keeps paths on standard output apart from the bars if both are the same terminal.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
                redirect_stderr=True,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Loading(part):
                self._show_loading(part)
            case BatchStarted():
                self._start_batch(event)
            case StepDone(index):
                self._show_step(index + 1)
            case BatchDone(images):
                self._finish_batch(images)
            case Saved():
                self.saved(event)
            case Output(data):
                with standard_output():
                    if sys.stdout is None:
                        raise OSError(errno.EBADF, "It is closed")
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
            case Note(text):
                self.console.line(text)

    def saved(self, event: Saved) -> None:
        """Print the path or the record of a saved image."""
        with standard_output():
            print(json_line({"file": str(event.path), **event.record}) if self.as_json else event.path, flush=True)

    def _start(self, event: Started) -> None:
        self._total = event.images
        count = "images" if event.images is None else "1 image" if event.images == 1 else f"{event.images} images"
        self.console.line(f"generating {count} with {event.model} on {event.device}")
        if self._bars is not None:
            self._steps = self._bars.add_task("loading", total=None, count="")

    def _show_loading(self, part: str) -> None:
        if self._bars is not None and self._steps is not None:
            self._bars.update(self._steps, description=part[:16])
        else:
            self._line_now_and_then(f"loading {part}")

    def _start_batch(self, event: BatchStarted) -> None:
        self._batch, self._evaluations = event.images, event.evaluations
        if self._bars is not None and self._steps is not None:
            count = f"0/{event.evaluations}"
            self._bars.reset(self._steps, total=event.evaluations, description="steps", count=count)
            if self._images is None:
                self._images = self._bars.add_task("images", total=self._total, count=self._count())

    def _show_step(self, evaluation: int) -> None:
        if self._bars is None or self._steps is None or self._images is None:
            of = "" if self._total is None else f" of {self._total}"
            self._line_now_and_then(f"image {self._done + 1}{of}, step {evaluation} of {self._evaluations}")
            return
        self._bars.update(self._steps, advance=1, count=f"{evaluation}/{self._evaluations}")
        # In fractions of an image, so that the remaining time is known from the first step.
        fraction = self._batch * evaluation / self._evaluations
        self._bars.update(self._images, completed=self._done + fraction)

    def _finish_batch(self, images: int) -> None:
        self._done += images
        if self._bars is not None and self._images is not None:
            self._bars.update(self._images, completed=self._done, count=self._count())

    def _count(self) -> str:
        return str(self._done) if self._total is None else f"{self._done}/{self._total}"

    def _line_now_and_then(self, text: str) -> None:
        """Print a line at most every few seconds, so that a log file shows the progress and stays short."""
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.line(text)


@contextmanager
def standard_output() -> Iterator[None]:
    """Turn an error of standard output into an `OutputError`, except that its reader closed it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            "cannot write to standard output", why=f"{error.strerror}.", fix="Saved images are kept."
        ) from error
