"""Every other model: a pipeline of diffusers generates its images as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcli.errors import UsageError
from sdcli.models import shipped
from sdcli.models.families import Family
from sdcli.settings import default, flag, names
from sdcli.terminal import shortened

if TYPE_CHECKING:
    from sdcli.model_spec import ModelSpec
    from sdcli.settings import Settings

HONOURED = {"prompt", "negative_prompt", "steps", "scale", "guidance_rescale", "seed", "rng", "height", "width",
            "precision"}  # fmt: skip
"""The settings of an image that a pipeline takes, or that decide its noise and its data type."""
_LONGEST = 60


class OfDiffusers(Family):
    """What diffusers generates of text. The text encoders are the pipeline's own, so most fields are empty."""

    label = ""
    folder_models = "what diffusers generates of text alone"
    part = ""
    text_encoders = ()
    tokenizers = ()
    vocabulary = shipped.VOCABULARIES
    vocabulary_files = ()

    def require(self, settings: Settings, spec: ModelSpec) -> list[str]:
        """Refuse what the pipeline does not take; notes the pipeline's defaults.

        Raises:
            UsageError: a setting that would have no effect.
        """
        pipeline = spec.pipeline
        assert pipeline is not None, "the source of this family sets it"
        for name in names("image"):
            if name not in HONOURED and getattr(settings, name) != default(name):
                why = f"{pipeline.name} of diffusers generates its images of prompt, size, steps, scale and noise."
                raise _refused(name, settings, spec, why)
        if settings.guidance_rescale and not pipeline.takes_rescale:
            raise _refused("guidance_rescale", settings, spec, f"{pipeline.name} of diffusers does not take it.")
        if not pipeline.scale and settings.scale not in (None, spec.default_scale):
            raise _refused("scale", settings, spec, "It has no guidance, or one that is fixed in its weights.")
        if settings.negative_prompt and not pipeline.takes_negative_prompt:
            raise _refused(
                "negative_prompt", settings, spec,
                "Its guidance is learned, and not a difference from the prediction for a negative prompt.",
            )  # fmt: skip
        scale = spec.default_scale if settings.scale is None else settings.scale
        notes = [_defaults(settings, spec)]
        if settings.negative_prompt and scale <= 1:
            notes.append(f"{flag('negative_prompt')} has no effect at a guidance scale of {scale:g}")
        return list(filter(None, notes))


def _refused(name: str, settings: Settings, spec: ModelSpec, why: str) -> UsageError:
    value = getattr(settings, name)
    value = value[0] if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    return UsageError(
        f"{flag(name)} {shortened(str(value), _LONGEST)} does not work with the model {spec.name}",
        why=why,
        fix=f"Leave out {flag(name)}.",
        settings=(name,),
    )


def _defaults(settings: Settings, spec: ModelSpec) -> str:
    """Which of the settings are the pipeline's own, in words."""
    assert spec.pipeline is not None, "the source of this family sets it"
    own = [f"{spec.default_steps} steps"] if settings.steps == spec.default_steps else []
    if spec.pipeline.scale and settings.scale in (None, spec.default_scale):
        own.append(f"scale {spec.default_scale:g}")
    if settings.height is None and settings.width is None:
        own.append(f"{spec.default_width} x {spec.default_height} pixels")
    return f"by default of {spec.pipeline.name}: {', '.join(own)}" if own else ""


# Nothing calls the methods for text encoders and checkpoints, which it does not have.
FAMILY = OfDiffusers()  # type: ignore[abstract]
