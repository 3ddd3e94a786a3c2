"""A job is one image, wholly decided. Prompts become jobs, jobs become batches, and each job has a key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from sdcli.errors import UsageError
from sdcli.model_spec import ModelSpec
from sdcli.prompts import Prompt, fit_together
from sdcli.settings import AUTO, ImageSettings, Settings, default, flag, names, options

KEY_SCHEMA = 2
"""Part of every key. Raise it when a default of an image or file setting changes, or a job gets another meaning."""

MOST_DRAWS = 2**62
"""Draws before a batch. No run makes as many, and the counter of CUDA's generator has 64 bits."""

_MOST_ROWS = options()["n_samples"].most
Rows = Annotated[int, Field(strict=True, ge=1, le=_MOST_ROWS)]


def _without_null(name: str) -> str:
    if "\0" in name:
        raise ValueError("it contains a null character")
    return name


Name = Annotated[str, Field(max_length=4096), AfterValidator(_without_null)]
"""What a path, the name of a model or of a revision can be."""


class NoisePlace(BaseModel):
    """The place of an image's noise in a stream of random numbers.

    The original seeds one generator for the whole run. The initial noise of a batch is one draw of
    (rows, C, height/f, width/f), and each sampler step draws the same shape once more. So the draws before its batch,
    the size of its batch and its row are enough to find an image's noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: tuple[tuple[Rows, Annotated[int, Field(strict=True, ge=1)]], ...] = ()
    """Draws made before this batch: (rows of each draw, number of draws), in order."""
    rows: Rows = 1
    """Rows of this batch's draws."""
    row: int = Field(default=0, strict=True, ge=0)
    """The image's row in them."""
    fixed_rows: int = Field(default=0, strict=True, ge=0, le=_MOST_ROWS)
    """With --fixed_code: rows of the first draw of the stream, the initial noise of every batch. Otherwise 0."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.row >= min(self.rows, self.fixed_rows or self.rows):
            raise ValueError(f"row {self.row} is not one of {self.fixed_rows or self.rows} rows")
        if sum(times for _, times in self.before) > MOST_DRAWS:
            raise ValueError(f"before has more than {MOST_DRAWS} draws")
        return self


class Job(ImageSettings):
    """One image, wholly decided: the same job gives the same image, alone or in a batch.

    Frozen; `model_dump_json` writes it and `model_validate_json` reads it back equal. The settings of an image are
    inherited from the table of settings. Values of other types and numbers out of range are refused, because a job may
    come from a file of anyone; unknown samplers are not, because another version may have them.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    steps: int
    height: int
    width: int
    scale: float
    noise: Annotated[NoisePlace, Strict(False)]
    model: Name
    """As `ModelSpec.name`."""
    model_hash: str = Field(max_length=64)
    """SHA-256 of the model's weights, 64 hexadecimal digits."""
    index: int = Field(ge=0)
    """The image's place in the run, from 0."""
    out: Name | None = None
    """The file name in `samples/` that a row of the prompt file sets."""
    files: dict[Name, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=dict)
    """SHA-256 of the files that settings of the image name, by their paths as the settings have them."""
    read_as: str | None = None
    """What the text encoder gets instead of the prompt, if the model reads it in its own words; see `Vocabulary`."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields; without those that earlier versions refuse, if they say nothing."""
        values: dict[str, Any] = handler(self)
        if values.get("read_as", "") is None:
            del values["read_as"]
        if not values.get("files", True):
            del values["files"]
        return values

    @property
    def encoded(self) -> str:
        """The text that the text encoder gets."""
        return self.prompt if self.read_as is None else self.read_as

    @field_validator(*names("image"))
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        line = options()[str(info.field_name)]
        least, most = line.least, line.most
        if (least is not None and value < least) or (most is not None and value > most):
            raise ValueError(f"it is not in the range from {least} to {most}")
        return value


def key(job: Job, settings: Settings) -> str:
    """The identity of a job: 64 hexadecimal digits, the same for the same image saved in the same way.

    SHA-256 of the canonical JSON of what differs from the defaults, so a new setting with a default changes no key. The
    place in the run does not count.
    """
    defaults = {name: default(name) for name in names("image", "file")} | {"noise": NoisePlace().model_dump()}
    values: dict[str, Any] = job.model_dump(exclude={"index"})
    values |= {name: getattr(settings, name) for name in names("file")}
    old = {name: options()[name].left_out for name in names("image", "file")}
    content = {
        name: value
        for name, value in values.items()
        if value is not None and value not in (defaults.get(name), old.get(name))
    }
    return sha256(json.dumps({"schema": KEY_SCHEMA, **content}, sort_keys=True).encode()).hexdigest()


def size(settings: Settings, spec: ModelSpec) -> tuple[int, int]:
    """Height and width of a run's images, in pixels.

    Raises:
        UsageError: a size that the model cannot generate, or --C or --f that contradict the model.
    """
    for name, true in (("channels", spec.latent_channels), ("downscale", spec.downscale)):
        given = getattr(settings, name)
        if name in settings.model_fields_set and given != true:
            raise UsageError(
                f"{flag(name)} {given} contradicts the model {spec.name}, which has {true}",
                fix=f"Leave out {flag(name)}: the model decides.",
                settings=(name,),
            )
    sides = []
    for name, own in (("height", spec.default_height), ("width", spec.default_width)):
        given = getattr(settings, name)
        side = own if given is None else given
        if spec.only_default_size and side != own:
            raise UsageError(
                f"{flag(name)} {side} is not a size that the model {spec.name} can generate",
                why=f"It was trained on images of {spec.default_width} x {spec.default_height} pixels only.",
                fix=f"Leave out {flag(name)}, or pass another model with --model or --ckpt.",
                settings=(name,),
            )
        if side % spec.size_multiple:
            lower = side // spec.size_multiple * spec.size_multiple
            nearest = [str(n) for n in (lower, lower + spec.size_multiple) if n]
            raise UsageError(
                f"{flag(name)} {side} is not a size that the model {spec.name} can generate",
                why=f"It must be a multiple of {spec.size_multiple}.",
                fix=f"The nearest sizes that work: {', '.join(nearest)}.",
                settings=(name,),
            )
        sides.append(side)
    return sides[0], sides[1]


def steps_of(settings: ImageSettings, spec: ModelSpec) -> int:
    """The number of sampling steps: the setting, or the model's own number."""
    return spec.default_steps if settings.steps is None else settings.steps


def sampler_of(settings: ImageSettings, spec: ModelSpec) -> str:
    """The sampler: the setting, or the model's own."""
    return spec.default_sampler if settings.sampler == AUTO else settings.sampler


def at_home(path: str) -> str:
    """The path, with `~` for the home folder."""
    home = os.path.expanduser("~")  # noqa: PTH111  # "~" itself, if there is no home folder
    if path == home:
        return "~"
    return f"~/{path.removeprefix(home).lstrip('/')}" if path.startswith(f"{home}/") else path


def from_home(path: Any) -> str:
    """The path with the home folder for `~`, the other way round; unchanged if that folder is not known."""
    return os.path.expanduser(str(path))  # noqa: PTH111


StepDraws = Callable[[Job], int]
"""Number of draws that a job's sampler makes after the initial noise."""


def batches(
    prompts: Iterable[Prompt],
    settings: Settings,
    spec: ModelSpec,
    model_hash: str,
    step_draws: StepDraws,
    read: Callable[[str, Settings], str] = lambda text, _: text,
    files: Callable[[Prompt], Mapping[str, Any]] = lambda prompt: {},
) -> Iterator[list[Job]]:
    """The run's jobs in order, in batches.

    A batch has at most `n_samples` jobs of one pass that differ only in settings with the facet `varies`, and in noise.

    Args:
        prompts: one for each image, as `Prompts` yields them.
        settings: those of the run.
        spec: the model.
        model_hash: see `Job.model_hash`.
        step_draws: see `StepDraws`.
        read: what the text encoder gets for a prompt with its settings; by default the prompt.
        files: the fields of a job that say which files change the model.
    """
    fixed_rows = settings.n_samples if settings.fixed_code else 0
    # The stream is counted for each size of image: draws of another shape are not part of it.
    streams: dict[tuple[int, int], _Stream] = {}
    for batch in _grouped(prompts, settings.n_samples):
        first = batch[0].settings
        height, width = size(first, spec)
        steps = steps_of(first, spec)
        stream = streams.setdefault((height, width), _Stream(settings.rng, fixed_rows))
        before = tuple(stream.before)
        rows = sum(prompt.seed is None for prompt in batch)
        row = 0
        jobs = []
        for prompt in batch:
            values = {name: getattr(prompt.settings, name) for name in names("image")}
            text = read(prompt.text, prompt.settings)
            values |= {"prompt": prompt.text, "read_as": None if text == prompt.text else text}
            values |= {"height": height, "width": width, **files(prompt)}
            place = NoisePlace()
            if prompt.seed is None:
                values["seed"] = settings.seed
                place = NoisePlace(before=before, rows=rows, row=row, fixed_rows=fixed_rows)
                row += 1
            else:
                values["seed"] = prompt.seed
            values |= {"steps": steps, "sampler": sampler_of(first, spec)}
            if values["scale"] is None:
                values["scale"] = spec.default_scale
            jobs.append(
                Job(**values, noise=place, model=spec.name, model_hash=model_hash, index=prompt.index, out=prompt.out)
            )
        yield jobs
        if rows:
            stream.count(rows, step_draws(jobs[0]) + (0 if fixed_rows else 1))


class _Stream:
    """Counts the draws from the run's generator, in the form of `NoisePlace.before`."""

    def __init__(self, rng: str, fixed_rows: int) -> None:
        self.rng = rng
        self.before: list[tuple[int, int]] = [(fixed_rows, 1)] if fixed_rows else []

    def count(self, rows: int, times: int) -> None:
        """Count `times` draws of `rows` rows."""
        # The numbers of a CUDA draw depend on how many draws came before, not on their order or size. One entry for
        # each size keeps the list short, however often the size changes.
        same = [i for i, (size, _) in enumerate(self.before) if size == rows]
        if same and (self.rng == "cuda" or same[-1] == len(self.before) - 1):
            self.before[same[-1]] = (rows, self.before[same[-1]][1] + times)
        elif times:
            self.before.append((rows, times))


def _grouped(prompts: Iterable[Prompt], at_most: int) -> Iterator[list[Prompt]]:
    """Neighbours that can be generated in one batch."""
    batch: list[Prompt] = []
    for prompt in prompts:
        if batch and not _fit_together(batch[0], prompt):
            yield batch
            batch = []
        batch.append(prompt)
        # At once, not when the next prompt arrives: the producer may wait for the image before it writes on.
        if len(batch) == at_most:
            yield batch
            batch = []
    if batch:
        yield batch


def _fit_together(one: Prompt, other: Prompt) -> bool:
    return one.iteration == other.iteration and fit_together(one.settings, other.settings)
