"""What the user sees: progress bars on a terminal, plain lines elsewhere, all on standard error. Standard output is for
data.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from sdcli import signals
from sdcli.errors import EXIT_BUG, OutputError, SdcliError
from sdcli.events import BatchDone, BatchStarted, Event, Finished, Note, Output, Phase, Saved, Started, StepDone
from sdcli.memory import shortage
from sdcli.start import IMPORTING, erase_first_words
from sdcli.terminal import json_line, one_line, printable

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
        erase_first_words()
        lines = [f"  {printable(line)}" for line in (why, fix) if line]
        if not sys.stderr.isatty():  # rich is not loaded, which may be impossible if memory is short
            print(f"sdcli: {printable(what)}", *lines, sep="\n", file=sys.stderr, flush=True)
            return
        from rich.console import Console as RichConsole
        from rich.text import Text

        rich = RichConsole(stderr=True, soft_wrap=True, highlight=False)
        rich.print(Text.assemble(("sdcli: ", "bold red"), printable(what)), *map(Text, lines), sep="\n")

    def failure(self, error: Exception, file: str = "") -> int:
        """Print an error, with --debug also where it was raised. Returns its exit code."""
        if "--debug" in sys.argv:
            traceback.print_exc()
        known = shortage(error) or error
        if isinstance(known, SdcliError):
            self.error(known.what, known.why, known.fix)
            return known.exit_code
        self.error(
            f"a bug in sdcli{f' with {file}' if file else ''}: {type(error).__name__}: {error}",
            fix="Run it again with --debug and report the output.",
        )
        return EXIT_BUG

    def each(self, files: Iterable[Path], work: Callable[[Path], int]) -> int:
        """Call a function for each file, whether or not it fails for another one.

        Returns:
            The highest exit code: those that the function returns, and those of errors.
        """
        code = 0
        for file in files:
            try:
                code = max(code, work(file))
            except (StreamError, BrokenPipeError):
                raise
            except Exception as error:
                code = max(code, self.failure(error, str(file)))
        return code

    def line(self, text: str) -> None:
        """Print a line, unless quiet. Further lines of the text are indented."""
        erase_first_words()
        if not self.quiet:
            print(f"sdcli: {printable(text)}".replace("\n", "\n  "), file=sys.stderr, flush=True)

    def indented(self, text: str) -> None:
        """Print a line that belongs to the last line on standard output."""
        if not self.quiet:
            print(f"  {printable(text)}", file=sys.stderr, flush=True)


class RunConsole:
    """A `Progress` that prints each saved path on standard output at once, and the rest on standard error.

    Args:
        quiet: print nothing on standard error except errors.
        as_json: print JSON Lines on standard output instead of paths.
        resumable: whether --resume can continue the run.
        show: show the images in the terminal.
        open_last: open the grid, or the only image, in the system's viewer at the end.
    """

    def __init__(
        self, *, quiet: bool, as_json: bool, resumable: bool = False, show: bool = False, open_last: bool = False
    ) -> None:
        self.console = Console(quiet)
        self.quiet = quiet
        self.as_json = as_json
        self._resumable = resumable
        self._show = show
        self._open_last = open_last
        self._shown: Callable[[Path], None] | None = None
        self._saved: list[Path] = []
        """The first two images and the last page of the grid, which is enough to know what to open."""
        self._grid: Path | None = None
        self._start_time = time.monotonic()
        self._batches: int | None = None
        self._batch_name = ""
        self._phase = IMPORTING
        self._reasons: set[str] = set()
        self._bars: Bars | None = None
        self._steps: TaskID | None = None
        self._images: TaskID | None = None
        self._done = self._batch = self._evaluations = 0
        self._total: int | None = None
        self._last_line = 0.0

    def __enter__(self) -> RunConsole:
        if self._show:
            from sdcli.cli import viewer

            # Before the progress bars, because the terminal is asked what it can show.
            self._shown = viewer.terminal()
            if self._shown is None:
                self.console.line("--show: no image is shown, because this is not a terminal")
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description:<20}"),
                BarColumn(),
                TextColumn("{task.fields[count]:>9}"),
                TimeRemainingColumn(compact=True),
                console=RichConsole(stderr=True),
                # Keeps paths on standard output apart from the bars if both are the same terminal.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
                redirect_stderr=True,
                transient=True,
            )
            erase_first_words()
            self._bars.start()
            self._steps = self._bars.add_task(IMPORTING, total=None, count="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if isinstance(error, signals.Stopped) and self._resumable and self._saved:
            error.advice = "Saved images are kept; the same command with --resume generates the rest."

    def may_download(self, what: str) -> bool:
        """Ask on a terminal whether to download what a file names; no by default, and where nobody can be asked."""
        if self.quiet or self.as_json or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        if self._bars is not None:
            self._bars.stop()
        print(f"sdcli: the file names {one_line(what)}, which is not on this machine.", file=sys.stderr)
        print("sdcli: Download it? [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if self._bars is not None:
            self._bars.start()
        return answer.strip().casefold() in ("y", "yes")

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Phase(name):
                self._show_phase(name)
            case BatchStarted():
                self._start_batch(event)
            case StepDone(index):
                self._show_step(index + 1)
            case BatchDone(images):
                self._finish_batch(images)
            case Saved():
                self._count_saved(event)
                self.saved(event)
                self._show_image(event)
            case Finished():
                self._finish(event)
            case Output(data):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            case Note(text):
                self.console.line(text)

    def saved(self, event: Saved) -> None:
        """Print the path or the record of a saved image."""
        path = str(event.path)
        print(json_line({"file": path, **event.record}) if self.as_json else one_line(path), flush=True)

    def _count_saved(self, event: Saved) -> None:
        if "page" in event.record:
            self._grid = event.path
        elif len(self._saved) < 2:
            self._saved.append(event.path)

    def _show_image(self, event: Saved) -> None:
        """Show an image in the terminal; a page of the grid only if its images are not saved."""
        if self._shown is None or ("page" in event.record and self._saved):
            return
        if self._bars is not None:
            self._bars.stop()
        self._shown(event.path)
        if self._bars is not None:
            self._bars.start()

    def _start(self, event: Started) -> None:
        self._total, self._batches = event.images, 1 if event.images == 1 else event.batches
        if event.missing == 0:
            return
        if event.images is None:
            count = "images"
        elif event.missing is not None and event.missing < event.images:
            count = f"{event.missing} of {plural(event.images, 'image')} ({event.images - event.missing} exist)"
        else:
            count = f"{event.how} = {plural(event.images, 'image')}" if event.how else plural(event.images, "image")
        self.console.line(f"generating {count} with {event.model} on {event.device}")

    def _show_phase(self, name: str) -> None:
        if self._bars is not None and self._steps is not None:
            self._bars.update(self._steps, description=name)
        elif name != self._phase:
            self._line_now_and_then(name)
        self._phase = name

    def _start_batch(self, event: BatchStarted) -> None:
        signals.raise_stopped()  # from now on there is something to finish
        self._batch, self._evaluations = event.images, event.evaluations
        of = "" if self._batches is None else f" of {self._batches}"
        self._batch_name = "" if self._batches == 1 else f"batch {event.number}{of}"
        if event.why and event.why not in self._reasons:
            self._reasons.add(event.why)
            self.console.line(event.why)
        if self._bars is not None and self._steps is not None:
            count = f"0/{event.evaluations}"
            name = self._batch_name or "steps"
            self._bars.reset(self._steps, total=event.evaluations, description=name, count=count)
            if self._images is None:
                self._images = self._bars.add_task("images", total=self._total, count=self._count())

    def _show_step(self, evaluation: int) -> None:
        if self._bars is None or self._steps is None or self._images is None:
            batch = f"{self._batch_name}: " if self._batch_name else ""
            images = plural(self._batch, "image")
            self._line_now_and_then(f"{batch}{images}, step {evaluation} of {self._evaluations}")
            return
        self._bars.update(self._steps, advance=1, count=f"{evaluation}/{self._evaluations}")
        # In fractions of an image, so that the remaining time is known from the first step.
        fraction = self._batch * evaluation / self._evaluations
        self._bars.update(self._images, completed=self._done + fraction)

    def _finish_batch(self, images: int) -> None:
        self._done += images
        if self._bars is not None and self._images is not None:
            self._bars.update(self._images, completed=self._done, count=self._count())

    def _finish(self, event: Finished) -> None:
        """Print what became of the run, and open its grid or its image."""
        self.console.line(_in_words(event, time.monotonic() - self._start_time))
        if not self._open_last:
            return
        from sdcli.cli import viewer

        # One window: of several images without a grid the folder.
        several = len(self._saved) > 1
        target = self._grid or (self._saved[0].parent if several else next(iter(self._saved), None))
        why = "no image was saved" if target is None else viewer.open_in_viewer(target)
        if why:
            self.console.line(f"--open: nothing is opened, because {why}")

    def _count(self) -> str:
        return str(self._done) if self._total is None else f"{self._done}/{self._total}"

    def _line_now_and_then(self, text: str) -> None:
        """Print a line at most every few seconds, so that a log file shows the progress and stays short."""
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.line(text)


def _in_words(event: Finished, seconds: float) -> str:
    """What became of a run: images, time, place, seeds, and what is missing."""
    if event.existing and not (event.images or event.elsewhere or event.withheld or event.failed):
        return all_exist(event.existing)
    seeds = ", ".join(map(str, event.seeds))
    many = "s" if len(event.seeds) > 1 else ""
    seeds = f"seed{many} {seeds}{' and more' if event.more_seeds else ''}" if seeds else ""
    parts = [f"{plural(event.images, 'image')} in {duration(seconds)}", event.place if event.images else "", seeds]
    others = {
        "already existed": event.existing,
        "left to another process": event.elsewhere,
        "withheld": event.withheld,
        "failed": event.failed,
    }
    parts += [f"{number} {what}" for what, number in others.items() if number]
    if event.skipped_rows:
        parts.append(f"{plural(event.skipped_rows, 'row')} skipped")
    return ", ".join(filter(None, parts))


def all_exist(images: int) -> str:
    """What to say of a run of which nothing is missing."""
    which = {1: "the image exists", 2: "both images exist"}.get(images, f"all {images} images exist")
    return f"{which}; nothing to generate"


def plural(number: int, name: str) -> str:
    """A number of things, such as "1 image" or "2 images"."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration in a suitable unit, such as "1 second" or "2.5 minutes"."""
    if seconds < 120:
        return plural(max(1, round(seconds)), "second")
    minutes = seconds / 60
    return f"{minutes:.{int(minutes < 10)}f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


class StreamError(OutputError):
    """Standard output or standard error cannot be written, for example to a full disk."""


@contextmanager
def checked_streams() -> Iterator[None]:
    """Within this context, what cannot be written to standard output or standard error is a `StreamError`.

    If its reader closed it, that is a `BrokenPipeError`, as usual. After either, the stream is `os.devnull`: otherwise
    Python would write the rest at its end, fail again and exit with code 120.
    """
    output, error = _Stream(sys.stdout, "standard output"), _Stream(sys.stderr, "standard error")
    with redirect_stdout(cast(IO[str], output)), redirect_stderr(cast(IO[str], error)):
        yield


class _Stream:
    """A standard stream, or its buffer. Everything but writing is left to the stream itself."""

    def __init__(self, stream: IO[Any], name: str) -> None:
        self._stream = stream
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> _Stream:
        return _Stream(cast(Any, self._stream).buffer, self._name)

    def write(self, data: Any) -> int:
        with self._checked():
            return self._stream.write(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        with self._checked():
            self._stream.writelines(lines)

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):  # a stream without a file
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise StreamError(
                f"cannot write to {self._name}", why=f"{error.strerror}.", fix="Saved images are kept."
            ) from error
