"""What is asked for: the prompts of a flag or a file become one `Request` an image, in the order of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcli.errors import InputFileError, SdcliError
from sdcli.prompts.files import PromptFile, by_name
from sdcli.prompts.templates import Template, Wildcards
from sdcli.settings import Settings, prompt_format


@dataclass(frozen=True)
class Row:
    """One row of what is to be drawn.

    settings: the run's, with what the row says over them.
    said: the settings that the row says, by name.
    out: the name that the row gives its file.
    """

    prompt: str
    settings: Settings
    said: frozenset[str] = frozenset()
    out: str | None = None


@dataclass(frozen=True)
class Request:
    """One image, as it is asked for.

    prompt: with every choice made.
    settings: of its row.
    index: its place in the run, from 0.
    iteration: which pass over the prompts it is in, from 0; a batch ends where its pass does.
    seed: the image's own; None where it takes its noise from the run's stream.
    out: the name that its row gives the file.
    """

    prompt: str
    settings: Settings
    index: int
    iteration: int
    seed: int | None = None
    out: str | None = None


class Prompts:
    """The prompts of a run.

    Args:
        settings: the run's.
        check: raises an error for a row that cannot be drawn.
        on_bad: is told of each row that is wrong, and the run goes on without it; by default it ends there.
    """

    def __init__(
        self,
        settings: Settings,
        check: Callable[[Row], None] = lambda row: None,
        on_bad: Callable[[InputFileError], None] | None = None,
    ) -> None:
        self.settings = settings
        self._check = check
        self._on_bad = on_bad
        self._wildcards = Wildcards(Path(settings.wildcards))
        self._file = None if settings.from_file is None else PromptFile(settings.from_file, again=settings.n_iter > 1)
        self._run_said = {
            name: getattr(settings, name) for name in settings.model_fields_set - {"plms", "dpm_solver", "laion400m"}
        }

    def look(self) -> int | None:
        """Read all before anything is drawn, and count the images; None for a stream, which cannot be read twice.

        Raises:
            InputFileError: a row is wrong and the run is to end there, or there is no right one.
        """
        if self._file is not None and self._file.is_stream:
            return None
        return sum(self._images(row)[0] for row in self._rows(tell=False)) * self.settings.n_iter

    def __iter__(self) -> Iterator[Request]:
        """Every image in order; a stream is read as it comes.

        Raises:
            InputFileError: as `look`.
        """
        run = self.settings
        index = 0
        for iteration in range(run.n_iter):
            for row in self._rows(tell=iteration == 0):
                count, prompts = self._images(row)
                for number, prompt in enumerate(prompts):
                    seed = None
                    if "seed" in row.said:
                        # Of the same row again another image, not the same.
                        seed = (row.settings.seed + iteration * count + number) % 2**64
                    elif run.seed_mode == "image":
                        seed = (run.seed + index) % 2**64
                    if isinstance(prompt, Template):
                        prompt = prompt.choose(run.seed if seed is None else seed, index)
                    yield Request(prompt, row.settings, index, iteration, seed, row.out)
                    index += 1

    def _images(self, row: Row) -> tuple[int, Iterator[str | Template]]:
        """How many images a row asks for in a pass, and their prompts; a template has its choices still to make."""
        alone = self._file is None and not self.settings.matrix
        of_each = row.settings.images_per_prompt or (self.settings.n_samples if alone else 1)
        if self.settings.compat:
            return of_each, (row.prompt for _ in range(of_each))
        template = Template.parse(row.prompt, self._wildcards)
        if self.settings.matrix:
            return template.combinations * of_each, (one for one in template.all() for _ in range(of_each))
        return of_each, (template for _ in range(of_each))

    def _rows(self, *, tell: bool) -> Iterator[Row]:
        """The right rows of one pass; `tell` of the wrong ones."""
        if self._file is None:
            row = Row(self.settings.prompt, self.settings)
            self._check(row)
            yield row
            return
        right, wrong = False, None
        kind = prompt_format(self.settings.from_file, self.settings.prompt_format)
        for place, said in self._file.rows(kind, every_line=self.settings.compat):
            try:
                row = self._row(said, place)
            except InputFileError as error:
                if self._on_bad is None:
                    raise
                if tell:
                    self._on_bad(error)
                wrong = wrong or error
                continue
            right = True
            yield row
        if right:
            return
        if wrong is not None:
            raise InputFileError(
                f"prompt file {self._file.name} has no row that can be drawn", why=f"{wrong.what}.", fix=wrong.fix
            )
        raise InputFileError(f"prompt file {self._file.name} is empty", fix="Write one prompt on each line.")

    def _row(self, said: str | Mapping[str, Any] | InputFileError, place: str) -> Row:
        """Raises `InputFileError` for a row that is wrong."""
        if isinstance(said, InputFileError):
            raise said
        try:
            if isinstance(said, str):
                row = Row(said, self.settings)
            else:
                values = by_name(said)
                prompt, out = values.pop("prompt"), values.pop("out", None)
                settings = Settings.of(**(self._run_said | values)) if values else self.settings
                row = Row(prompt, settings, frozenset(values), out)
            self._check(row)
            # That the wildcards of the prompt are there.
            self._images(row)
        except SdcliError as error:
            raise InputFileError(f"{place}: {error.what}", why=error.why, fix=error.fix) from error
        return row
