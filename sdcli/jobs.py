"""Settings and prompts become jobs: each one image, wholly decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from sdcli.errors import UsageError
from sdcli.model_spec import ModelSpec
from sdcli.prompts import Request
from sdcli.settings import Precision, Rng, SamplerName, Settings


class NoisePlace(BaseModel):
    """Where in a stream of random numbers an image's noise lies.

    The original seeds one generator for the whole run. A batch's starting noise is one draw of
    (rows, C, height/f, width/f), and each of its sampler steps one more of that shape, so an image's place is told by
    the draws before its batch, the size of its batch, and its row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: tuple[tuple[int, int], ...] = ()
    """Draws made before this batch: (rows of each draw, number of draws), in order."""
    rows: int = 1
    """Rows of this batch's own draws."""
    row: int = 0
    """The image's row in them."""
    fixed_rows: int = 0
    """With --fixed_code: rows of the stream's first draw, which is every batch's starting noise; else 0."""


class Job(BaseModel):
    """One image, wholly decided: the same job gives the same image, alone or in a batch.

    Frozen; `model_dump_json` writes it, `model_validate_json` reads it back equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    prompt: str
    negative_prompt: str
    seed: int
    rng: Rng
    noise: NoisePlace
    height: int
    width: int
    steps: int
    sampler: SamplerName
    scale: float
    eta: float
    precision: Precision
    model: str
    model_hash: str
    index: int
    """The image's place in the run, from 0."""
    out: str | None = None
    """The name that its prompt's row gave the file, in `samples/`."""

    @property
    def content(self) -> str:
        """What is drawn, wherever it stands in the run: the same text for the same image under the same name."""
        return self.model_dump_json(exclude={"index"})


def size(settings: Settings, spec: ModelSpec) -> tuple[int, int]:
    """Height and width of the run's images, in pixels.

    Raises:
        UsageError: a size that the model cannot draw, or C or f that contradict the model.
    """
    for name, flag, true in (("channels", "--C", spec.latent_channels), ("downscale", "--f", spec.downscale)):
        said = getattr(settings, name)
        if name in settings.model_fields_set and said != true:
            raise UsageError(
                f"{flag} {said} contradicts the model {spec.name}, which has {true}",
                fix=f"Leave {flag} out: the model decides.",
            )
    sides = []
    for flag, said, default in (
        ("--H", settings.height, spec.default_height),
        ("--W", settings.width, spec.default_width),
    ):
        side = default if said is None else said
        if side % spec.size_multiple:
            lower = side // spec.size_multiple * spec.size_multiple
            nearest = [str(n) for n in (lower, lower + spec.size_multiple) if n]
            raise UsageError(
                f"{flag} {side} is not a size that the model {spec.name} can draw",
                why=f"It must be a multiple of {spec.size_multiple}.",
                fix=f"The nearest that work: {', '.join(nearest)}.",
            )
        sides.append(side)
    return sides[0], sides[1]


StepDraws = Callable[[SamplerName, int], int]
"""How often a sampler draws noise of the batch's shape in so many steps, once the starting noise is there."""


def plan(
    requests: Iterable[Request], settings: Settings, spec: ModelSpec, model_hash: str, step_draws: StepDraws
) -> Iterator[list[Job]]:
    """The run's jobs in order, batch by batch.

    A batch holds at most `n_samples` images of one pass that differ in prompt, seed and noise alone.

    Args:
        requests: as `Prompts` gives them.
        settings: the run's.
    """
    fixed_rows = settings.n_samples if settings.fixed_code else 0
    # Draws of another shape are no part of the stream that an image's place is counted in.
    streams: dict[tuple[int, int], _Stream] = {}
    for batch in _batches(requests, settings.n_samples):
        height, width = size(batch[0].settings, spec)
        stream = streams.setdefault((height, width), _Stream(settings.rng, fixed_rows))
        before = tuple(stream.before)
        rows = sum(request.seed is None for request in batch)
        row = 0
        jobs = []
        for request in batch:
            asked = request.settings
            place = NoisePlace()
            if request.seed is None:
                place = NoisePlace(before=before, rows=rows, row=row, fixed_rows=fixed_rows)
                row += 1
            jobs.append(
                Job(
                    prompt=request.prompt,
                    negative_prompt=asked.negative_prompt,
                    seed=settings.seed if request.seed is None else request.seed,
                    rng=asked.rng,
                    noise=place,
                    height=height,
                    width=width,
                    steps=asked.steps,
                    sampler=asked.sampler,
                    scale=spec.default_scale if asked.scale is None else asked.scale,
                    eta=asked.eta,
                    precision=asked.precision,
                    model=spec.name,
                    model_hash=model_hash,
                    index=request.index,
                    out=request.out,
                )
            )
        yield jobs
        if rows:
            first = batch[0].settings
            stream.drawn(rows, step_draws(first.sampler, first.steps) + (0 if fixed_rows else 1))


class _Stream:
    """The draws made so far from the run's generator, as `NoisePlace.before` tells them."""

    def __init__(self, rng: Rng, fixed_rows: int) -> None:
        self.rng = rng
        self.before: list[tuple[int, int]] = [(fixed_rows, 1)] if fixed_rows else []

    def drawn(self, rows: int, times: int) -> None:
        """Count so many draws of so many rows."""
        # On a card a draw's numbers depend on how many there were before, not on their order or size. One entry a
        # size keeps the list short, however often the size changes.
        same = [i for i, (size, _) in enumerate(self.before) if size == rows]
        if same and (self.rng == "cuda" or same[-1] == len(self.before) - 1):
            self.before[same[-1]] = (rows, self.before[same[-1]][1] + times)
        elif times:
            self.before.append((rows, times))


def _batches(requests: Iterable[Request], at_most: int) -> Iterator[list[Request]]:
    """Neighbours that can be drawn together."""
    batch: list[Request] = []
    for request in requests:
        if batch and not _go_together(batch[0], request):
            yield batch
            batch = []
        batch.append(request)
        # Not only when the next one comes: a producer may wait for the image before it writes on.
        if len(batch) == at_most:
            yield batch
            batch = []
    if batch:
        yield batch


def _go_together(one: Request, other: Request) -> bool:
    return one.iteration == other.iteration and (
        one.settings is other.settings
        or all(
            getattr(one.settings, name) == getattr(other.settings, name)
            for name in ("height", "width", "steps", "sampler", "scale", "eta", "rng", "precision")
        )
    )
