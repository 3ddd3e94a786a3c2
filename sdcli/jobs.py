"""Settings and prompts become jobs: each one picture, wholly decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from sdcli.errors import UsageError
from sdcli.model_spec import ModelSpec
from sdcli.prompts import batches
from sdcli.settings import Precision, Rng, SamplerName, Settings


class NoisePlace(BaseModel):
    """Where in a stream of random numbers a picture's noise lies.

    The original seeds one generator for the whole run. A batch's starting noise is one draw of
    (rows, C, height/f, width/f), and each of its sampler steps one more of that shape, so a picture's place is told by
    the draws before its batch, the size of its batch, and its row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: tuple[tuple[int, int], ...] = ()
    """Draws made before this batch: (rows of each draw, number of draws), in order."""
    rows: int = 1
    """Rows of this batch's own draws."""
    row: int = 0
    """The picture's row in them."""
    fixed_rows: int = 0
    """With --fixed_code: rows of the stream's first draw, which is every batch's starting noise; else 0."""


class Job(BaseModel):
    """One picture, wholly decided: the same job gives the same picture, alone or in a batch.

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
    """The picture's place in the run, from 0."""


def size(settings: Settings, spec: ModelSpec) -> tuple[int, int]:
    """Height and width of the run's pictures, in pixels.

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


def plan(
    prompts: Sequence[str], settings: Settings, spec: ModelSpec, model_hash: str, step_draws: int
) -> Iterator[list[Job]]:
    """The run's jobs in order, batch by batch.

    Args:
        prompts: those of one pass, as `prompts.read` gives them.
        step_draws: how often the sampler draws noise of the batch's shape, once the starting noise is there.
    """
    height, width = size(settings, spec)
    fixed_rows = settings.n_samples if settings.fixed_code else 0
    before: list[tuple[int, int]] = [(fixed_rows, 1)] if fixed_rows else []
    draws = step_draws + (0 if fixed_rows else 1)
    index = 0
    for batch in batches(prompts, settings):
        rows = len(batch)
        yield [
            Job(
                prompt=prompt,
                negative_prompt=settings.negative_prompt,
                seed=settings.seed,
                rng=settings.rng,
                noise=NoisePlace(before=tuple(before), rows=rows, row=row, fixed_rows=fixed_rows),
                height=height,
                width=width,
                steps=settings.steps,
                sampler=settings.sampler,
                scale=settings.scale,
                eta=settings.eta,
                precision=settings.precision,
                model=spec.name,
                model_hash=model_hash,
                index=index + row,
            )
            for row, prompt in enumerate(batch)
        ]
        index += rows
        if before and before[-1][0] == rows:
            before[-1] = (rows, before[-1][1] + draws)
        elif draws:
            before.append((rows, draws))
