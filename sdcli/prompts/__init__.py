"""Prompts from the flag or from a file become one `Prompt` for each image, in the order of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdcli.errors import InputFileError, SdcliError, UsageError
from sdcli.prompts.files import Content, PromptFile, Rows, row_settings
from sdcli.prompts.flags import written_for
from sdcli.prompts.formats import every_line
from sdcli.prompts.templates import Template, Wildcards
from sdcli.registry import Table
from sdcli.settings import MOST_IMAGES, PROMPT_FORMATS, Settings, assignments, in_use, names, options, prompt_format

_READERS = Table({name: line.reader for name, line in PROMPT_FORMATS.items()})


@dataclass(frozen=True)
class Row:
    """One row of a prompt file, or one prompt of the command line.

    Attributes:
        text: the prompt, which may be a template.
        settings: the run's, with those of the row over them.
        given: the settings that the row sets, by name.
        out: the file name that the row sets.
    """

    text: str
    settings: Settings
    given: frozenset[str] = frozenset()
    out: str | None = None


@dataclass(frozen=True)
class Prompt:
    """The prompt of one image.

    Attributes:
        text: with every choice of the template made.
        settings: those of its row.
        index: the image's place in the run, from 0.
        iteration: the pass over the prompts, from 0. A batch never spans two passes.
        seed: the image's own seed; None if its noise comes from the run's stream.
        out: the file name that its row sets.
    """

    text: str
    settings: Settings
    index: int
    iteration: int
    seed: int | None = None
    out: str | None = None


class Counts:
    """How many prompts, images and batches the passes of a run have, and how the number of images comes about.

    Args:
        at_most: the most images in a batch.
        iterations: the number of passes.
    """

    def __init__(self, at_most: int, iterations: int) -> None:
        self.iterations = iterations
        self.prompts = 0
        self._images = self._batches = self._room = 0
        self._each: set[int] = set()
        self._settings: Settings | None = None
        self._at_most = at_most

    def add(self, settings: Settings, images: int) -> None:
        """Count the images of the next row of a pass."""
        self.prompts += 1
        self._images += images
        if len(self._each) < 2:
            self._each.add(images)
        if self._settings is None or not fit_together(self._settings, settings):
            self._room = 0
        self._settings = settings
        if images > self._room:
            further = -(-(images - self._room) // self._at_most)
            self._batches += further
            self._room += further * self._at_most
        self._room -= images

    @property
    def images(self) -> int:
        """Images of the run."""
        return self._images * self.iterations

    @property
    def batches(self) -> int:
        """Batches of the run."""
        return self._batches * self.iterations

    def in_words(self) -> str:
        """How the number of images comes about, such as "3 prompts x 2 iterations"; "" if it is a plain number."""
        each = next(iter(self._each), 0) if len(self._each) < 2 else 1
        factors = ((self.prompts, "prompts"), (each, "images"), (self.iterations, "iterations"))
        shown = [f"{number} {name}" for number, name in factors if number > 1]
        return " x ".join(shown) if len(self._each) < 2 and len(shown) > 1 else ""


def fit_together(one: Settings, other: Settings) -> bool:
    """Whether images with these settings can be in one batch."""
    return one is other or all(getattr(one, name) == getattr(other, name) for name in names("image", varies=False))


def has_templates(settings: Settings) -> bool:
    """Whether `{a|b}` and `__NAME__` in prompts are choices. The braces of NovelAI are weights instead."""
    return not settings.compat and settings.prompt_syntax != "novelai"


class Prompts:
    """The prompts of a run.

    Args:
        settings: those of the run.
        check: returns a row as it is generated; raises an error if it cannot be.
        on_invalid: called for each invalid row, which is then skipped. By default an invalid row ends the run.
        on_note: called with what the user should know of the file.
    """

    def __init__(
        self,
        settings: Settings,
        check: Callable[[Row], Row] = lambda row: row,
        on_invalid: Callable[[InputFileError], None] | None = None,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.settings = settings
        self._check = check
        self._on_invalid = on_invalid
        self._on_note: Callable[[str], None] | None = on_note
        self._wildcards = Wildcards(Path(settings.wildcards))
        self._file = None if settings.from_file is None else PromptFile(settings.from_file, again=settings.n_iter > 1)
        switches = {name for name, line in options().items() if line.stands_for}
        self.counts: Counts | None = None
        """As `count` found them; None for a stream."""
        self._run_values = {name: getattr(settings, name) for name in settings.model_fields_set - switches}

    def count(self) -> int | None:
        """Read and check every row, and count the images; None for a stream, which cannot be read twice.

        Raises:
            InputFileError: a row is invalid and ends the run, or no row is valid.
            UsageError: more images than `MOST_IMAGES`.
        """
        if self._file is not None and self._file.is_stream:
            return None
        self.counts = Counts(self.settings.n_samples, self.settings.n_iter)
        for row in self._rows(report=False):
            self.counts.add(row.settings, self._images(row)[0])
        if (count := self.counts.images) > MOST_IMAGES:
            raise UsageError(
                f"the run has {count:,} images, and the limit is {MOST_IMAGES:,}",
                fix="Pass smaller numbers, or split the file.",
                settings=("n_iter", "images_per_prompt", "n_samples", "matrix"),
            )
        return count

    def __iter__(self) -> Iterator[Prompt]:
        return self.each()

    def each(self, *, report: bool = True) -> Iterator[Prompt]:
        """Every prompt in order; a stream is read as it arrives.

        Args:
            report: whether invalid rows and notes are reported.

        Raises:
            InputFileError: as `count`.
        """
        run = self.settings
        index = 0
        for iteration in range(run.n_iter):
            for row in self._rows(report=report and iteration == 0):
                count, texts = self._images(row)
                for number, text in enumerate(texts):
                    seed = self._own_seed(row, iteration * count + number, index)
                    if isinstance(text, Template):
                        text = text.choose(run.seed if seed is None else seed, index)
                    yield Prompt(text, row.settings, index, iteration, seed, row.out)
                    index += 1

    def _own_seed(self, row: Row, number: int, index: int) -> int | None:
        """The seed of an image that has its own.

        Args:
            row: its row.
            number: how many images of the row are before it.
            index: its place in the run.
        """
        run = self.settings
        step = 1 if run.seed_step is None else run.seed_step
        if row.settings.seeds is not None:
            return row.settings.seeds[number % len(row.settings.seeds)]
        if "seed" in row.given:
            # A repeated row gets other images, not the same ones.
            return (row.settings.seed + number * step) % 2**64
        if run.seed_mode == "image":
            return (run.seed + index * step) % 2**64
        return None

    def _images(self, row: Row) -> tuple[int, Iterator[str | Template]]:
        """The number of images of a row in one pass, and their prompts; the choices of a template are not made yet."""
        alone = self._file is None and not self.settings.matrix
        of_each = row.settings.images_per_prompt or (self.settings.n_samples if alone else 1)
        if row.settings.seeds is not None:
            of_each = len(row.settings.seeds)
        if not has_templates(row.settings):
            return of_each, (row.text for _ in range(of_each))
        template = Template.parse(row.text, self._wildcards)
        if self.settings.matrix:
            if template.has_more_than(MOST_IMAGES):
                raise UsageError(
                    f"the prompt has more than {MOST_IMAGES:,} combinations",
                    fix="Use fewer alternatives, or leave out --matrix.",
                    settings=("matrix",),
                )
            return template.combinations * of_each, (text for text in template.all() for _ in range(of_each))
        return of_each, (template for _ in range(of_each))

    def _rows(self, *, report: bool) -> Iterator[Row]:
        """The valid rows of one pass; with `report`, invalid rows are passed to `on_invalid`."""
        if self._file is None:
            for prompt in self.settings.prompts or [self.settings.prompt]:
                yield self._check(Row(prompt, self.settings))
            return
        any_valid, first_error = False, None
        for place, content in self._read(self._file):
            if report:
                self._note_flags(place, content)
            try:
                row = self._row(content, place)
            except InputFileError as error:
                if self._on_invalid is None:
                    raise
                if report:
                    self._on_invalid(error)
                first_error = first_error or error
                continue
            any_valid = True
            yield row
        if any_valid:
            return
        if first_error is not None:
            raise InputFileError(
                f"prompt file {self._file.name} has no valid row", why=f"{first_error.what}.", fix=first_error.fix
            )
        raise self._file.empty()

    def _read(self, file: PromptFile) -> Rows:
        kind = prompt_format(self.settings.from_file, self.settings.prompt_format)
        if self.settings.compat and kind in ("auto", "text"):
            return every_line(file)
        rows: Rows = _READERS[kind](file)
        return rows

    def _note_flags(self, place: str, content: Content) -> None:
        """Note the first line of text that has flags of another tool; they are part of its prompt."""
        if self._on_note is None or self.settings.compat or not isinstance(content, str):
            return
        if tool := written_for(content):
            self._on_note(
                f"{place}: flags on the line are read as part of the prompt; --prompt-format {tool} reads them as "
                "settings"
            )
            self._on_note = None

    def _row(self, content: Content, place: str) -> Row:
        """Raise `InputFileError` for an invalid row."""
        if isinstance(content, InputFileError):
            raise content
        try:
            if isinstance(content, str):
                row = Row(content, self.settings)
            else:
                values = {name: value for _, name, value in assignments(row_settings(content))}
                text, out = values.pop("prompt"), values.pop("out", None)
                replaced = {other for name in values if in_use(name, values) for other in options()[name].contradicts}
                if "seed" in values:
                    replaced.add("seeds")
                if "seeds" in values:
                    replaced.add("images_per_prompt")
                of_run = {name: value for name, value in self._run_values.items() if name not in replaced}
                settings = Settings.of(**(of_run | values)) if values else self.settings
                row = Row(text, settings, frozenset(values), out)
            row = self._check(row)
            # Reads the wildcards of the prompt, so a missing one is found now.
            self._images(row)
        except SdcliError as error:
            raise InputFileError(f"{place}: {error.what}", why=error.why, fix=error.fix) from error
        return row
