"""A batch of images by a pipeline of diffusers: conditioning, sampling and decoding are the pipeline's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sdcli.errors import ModelError, SdcliError
from sdcli.jobs import Job
from sdcli.memory import is_out_of_memory
from sdcli.models import pipeline_class, pretrained
from sdcli.models.model import PipelineModel
from sdcli.pipeline.noise import PipelineNoise
from sdcli.pipeline.samplers import Step
from sdcli.terminal import shortened

_LONGEST = 300


def generate(
    model: PipelineModel, jobs: Sequence[Job], on_step: Callable[[Step], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate a batch; see `sdcli.pipeline.generate`.

    The noise is that of the jobs, whether or not the pipeline takes latents. Autocast is the data type of the weights:
    pipelines are written for that, and not for autocast.

    Raises:
        ModelError: the pipeline fails, or draws no noise that depends on the seed.
    """
    spec = model.spec.pipeline
    assert spec is not None, "a model of this kind has one"
    negative = [bool(job.negative_prompt) for job in jobs]
    if spec.no_text_is_zero and any(negative) and not all(negative):
        # One call has negative prompts for all or for none.
        both = [generate(model, [job], on_step) for job in jobs]
        return torch.cat([images for images, _ in both]), torch.cat([latents for _, latents in both])
    kind = model.device.type
    half = torch.is_autocast_enabled(kind)
    _cast(model.pipeline, torch.get_autocast_dtype(kind) if half else torch.float32)
    latest: list[torch.Tensor] = []

    def after_step(index: int, timestep: Any, latents: torch.Tensor) -> None:
        latest[:] = [latents]
        on_step(Step(index, float(timestep), math.nan, latents, None))

    noise = PipelineNoise(jobs)
    try:
        with torch.autocast(kind, enabled=False), pretrained.quiet(), noise:
            found = model.pipeline(**_arguments(model, jobs, after_step))[0]
        if not noise.draws:
            raise ValueError("It draws no noise with torch.randn, so the seed has no effect")
        images = torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1
        if images.shape != (wanted := (len(jobs), 3, jobs[0].height, jobs[0].width)):
            raise ValueError(f"It returns {tuple(images.shape)} for {wanted}")
    # Of any type: a pipeline fails in its own way for sizes, texts and configurations that it cannot handle.
    except Exception as error:
        if isinstance(error, SdcliError) or is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {str(error).strip().split(chr(10), 1)[0].rstrip('.')}."
        raise ModelError(
            f"{spec.name} of diffusers cannot generate this image with the model {model.spec.name}",
            why=shortened(why, _LONGEST),
            fix="Try other --H, --W and --steps, or the model's own; or the model is damaged: download it again.",
        ) from error
    return images, latest[0].float() if latest else images


def _arguments(
    model: PipelineModel, jobs: Sequence[Job], after_step: Callable[[int, Any, torch.Tensor], None]
) -> dict[str, Any]:
    """What the pipeline is called with."""
    spec, first = model.spec.pipeline, jobs[0]
    assert spec is not None, "a model of this kind has one"
    known = pipeline_class.find(spec.name)
    assert known is not None, "the source has found it"
    arguments: dict[str, Any] = {
        "prompt": [job.encoded for job in jobs], "height": first.height, "width": first.width,
        "num_inference_steps": first.steps, "output_type": "np",
    }  # fmt: skip
    if spec.scale:
        arguments[spec.scale] = first.scale
    if spec.takes_negative_prompt and not (spec.no_text_is_zero and not first.negative_prompt):
        arguments["negative_prompt"] = [job.negative_prompt for job in jobs]
    if spec.takes_rescale:
        arguments["guidance_rescale"] = first.guidance_rescale
    # The size and the text are those of the job: not the nearest size of a list, nor a text that is changed if the
    # libraries for that are installed.
    arguments |= {name: False for name in ("use_resolution_binning", "clean_caption") if name in known.parameters}
    if first.steps != 2 and "intermediate_timesteps" in known.parameters:
        arguments["intermediate_timesteps"] = None  # its default is for two steps
    if "callback_on_step_end" in known.parameters:

        def on_step_end(_: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            after_step(index, timestep, values["latents"])
            return values

        arguments["callback_on_step_end"] = on_step_end
    elif "callback" in known.parameters:
        arguments["callback"] = after_step
    return arguments


def _cast(pipeline: Any, dtype: torch.dtype) -> None:
    """Give the weights a data type. Those of files with 16 bits stay the same, also in 32 bits and back."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module) and getattr(part, "dtype", dtype) != dtype:
            part.to(dtype)
