"""Samplers that run one of diffusers' schedulers as diffusers' pipelines do, with the schedules of other tools."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sdcli.errors import UsageError
from sdcli.model_spec import CURVES, NoiseSchedule
from sdcli.pipeline.samplers import Plan, Sampler
from sdcli.pipeline.schedules import BY_SIGMAS, SPACINGS, spaced

if TYPE_CHECKING:
    from sdcli.pipeline.noise import BatchNoise
    from sdcli.pipeline.samplers import Denoiser, Step

Count = Callable[[Plan, int], int]
"""A plan, and the steps that its scheduler makes, to a number of evaluations or draws."""


def in_each_step(plan: Plan, steps: int) -> int:
    """One in each step."""
    return steps


def between_steps(plan: Plan, steps: int) -> int:
    """One in each step but the last."""
    return steps - 1


def if_eta(plan: Plan, steps: int) -> int:
    """One in each step, if eta is not 0."""
    return steps if plan.eta else 0


def once_more(plan: Plan, steps: int) -> int:
    """One in each step, and one more."""
    return steps + 1


def twice(plan: Plan, steps: int) -> int:
    """Two in each step but the last."""
    return 2 * steps - 1


def never(plan: Plan, steps: int) -> int:
    """None."""
    return 0


@dataclass(frozen=True)
class Scheduler:
    """One of diffusers' schedulers.

    Attributes:
        place: its module in `diffusers.schedulers` and its class, "module:Class".
        options: arguments besides those of the model's noise schedule.
        evaluations: evaluations of the model.
        draws: draws of noise in its steps.
        prepare: called with the scheduler, its timesteps set, and the batch's noise, for a scheduler that draws from a
            source of its own.
        spacing: the spacing for models whose files name none.
        zero_snr: whether it takes models with a zero terminal SNR.
        x0: whether it takes models that predict the noise-free latents.
        extrapolates: whether its last step, too, is extrapolated from the steps before.
        least, most: limits of the number of steps; by default at most the timesteps of the training.
    """

    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Count = in_each_step
    draws: Count = never
    prepare: Callable[[Any, BatchNoise], None] | None = None
    spacing: str = "linspace"
    zero_snr: bool = False
    x0: bool = True
    extrapolates: bool = False
    least: int = 1
    most: int | None = None


def sampler(
    title: str,
    scheduler: Scheduler,
    *aliases: str,
    schedules: tuple[str, ...] = (*SPACINGS, *CURVES),
    takes_sigmas: bool = False,
    takes_eta: bool = False,
    why: str = "",
    order: int = 0,
) -> Sampler:
    """A sampler around a scheduler.

    Args:
        title: see `Sampler`.
        scheduler: the scheduler.
        aliases: see `Sampler`.
        schedules: see `Sampler`.
        takes_sigmas: whether the scheduler reads its noise levels from an array `sigmas` with one entry for each step
            and one for the end, so that any others can take their place. Then it has the schedules `BY_SIGMAS`, too.
        takes_eta: see `Sampler`.
        why: see `Sampler`.
        order: see `Sampler`.
    """
    if takes_sigmas:
        schedules = (*schedules, *BY_SIGMAS)

    def check(plan: Plan, schedule: NoiseSchedule) -> None:
        _check(title, scheduler, plan, schedule)

    def sample(denoiser: Denoiser, noise: BatchNoise, plan: Plan, schedule: NoiseSchedule) -> Iterator[Step]:
        from sdcli.pipeline.samplers import scheduler_steps

        made = make(scheduler, plan, schedule)
        if scheduler.prepare is not None:
            scheduler.prepare(made, noise)
        options = {"eta": plan.eta} if takes_eta else {}
        evaluations = scheduler_steps.evaluations_of(made)
        # Answering draws costs time in every step, also where there are none.
        draws = scheduler.prepare is None and scheduler.draws is not never
        steps = scheduler_steps.sample(made, evaluations, denoiser, noise, draws=draws, **options)
        if scheduler.extrapolates and plan.schedule == "auto" and scheduler_steps.ends_far_above_zero(evaluations):
            return scheduler_steps.with_denoised_end(steps, len(evaluations))
        return steps

    def count(counted: Count) -> Callable[[Plan, NoiseSchedule], int]:
        def counter(plan: Plan, schedule: NoiseSchedule) -> int:
            if plan.schedule == "auto":
                plan = replace(plan, schedule=spaced(schedule, plan, scheduler.spacing).timestep_spacing)
            return counted(plan, _steps(plan, schedule))

        return counter

    # Several samplers are the same class with another algorithm; its name stands for the default one.
    own_class = () if "algorithm_type" in scheduler.options else (scheduler.place.partition(":")[2],)
    return Sampler(
        title,
        check,
        evaluations=count(scheduler.evaluations),
        draws=count(scheduler.draws),
        sample=sample,
        why=lambda plan, schedule: why,
        schedules=schedules,
        takes_sigmas=takes_sigmas,
        takes_eta=takes_eta,
        aliases=(*aliases, *own_class),
        order=order,
    )


def with_spacings(original: Sampler, by_diffusers: Sampler) -> Sampler:
    """The original's sampler, which has timesteps of its own, and diffusers' for a spacing that the user names."""

    def chosen(plan: Plan) -> Sampler:
        return original if plan.schedule == "auto" else by_diffusers

    return replace(
        original,
        check=lambda plan, schedule: chosen(plan).check(plan, schedule),
        evaluations=lambda plan, schedule: chosen(plan).evaluations(plan, schedule),
        draws=lambda plan, schedule: chosen(plan).draws(plan, schedule),
        sample=lambda denoiser, noise, plan, schedule: chosen(plan).sample(denoiser, noise, plan, schedule),
        why=lambda plan, schedule: chosen(plan).why(plan, schedule),
        schedules=by_diffusers.schedules,
        aliases=(*original.aliases, *by_diffusers.aliases),
    )


def _steps(plan: Plan, schedule: NoiseSchedule) -> int:
    """Steps that a scheduler makes: with trailing spacing sometimes one more than the plan has."""
    if plan.sigmas:
        return len(plan.sigmas)
    total = schedule.num_train_timesteps
    # As long as diffusers' numpy.arange(total, 0, -total / steps).
    return math.ceil(total / (total / plan.steps)) if plan.schedule == "trailing" else plan.steps


def _check(title: str, scheduler: Scheduler, plan: Plan, schedule: NoiseSchedule) -> None:
    total = schedule.num_train_timesteps
    least, most = scheduler.least, min(scheduler.most or total, total)
    steps = len(plan.sigmas) or plan.steps
    if not least <= steps <= most:
        setting, shown = ("sigmas", f"{steps} sigmas") if plan.sigmas else ("steps", f"--ddim_steps {steps}")
        raise UsageError(
            f"{shown} does not work with {title}",
            why=f"It takes {least} to {most} steps with this model.",
            fix=f"Pass {least if steps < least else most}, or another --sampler.",
            settings=(setting, "sampler"),
        )
    spacing = spaced(schedule, plan, scheduler.spacing).timestep_spacing
    if (
        spacing == "leading"
        and not plan.sigmas
        and (last := (steps - 1) * (total // steps) + schedule.steps_offset) >= total
    ):
        raise UsageError(
            f"--ddim_steps {steps} does not work with {title} and the schedule leading",
            why=f"The timesteps would reach {last}; the model's last one is {total - 1}.",
            fix=f"Pass at most {total // 2}, or --schedule trailing.",
            settings=("steps", "schedule"),
        )
    lacking = (
        "trained with a zero terminal SNR"
        if schedule.rescale_betas_zero_snr and not scheduler.zero_snr
        else "which predicts the noise-free latents"
        if schedule.prediction_type == "sample" and not scheduler.x0
        else ""
    )
    if lacking:
        raise UsageError(
            f"{title} does not work with this model, {lacking}",
            fix="Pass --sampler ddim, euler or dpmpp_2m.",
            settings=("sampler",),
        )


def make(scheduler: Scheduler, plan: Plan, schedule: NoiseSchedule) -> Any:
    """A scheduler of diffusers with its timesteps set.

    Args:
        scheduler: the scheduler.
        plan: number of steps and their schedule.
        schedule: the noise schedule of the model.
    """
    import torch

    from sdcli.pipeline import schedules

    module, _, name = scheduler.place.partition(":")
    kind = getattr(importlib.import_module(f"diffusers.schedulers.{module}"), name)
    accepted = inspect.signature(kind.__init__).parameters
    curve = schedule.curve if plan.schedule == "auto" and not plan.sigmas else plan.schedule
    by_diffusers = f"use_{curve}_sigmas" in accepted
    own = bool(plan.sigmas) or plan.schedule in BY_SIGMAS or (plan.schedule in CURVES and not by_diffusers)
    spacing = spaced(schedule, plan, scheduler.spacing)
    arguments = {**spacing.model_dump(), "clip_sample": False, **scheduler.options}
    if not schedule.alpha_is_given:
        del arguments["set_alpha_to_one"]
    if own:
        # With other spacings some schedulers begin with more noise than the first sigma.
        arguments["timestep_spacing"] = "trailing"
    if by_diffusers:
        arguments[f"use_{curve}_sigmas"] = True
    made = kind(**{name: value for name, value in arguments.items() if name in accepted})
    made.set_timesteps(len(plan.sigmas) or plan.steps)
    if own:
        sigmas, times = schedules.by_sigmas(plan, schedule)
        # The end stays: 0, or the smallest sigma for schedulers that divide by it.
        made.sigmas = torch.tensor([*sigmas, float(made.sigmas[-1])])
        made.timesteps = torch.tensor(times)
        made.num_inference_steps = len(times)
    if hasattr(made, "set_begin_index"):
        # Otherwise the scheduler looks for its first step by the timestep, and two steps can have the same.
        made.set_begin_index(0)
    return made
