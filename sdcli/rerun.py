"""Generates an image again from its record, and finds the nearest settings for an image of another tool."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants

from sdcli import models
from sdcli.comparison import Comparison, compare
from sdcli.errors import InputFileError, ModelError, ModelNotFound, UsageError
from sdcli.events import Note, Progress
from sdcli.images import GeneratedImage
from sdcli.jobs import Job, from_home
from sdcli.metadata import Provenance, of_image
from sdcli.model_spec import NoiseSchedule
from sdcli.models import adapters, hashes, shipped
from sdcli.models.model import ModelSource
from sdcli.models.vocabulary import Vocabulary
from sdcli.outputs.command import command_line, command_of
from sdcli.outputs.formats import opened, rgb
from sdcli.pipeline.samplers import Plan
from sdcli.prompts.syntax import PLAIN, parse
from sdcli.prompts.templates import is_plain
from sdcli.records import GridRecord, ImageRecord
from sdcli.registry import FORMATS, SAMPLERS
from sdcli.run import Run
from sdcli.sampler_names import SCHEDULES, nearest_sampler, nearest_schedule
from sdcli.settings import (
    AUTO,
    ORIGINAL_SAMPLER,
    ORIGINAL_STEPS,
    RANDOM,
    Settings,
    assignments,
    default,
    flag,
    names,
    options,
    spellings,
)
from sdcli.stages import safety
from sdcli.suggestions import did_you_mean, elsewhere, near, spelling
from sdcli.terminal import shortened
from sdcli.txt2img import execute

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_REPEATED = 2**35
"""Random numbers of the CPU that are drawn before an image, to reach its place: those of some 40,000 images of
512 x 512 pixels with 50 steps, which takes up to a quarter of an hour."""
_MANY_REPEATED = 2**30
_LARGEST_DRAW = 2**26
_LONGEST_REASON, _LONGEST_COMMAND = 400, 4000

ONE_IMAGE = {"n_samples": 1, "n_iter": 1, "skip_grid": True, "compat": True}
"""The settings of a run of one image, whose prompt has no choices left."""


@dataclass(frozen=True)
class Source:
    """An image file, as `read` returns it.

    Attributes:
        path: the file.
        size: width and height in pixels.
        format: as Pillow names it: PNG, JPEG, WEBP and others.
        provenance: how the image was generated; None if the file does not say.
    """

    path: Path
    size: tuple[int, int]
    format: str
    provenance: Provenance | None

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The pixels, RGB, (height, width, 3), which are decoded now.

        Raises:
            InputFileError: they cannot be decoded, or are too many.
        """
        with opened(self.path) as image:
            return rgb(image)

    @property
    def record(self) -> ImageRecord | GridRecord | None:
        """The record of sdcli; None if the file has no record that this version can read."""
        return self.provenance.record if self.provenance else None

    @property
    def job(self) -> Job | None:
        """The job of the record."""
        return self.record.job if self.record else None


def read(path: Path) -> Source:
    """Read the metadata of an image file; the pixels only if they may hide the metadata.

    Raises:
        InputFileError: the file does not exist or is not an image.
    """
    with opened(path, decode=False) as image:
        return Source(path, image.size, str(image.format), of_image(image))


def refuse(_: str) -> bool:
    """The answer to a question whether a download is allowed: no."""
    return False


def rerun(
    source: Source,
    progress: Progress,
    *,
    changes: Mapping[str, str] | None = None,
    model: str | None = None,
    force: bool = False,
    may_download: Callable[[str], bool] = refuse,
    own_safety_model: str = default("safety_model"),
    **where: Any,
) -> tuple[GeneratedImage, Comparison | None]:
    """Generate an image again from its record, with the noise that it had in its run, and save it as a new file.

    A record may come from anybody, so nothing that only the record names is downloaded without a question, and no
    checkpoint that only the record names is read before its hash is compared. A folder with a safety model, whose hash
    no record has, is read only if the user names it.

    Args:
        source: the image, as `read` returns it.
        progress: receives the events of the run.
        changes: settings to change, by any of their spellings.
        model: a checkpoint, folder or model id to use instead of the one in the record.
        force: use a model whose hash differs from the record's.
        may_download: whether to download what only the record names, a model or a safety checker. The argument
            describes it. Not called for a run without network.
        own_safety_model: the safety model of the user's own settings.
        where: settings that do not change the image: outdir, device, offline, executor.

    Returns:
        The new image, and its difference from the old one; None if settings were changed.

    Raises:
        InputFileError: the image has no record, or is a grid.
        ModelError: the model is not found, or is another one.
        sdcli.errors.SdcliError: as any run.
    """
    job = _require_job(source)
    changed = changes_by_name(changes or {})
    try:
        given = settings_of(source, model) | changed | ONE_IMAGE | where
        # The image exists, whether or not the model knows a word of its prompt.
        settings = Settings.of(**(given | ({} if "prompt" in changed else {"any_words": True})))
        if settings.offline or constants.is_offline_mode():
            may_download = refuse
        _require_files(source, job, settings, changed, force=force, may_download=may_download)
        found = _require_model(source, job, settings, force=force, given=model is not None, may_download=may_download)
        own = settings.safety_model == own_safety_model
        if not ("safety_model" in changed or ("safety_checker" in changed and own)):
            _require_checker(settings, found, may_download, own=own)
        reads = "prompt" in changed or found.hash() != job.model_hash
        run = Run(settings, progress, found, reads=reads)
        ((planned,),) = run.batches()
    except UsageError as error:
        # The user's fault, if the user passed one of the settings or the model that they do not fit.
        if model is not None or (changed and not error.settings) or changed.keys() & set(error.settings):
            raise
        raise _not_valid(source, error) from error
    # Only a whole run leads to this place in the noise, so it comes from the record; the rest follows the settings.
    again = planned.model_copy(update={"noise": job.noise, "index": job.index})
    if changed.get("seed") == RANDOM:
        progress(Note(f"seed {again.seed}"))
    if not reads:
        # As it was read then, by any version.
        again = again.model_copy(update={"read_as": job.read_as})
    spec = run.spec
    each = spec.latent_channels * (again.height // spec.downscale) * (again.width // spec.downscale)
    if (count := _numbers_before(source, again, each)) > _MANY_REPEATED:
        progress(Note(f"repeating {count:,} random numbers of the run, which may take minutes"))
    (image,) = execute(run, progress, batches=[[again]], journal=False)
    return image, None if changed or image.path is None else _compared(source, read(image.path), progress)


def _compared(source: Source, new: Source, progress: Progress) -> Comparison | None:
    """The difference of two images; None, with a note, if they cannot be compared."""
    if new.size != source.size:
        progress(Note(f"{source.path} does not have the size that its record says, so it is not compared"))
        return None
    try:
        return compare(source.pixels, new.pixels)
    except InputFileError as error:
        progress(Note(f"{source.path} is not compared, because its pixels cannot be decoded: {error.why}"))
        return None


def _numbers_before(source: Source, job: Job, each: int) -> int:
    """The random numbers that are repeated to reach the image's own; CUDA's generator needs no repetition.

    Args:
        source: the image, for errors.
        job: its job.
        each: numbers for each row of a draw.

    Raises:
        InputFileError: it would take too long, or too much memory.
    """
    if job.rng == "cuda":
        return 0
    noise = job.noise
    count = each * sum(rows * times for rows, times in noise.before)
    at_once = each * max(noise.rows, noise.fixed_rows, *(rows for rows, _ in noise.before))
    if count > MOST_REPEATED or at_once > _LARGEST_DRAW:
        limits = f"{MOST_REPEATED:,}" if count > MOST_REPEATED else f"{_LARGEST_DRAW:,} in one draw"
        raise InputFileError(
            f"the noise of {source.path} cannot be repeated",
            why=f"By job.noise in its record, {max(count, at_once):,} numbers come before it; the limit is {limits}.",
            fix="Generate its whole run again.",
        )
    return count


def _read_now(job: Job) -> tuple[bool, bool]:
    """Whether a builtin model knows a word of the job's prompt, and whether it reads the prompt as the job says."""
    vocabulary = Vocabulary.find(shipped.BUILTIN) if job.model in shipped.NAMES else None
    if vocabulary is None:
        return True, job.read_as is None
    reading = vocabulary.read(job.prompt, job.prompt_syntax)
    return reading.known, reading.text == job.encoded


def _not_valid(source: Source, error: UsageError) -> InputFileError:
    return InputFileError(
        f"no command of this version generates {source.path}",
        why=f"Its metadata contains a setting that is not valid: {shortened(error.what, _LONGEST_REASON)}.",
        fix="sdcli inspect shows what is known.",
    )


def command(source: Source) -> str:
    """The command that generates the image again, or the nearest one for an image of another tool.

    `sdcli txt2img`, or `sdcli rerun FILE` if the image follows batches that no run repeats.

    Raises:
        InputFileError: no command generates the image: the file does not say how it was generated, its prompt is not
            known, a value is not valid, or its record cannot be read or repeated.
    """
    found = source.provenance
    if found is None or not found.settings:
        raise no_metadata(source.path)
    if found.unreadable:
        raise _unreadable(source, found)
    try:
        if isinstance(source.record, GridRecord):
            given = source.record.grid
            grid = {name: given[name] for name in Settings.model_fields if given.get(name) is not None}
            Settings.of(**grid)
            return command_of(grid)
        if source.job is not None:
            # The model is not known yet. Most have 4 channels, an eighth of the image's size.
            _numbers_before(source, source.job, source.job.height * source.job.width // 16)
            known, reads_same = _read_now(source.job)
            settings = Settings.of(**(settings_of(source) | ({} if known else {"any_words": True})))
            return command_line(source.job, settings, source.path, reads_same=reads_same)
        if "prompt" in found.settings:
            return command_of(nearest(found)[0])
    except UsageError as error:
        raise _not_valid(source, error) from error
    raise InputFileError(
        f"no command generates {source.path}",
        why="; ".join(["The prompt is not known", *found.notes]) + ".",
        fix="sdcli inspect shows what is known.",
    )


# Parts of a prompt that other tools do not read as text.
_SYNTAX = (
    ("an adapter", re.compile(r"<(?:lora|lyco|hypernet):[^<>]{0,200}>|\bembedding:[^\s,]{1,100}")),
    ("emphasis", re.compile(r"(?<!\\)\([^()]{0,200}:\s*[\d.]{1,8}\s*\)|(?<!\\)[(\[][^()\[\]]{1,200}[)\]]")),
    ("a keyword", re.compile(r"(?<!\w)(?:BREAK|AND|ADDCOMM|ADDBASE)(?!\w)")),
)
_MOST_NOTES, _LONGEST_NOTE = 20, 80


def nearest(found: Provenance) -> tuple[dict[str, Any], list[str]]:
    """The settings that are nearest to an image of another tool, and what may differ, in words.

    Raises:
        UsageError: a value is not valid, such as 0 steps.
    """
    settings = dict(found.settings)
    different = [f"the {name.replace('_', ' ')} is not known" for name in found.unknown]
    different += _sampling(settings)
    Settings.of(**{name: settings[name] for name in names("image") if name in settings})
    if (model := settings.pop("model", None)) and model not in shipped.NAMES:
        # Other tools name a checkpoint by its file name, often without suffix, and not by its path.
        settings["ckpt"] = model if model.endswith((".ckpt", ".safetensors")) else f"{model}.safetensors"
        by_hash = f" ({settings['model_hash']})" if settings.get("model_hash") else ""
        different.append(f"the path of the model {model}{by_hash} is not known: pass it with --ckpt")
    if found.tool != "sdcli":
        different += _ignored(found)
    different += [
        f"the {name} {settings[name]} is not a multiple of 64"
        for name in ("width", "height")
        if settings.get(name, 0) % 64
    ]
    try:
        chosen = Settings.of(**{name: settings[name] for name in names("image") if name in settings})
        plan = Plan.of(chosen, chosen.steps or ORIGINAL_STEPS)
        sampler = ORIGINAL_SAMPLER if chosen.sampler == AUTO else chosen.sampler
        SAMPLERS[sampler].check(plan, NoiseSchedule(spacing_is_given=False))
    except UsageError as error:
        different.append(f"{error.what}: {error.fix.rstrip('.')}")
    settings.pop("model_hash", None)
    # Choices and wildcards were made before the tool saved the prompt: what looks like one is text.
    if not is_plain(settings.get("prompt", "")):
        settings["compat"] = True
    return settings | {"n_samples": 1, "n_iter": 1}, different


def _sampling(settings: dict[str, Any]) -> list[str]:
    """Replaces a sampler, a schedule and an eta that sdcli does not have by the nearest; returns what differs."""
    different = []
    sampler, schedule = settings.get("sampler", ORIGINAL_SAMPLER), settings.get("schedule", default("schedule"))
    if sampler not in SAMPLERS:
        settings["sampler"] = nearest_sampler(sampler) or ORIGINAL_SAMPLER
        different.append(
            f"sdcli has no sampler {shortened(sampler, _LONGEST_NOTE)}; {settings['sampler']} is used instead"
        )
        sampler = settings["sampler"]
    row = SAMPLERS[sampler]
    nearest = nearest_schedule(schedule) or default("schedule")
    if schedule not in SCHEDULES and row.takes("schedule", nearest):
        different.append(f"sdcli has no schedule {shortened(schedule, _LONGEST_NOTE)}; {nearest} is used instead")
        settings["schedule"] = schedule = nearest
    # Other tools run DDIM as Euler's method, which it is without eta. With linspace, DDIM here does not end at 0.
    only_of_euler = set(SAMPLERS["euler"].schedules) - {"leading", "trailing"}
    if sampler == "ddim" and schedule in only_of_euler and not settings.get("eta"):
        settings["sampler"] = "euler"
        different.append(f"DDIM with the schedule {schedule} is the sampler euler here")
    elif not row.takes("schedule", schedule):
        del settings["schedule"]
        different.append(f"the schedule {shortened(schedule, _LONGEST_NOTE)} is ignored: {sampler} does not take it")
    if not row.takes("eta", settings.get("eta")):
        different.append(f"eta {settings.pop('eta'):g} is ignored: {sampler} does not take it")
    return different


def _ignored(found: Provenance) -> list[str]:
    """What the command leaves out of the values and prompts of another tool."""
    ignored = [
        f"{name} {shortened(str(value), _LONGEST_NOTE)} is ignored"
        for name, value in found.other.items()
        if name not in found.harmless
    ]
    if len(ignored) > _MOST_NOTES:
        ignored = [*ignored[:_MOST_NOTES], f"{len(ignored) - _MOST_NOTES} more values are ignored"]
    as_text = found.settings.get("prompt_syntax", PLAIN) == PLAIN
    for name in ("prompt", "negative_prompt"):
        for what, pattern in _SYNTAX if as_text else ():
            parts = list(dict.fromkeys(match[0] for match in pattern.finditer(found.settings.get(name, "")[:100_000])))
            if parts:
                shown = shortened(", ".join(parts[:5]), _LONGEST_NOTE)
                ignored.append(f"{what} in the {name.replace('_', ' ')} is read as plain text: {shown}")
    if not as_text:
        adapters = parse(found.settings.get("prompt", "")[:100_000], found.settings["prompt_syntax"], 20).adapters
        ignored += [
            f"the LoRA {shortened(adapter.name, _LONGEST_NOTE)} is looked for in --adapters" for adapter in adapters[:5]
        ]
    return ignored


def settings_of(source: Source, model: str | None = None) -> dict[str, Any]:
    """The settings that generate an image again, by name, without its place in the noise.

    Args:
        source: an image with a job.
        model: a model to use instead of the one in the record.
    """
    job = _require_job(source)
    record = source.record if isinstance(source.record, ImageRecord) else ImageRecord()
    recorded = record.settings
    settings = {
        name: from_home(recorded[name]) if options()[name].path else recorded[name]
        for name in names("file", recorded=True)
        if name in recorded
    }
    settings |= job.model_dump(include=set(names("image"))) | _model(job, recorded, model)
    # The method and the checker that were used then, not those that would be chosen now.
    if record.watermark:
        settings |= {"watermark": record.watermark.text, "watermark_method": record.watermark.method}
    else:
        settings["no_watermark"] = True
    settings["safety_checker"] = record.safety.checker if record.safety else "off"
    formats = {each.title: name for name, each in FORMATS.items()}
    return settings | {"format": formats.get(source.format, default("format"))}


def changes_by_name(changes: Mapping[str, str]) -> dict[str, Any]:
    """Changes by the names of the settings.

    Raises:
        UsageError: a setting does not exist, or cannot be changed for a single image.
    """
    changeable = names(rerun=True)
    spelled: dict[str, str] = {}
    for given in changes:
        name = spellings().get(spelling(given))
        if name not in changeable:
            if name in ("model", "ckpt"):
                raise UsageError(
                    f"--set {given} is not a setting of one image", fix="sdcli rerun has the flag --model."
                )
            why = elsewhere(given) or did_you_mean(near(given, changeable))
            raise UsageError(
                f"--set {given} is not a setting of one image",
                why=why,
                fix="" if why else f"These are: {', '.join(changeable)}.",
            )
        spelled[name] = given
    changed: dict[str, Any] = {}
    for given, name, value in assignments({name: changes[given] for name, given in spelled.items()}):
        if options()[name].list_of:
            given = spelled[given]
            raise UsageError(f"--set {given}={changes[given]} has several values", fix="An image has one: pass one.")
        changed[name] = value
    if "watermark" in changed:
        changed = {"no_watermark": False} | changed
    return changed


def no_metadata(path: Path) -> InputFileError:
    """The error of a file that does not say how its image was generated."""
    return InputFileError(
        f"{path} does not say how it was generated",
        why="It contains no metadata that sdcli can read.",
        fix="Many programs and web sites remove metadata: use the file as it was first saved.",
    )


def _require_job(source: Source) -> Job:
    path, found = source.path, source.provenance
    if found is None or not (found.settings or found.other):
        raise no_metadata(path)
    if isinstance(source.record, GridRecord):
        raise InputFileError(f"{path} is a grid of images", fix=_or_inspect("Generate its run again", command(source)))
    if source.job is not None:
        return source.job
    if found.unreadable:
        raise _unreadable(source, found)
    try:
        settings, different = nearest(found)
    except UsageError as error:
        raise _not_valid(source, error) from error
    why = f"{found.tool} generated it" if found.tool != "sdcli" else "Its sdcli record is missing"
    raise InputFileError(
        f"{path} cannot be generated again exactly",
        why="; ".join([why, *different]) + ".",
        fix=_or_inspect("The nearest command is", command_of(settings)),
    )


def _unreadable(source: Source, found: Provenance) -> InputFileError:
    try:
        fix = _or_inspect("The nearest command is", command_of(nearest(found)[0]))
    except UsageError:
        fix = "sdcli inspect shows what is known."
    return InputFileError(
        f"this version cannot read the record of {source.path}",
        why=f"{found.unreadable[:1].upper()}{found.unreadable[1:]}.",
        fix=fix,
    )


def _or_inspect(text: str, command: str) -> str:
    """A text with a command; without it, if it is too long for an error."""
    return f"{text}: {command}" if len(command) <= _LONGEST_COMMAND else "sdcli inspect shows what is known."


def _model(job: Job, recorded: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """The settings that name the model: at its recorded path, or by its name where the original expects it."""
    config = {"config": from_home(recorded["config"])} if "config" in recorded else {}
    if model is not None:
        return {"ckpt": model} | config if Path(model).is_file() else {"model": model}
    if recorded.get("model"):
        return {name: from_home(recorded[name]) for name in ("model", "revision") if name in recorded}
    if not job.model.endswith((".ckpt", ".safetensors")):
        return {"model": job.model}
    given = Path(from_home(recorded.get("ckpt", job.model)))
    places = [given, Path(job.model), Path(default("ckpt")).parent / job.model]
    # os.path, which has an answer for names that no file can have.
    return {"ckpt": str(next((place for place in places if os.path.isfile(place)), given))} | config  # noqa: PTH113


def _require_model(
    source: Source, job: Job, settings: Settings, *, force: bool, given: bool, may_download: Callable[[str], bool]
) -> ModelSource:
    """The model that generated the image, found and hashed before it loads.

    Args:
        source: the image.
        job: its job.
        settings: those of the run.
        force: use a model with another hash.
        given: whether the user names the model; otherwise only the record does.
        may_download: see `rerun`.
    """
    try:
        if not given and not force and settings.checkpoint and os.path.isfile(settings.checkpoint):  # noqa: PTH113
            checkpoint = Path(settings.checkpoint)
            _require_hash(source, job, checkpoint.name, hashes.of_file(checkpoint))
        found = models.find_for(settings) if given else _find_recorded(settings, may_download)
    except (ModelNotFound, OSError) as error:
        raise ModelNotFound(
            f"the model {job.model}, which generated {source.path}, is not found",
            why=str(error).replace("\n", " "),
            fix="Pass its path with --model, or its configuration, if that is missing, with --set config=FILE.",
        ) from error
    if not force:
        _require_hash(source, job, found.spec.name, found.hash())
    return found


def _require_files(
    source: Source,
    job: Job,
    settings: Settings,
    changed: Mapping[str, Any],
    *,
    force: bool,
    may_download: Callable[[str], bool],
) -> None:
    """Check that the files that change the model are those of the record, before anything in them is read.

    Args:
        source: the image.
        job: its job.
        settings: those of the run.
        changed: the settings that the user names; the others come from the record.
        force: use other files of the same names.
        may_download: see `rerun`.

    Raises:
        ModelError: a file is not found, or is another one.
    """
    for setting in adapters.SETTINGS:
        for path in adapters.paths(setting, getattr(settings, setting)) if setting not in changed else ():
            try:
                found = adapters.locate(setting, path, settings.adapters, offline=True)
            except ModelNotFound as error:
                on_hub = adapters.is_hub_file(path) and not settings.offline
                if not on_hub or not may_download(f"the adapter {path} from {constants.ENDPOINT}"):
                    raise ModelNotFound(
                        f"{flag(setting)} {path}, which generated {source.path}, is not found",
                        why=str(error).replace("\n", " "),
                        fix=f"Pass its path with --set {setting}=FILE.",
                    ) from error
                found = adapters.locate(setting, path, settings.adapters, offline=False)
            if not force and found.hash != (recorded := job.files.get(path, "")):
                raise ModelError(
                    f"{flag(setting)} {path} is not the file that generated {source.path}",
                    why=f"Its hash is {found.hash[:16]}, the record's is {recorded[:16] or 'not known'}.",
                    fix=f"Pass the right one with --set {setting}=FILE, or use this one anyway with --force.",
                )


def _find_recorded(settings: Settings, may_download: Callable[[str], bool]) -> ModelSource:
    try:
        return models.find_here(settings)
    except models.NotDownloaded:
        at = f" at {settings.revision}" if settings.revision else ""
        if not may_download(f"the model {settings.model}{at} from {constants.ENDPOINT}"):
            raise
        return models.find_for(settings)


def _require_checker(settings: Settings, found: ModelSource, may_download: Callable[[str], bool], *, own: bool) -> None:
    """Check that the safety checker is on this machine; `own`: the user's settings have the same safety model."""
    name = settings.safety_model
    try:
        checker = safety.require_here(settings, found)
    except ModelNotFound:
        of_hub = settings.safety_checker == "clip" and not found.spec.has_safety_checker and models.is_hub_id(name)
        if not of_hub or not may_download(f"the safety checker {name} from {constants.ENDPOINT}"):
            raise
        return
    if checker is not None and checker.source == name and os.path.isdir(name) and not own:  # noqa: PTH112
        raise ModelNotFound(
            f"the safety model {name} is a folder that only the record names",
            why="A record may come from anybody, and has no hash of a safety model.",
            fix=f"If you trust it, pass --set safety_model={name}; otherwise --set safety_checker=opennsfw.",
        )


def _require_hash(source: Source, job: Job, name: str, found: str) -> None:
    if found != job.model_hash:
        raise ModelError(
            f"the model {name} is not the one that generated {source.path}",
            why=f"Its hash is {found[:16]}, the record's is {job.model_hash[:16]}.",
            fix="Pass the right one with --model, or use this one anyway with --force.",
        )
