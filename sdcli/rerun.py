"""From an image's record back to the image, and how far apart the two are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sdcli import models
from sdcli.errors import InputFileError, ModelError, ModelNotFound, UsageError
from sdcli.events import Watch
from sdcli.jobs import Job
from sdcli.metadata import provenance, texts
from sdcli.metadata.provenance import Provenance
from sdcli.model_spec import NoiseSchedule
from sdcli.outputs.command import command_line, command_of
from sdcli.outputs.formats import opened
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.records import BESIDES_JOB
from sdcli.settings import MODEL, PROMPT, SAMPLING, SIZE, STAGES, Settings, flags, spellings
from sdcli.txt2img import GeneratedImage, draw

SAME_FROM = 40.0
"""dB PSNR from which two drawings count as one: rounding, on another device or in another batch, stays above it."""

# What makes one image. The rest of the settings make the run it is from, or where its files go.
_OF_THE_RUN = {"from_file", "n_samples", "n_iter", "fixed_code", "channels", "downscale", "plms", "dpm_solver", "ckpt"}
CHANGEABLE = [
    name
    for name, flag, _, _ in flags()
    if (flag.panel in (PROMPT, SIZE, SAMPLING, MODEL, STAGES) and name not in _OF_THE_RUN | {"laion400m", "model"})
    or name == "format"
]
ONE = {"n_samples": 1, "n_iter": 1, "skip_grid": True, "compat": True}
"""One image, of a prompt whose choices are made."""


@dataclass(frozen=True)
class Source:
    """An image file as `read` finds it."""

    path: Path
    pixels: NDArray[np.uint8]
    """RGB, (height, width, 3)."""
    format: str
    """As Pillow names it: PNG, JPEG, WEBP and others."""
    provenance: Provenance | None

    @property
    def job(self) -> Job | None:
        """The job of its record; None if it has none that this version understands."""
        record = self.provenance.record if self.provenance else None
        try:
            return Job.model_validate(record["job"]) if record else None
        except ValidationError:
            return None

    @property
    def grid(self) -> Mapping[str, Any] | None:
        """The settings of its run, if it is a grid."""
        record = self.provenance.record if self.provenance else None
        settings = record.get("grid") if record else None
        return settings if isinstance(settings, dict) else None


@dataclass(frozen=True)
class Comparison:
    """Two images of one size, beside each other."""

    psnr: float
    """Peak signal-to-noise ratio over all pixels and colours, in dB; infinite where they are identical."""
    largest_difference: int
    """Of a colour of a pixel, of 255."""

    @property
    def identical(self) -> bool:
        return self.largest_difference == 0

    @property
    def same(self) -> bool:
        """Whether it is one image, to rounding."""
        return self.psnr >= SAME_FROM


def read(path: Path) -> Source:
    """The image in a file, and what the file says of it.

    Raises:
        InputFileError: it is missing or no image.
    """
    with opened(path) as image:
        # What lies under transparency counts: a mark may be there.
        return Source(path, np.asarray(image.convert("RGB")), str(image.format), provenance(texts.read(image)))


def compare(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Comparison:
    """Two images, (height, width, 3), of one size."""
    apart = first.astype(np.float64) - second
    error = float(np.mean(apart**2))
    return Comparison(10 * math.log10(255**2 / error) if error else math.inf, int(np.abs(apart).max()))


def rerun(
    source: Source,
    watch: Watch,
    *,
    changes: Mapping[str, str] | None = None,
    model: str | None = None,
    force: bool = False,
    **where: Any,
) -> tuple[GeneratedImage, Comparison | None]:
    """Draw an image again from its record, with the noise that it had in its run, and save it as a new file.

    Args:
        source: the image, as `read` gives it.
        watch: is told of the progress.
        changes: settings to change, by any of their names.
        model: a checkpoint, folder or hub id to take in place of the one that the record names.
        force: draw also if the model's hash is not the record's.
        where: further settings that do not change the image: outdir, device, offline.

    Returns:
        The new image, and how far it is from the old one; None if something was changed.

    Raises:
        InputFileError: the image has no record, or is a grid.
        ModelError: the model is not there, or is another one.
        sdcli.errors.SdcliError: whatever drawing can raise.
    """
    job = _require_job(source)
    changed = changes_by_name(changes or {})
    settings = Settings.of(**(settings_of(source, model) | changed | ONE | where))
    _require_model(source, job, settings, force)

    def in_its_place(planned: Job) -> Job:
        # All is as the settings say but for the place in the noise, which only a whole run could lead to.
        return planned.model_copy(update={"noise": job.noise, "index": job.index})

    image = next(draw(settings, watch, change=in_its_place, record=False))
    if changed or image.path is None:
        return image, None
    again = read(image.path).pixels
    if again.shape != source.pixels.shape:
        watch.note(f"{source.path} has another size than its record says, and is not compared")
        return image, None
    return image, compare(source.pixels, again)


def command(source: Source) -> str:
    """The `sdcli txt2img` command that draws the image again, or for another tool's image the nearest one.

    Raises:
        InputFileError: the file does not say how it was drawn.
    """
    if source.provenance is None or not source.provenance.settings:
        raise unknown(source.path)
    if source.grid is not None:
        asked = {name: source.grid[name] for name in Settings.model_fields if source.grid.get(name) is not None}
        return command_of(asked)
    if (job := source.job) is not None:
        return command_line(job, Settings.of(**settings_of(source)))
    return command_of(nearest(source.provenance)[0])


def nearest(found: Provenance) -> tuple[dict[str, Any], list[str]]:
    """The settings that come nearest to another tool's image, and in what they may not be the same."""
    settings = dict(found.settings)
    apart = [f"the {name.replace('_', ' ')} is not known" for name in found.unknown]
    if (model := settings.pop("model", None)) and model != "builtin":
        # Tools name checkpoints by their file, most without its ending; where it lies is not known.
        settings["ckpt"] = model if model.endswith((".ckpt", ".safetensors")) else f"{model}.safetensors"
        by_hash = f" ({settings['model_hash']})" if settings.get("model_hash") else ""
        apart.append(f"where the model {model}{by_hash} lies is not known: give its path with --ckpt")
    sampler = settings.get("sampler", "ddim")
    if sampler not in SAMPLERS:
        settings["sampler"] = "dpm_solver" if sampler.casefold().startswith("dpm") else "ddim"
        apart.append(f"sdcli has no sampler {sampler}; {settings['sampler']} stands in")
    apart += [f"{name} {value} is left out" for name, value in found.other.items() if name in ("denoise", "loras")]
    apart += [
        f"the {name} {settings[name]} is not a multiple of 64"
        for name in ("width", "height")
        if settings.get(name, 0) % 64
    ]
    try:
        SAMPLERS[settings.get("sampler", "ddim")].check(settings.get("steps", 50), NoiseSchedule())
    except UsageError as error:
        apart.append(f"{error.what}: {error.fix.rstrip('.')}")
    settings.pop("model_hash", None)
    return settings | {"n_samples": 1, "n_iter": 1}, apart


def settings_of(source: Source, model: str | None = None) -> dict[str, Any]:
    """The settings that draw an image of sdcli's again, by name, all but its place in the noise.

    Args:
        source: an image with a job.
        model: one to take in place of that which the record names.
    """
    job, record = _require_job(source), dict((source.provenance and source.provenance.record) or {})
    asked, mark, safety = (_fields(record.get(name)) for name in ("settings", "watermark", "safety"))
    settings = {name: asked[name] for name in BESIDES_JOB - {"model", "revision"} if name in asked}
    settings |= job.model_dump(include=set(Settings.model_fields) - {"model"}) | _model(job, asked, model)
    # The method and the checker that were found then, not what would be found now.
    if mark:
        settings |= {"watermark": mark.get("text"), "watermark_method": mark.get("method")}
    else:
        settings["no_watermark"] = True
    settings["safety_checker"] = safety.get("checker", "off")
    return settings | {"format": {"JPEG": "jpeg", "WEBP": "webp"}.get(source.format, "png")}


def changes_by_name(changes: Mapping[str, str]) -> dict[str, Any]:
    """Changes by the settings' own names.

    Raises:
        UsageError: there is no such setting, or it is not one of a single image.
    """
    changed: dict[str, Any] = {}
    for spelling, value in changes.items():
        name = spellings().get(spelling.lstrip("-").replace("-", "_"))
        if name not in CHANGEABLE:
            raise UsageError(
                f"--set {spelling} is not a setting of one image", fix=f"Those are: {', '.join(CHANGEABLE)}."
            )
        changed[name] = value.replace("-", "_") if name == "sampler" else value
    if "watermark" in changed:
        changed = {"no_watermark": False} | changed
    return changed


def unknown(path: Path) -> InputFileError:
    """That a file does not say how its image was drawn."""
    return InputFileError(
        f"{path} does not say how it was drawn",
        why="It holds no metadata of sdcli, AUTOMATIC1111's web UI, ComfyUI or InvokeAI.",
        fix="Many programs and web sites take it out; look for the image as it was first saved.",
    )


def _require_job(source: Source) -> Job:
    path, found = source.path, source.provenance
    if found is None or not (found.settings or found.other):
        raise unknown(path)
    if source.grid is not None:
        raise InputFileError(f"{path} is a grid of images", fix=f"Draw its run again: {command(source)}")
    if (job := source.job) is not None:
        return job
    if found.record is not None:
        raise InputFileError(
            f"the record of {path} is not one that this version understands",
            why=f"It was written by sdcli {found.version}.",
            fix=f"The nearest is: {command_of(nearest(found)[0])}",
        )
    settings, apart = nearest(found)
    why = f"It was drawn by {found.tool}" if found.tool != "sdcli" else "It has lost sdcli's record"
    raise InputFileError(
        f"{path} cannot be drawn again exactly",
        why="; ".join([why, *apart]) + ".",
        fix=f"The nearest is: {command_of(settings)}",
    )


def _model(job: Job, asked: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """Where to look for the model: where it is said to be, or by its name where the original's layout has it."""
    config = {"config": _expanded(asked["config"])} if "config" in asked else {}
    if model is not None:
        return {"ckpt": model} | config if Path(model).is_file() else {"model": model}
    if "model" in asked:
        return {name: _expanded(asked[name]) for name in ("model", "revision") if name in asked}
    if job.model == "builtin":
        return {"model": job.model}
    if not job.model.endswith((".ckpt", ".safetensors")):
        return {"model": job.model}
    default = Path(Settings.model_fields["ckpt"].default)
    said = Path(_expanded(asked.get("ckpt", job.model)))
    places = [said, Path(job.model), default.parent / job.model]
    return {"ckpt": str(next((place for place in places if place.is_file()), said))} | config


def _require_model(source: Source, job: Job, settings: Settings, force: bool) -> None:
    """That the model is there, and the one that drew the image; its hash is known before it loads."""
    try:
        found = models.find_for(settings)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"the model {job.model}, which drew {source.path}, is not found",
            why=str(error).replace("\n", " "),
            fix="Give its path with --model, or its configuration, if that is missing, with --set config=FILE.",
        ) from error
    if (now := found.hash()) != job.model_hash and not force:
        raise ModelError(
            f"the model {found.spec.name} is not the one that drew {source.path}",
            why=f"Its hash is {now[:16]}, the record's {job.model_hash[:16]}.",
            fix="Give the right one with --model, or draw with this one nevertheless with --force.",
        )


def _expanded(path: Any) -> str:
    return os.path.expanduser(str(path))  # noqa: PTH111


def _fields(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
