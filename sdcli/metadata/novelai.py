"""Reads NovelAI's metadata: JSON in the text `Comment`, beside `Software`, `Source` and `Description`.

WebP files have the same texts as one JSON object in UserComment, or only the JSON of `Comment`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.texts import COMMENT_KEY
from sdcli.metadata.values import NO_RNG, OTHER_IMAGE, fields, objects, others, reading, sampling

TOOL = "NovelAI"
READ = {"prompt", "uc", "seed", "steps", "sampler", "noise_schedule", "scale", "width", "height", "v4_prompt",
        "v4_negative_prompt", "cfg_rescale"}  # fmt: skip
# Values that have no effect, or only beside others.
HARMLESS = {"signed_hash", "version", "params_version", "hide_debug_overlay", "stream", "n_samples", "legacy_v3_extend",
            "cfg_sched_eligibility", "deliberate_euler_ancestral_bug", "prefer_brownian", "explike_fine_detail",
            "minimize_sigma_inf", "uncond_per_vibe", "wonky_vibe_correlation", "dynamic_thresholding_percentile",
            "dynamic_thresholding_mimic_scale", "normalize_reference_strength_multiple"}  # fmt: skip
NEUTRAL = {
    "uncond_scale": ("1", "1.0"),
    "controlnet_strength": ("1", "1.0"),
    "request_type": ("PromptGenerateRequest",),
}
_SOURCE = re.compile(r"(.*\S)\s+([0-9A-Fa-f]{8})", re.DOTALL)
_NUMBERS = re.compile(r"\d::")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from NovelAI's texts; returns None if the file has none."""
    values: Mapping[str, Any] = texts
    comment: Any = read_object(texts.get("Comment", ""))
    if comment is None and (described := next(objects({COMMENT_KEY: texts.get(COMMENT_KEY, "")}), None)):
        values, comment = described, described.get("Comment", described)
        comment = read_object(comment) if isinstance(comment, str) else comment
    comment = fields(comment)
    own = str(values.get("Software", "")).strip().casefold() == TOOL.casefold()
    if not own and not ("sampler" in comment and {"uc", "v4_prompt", "signed_hash"} & comment.keys()):
        return None
    return _read(comment, values.get("Description"), str(values.get("Source", "")).strip())


def _read(comment: dict[str, Any], description: Any, source: str) -> Provenance:
    base, characters = _captions(comment.get("v4_prompt"))
    negative, negative_characters = _captions(comment.get("v4_negative_prompt"))
    # The first version has the prompt only in `Description`.
    prompt = comment.get("prompt", description) if base is None else base
    negative = comment.get("uc") if negative is None else negative
    model = _SOURCE.fullmatch(source)
    other = others(comment, READ | HARMLESS, NEUTRAL)
    notes = [NO_RNG]
    if characters or negative_characters:
        other |= others({"characters": characters, "negative characters": negative_characters}, ())
        notes.append("the image has prompts of its characters beside the prompt")
    if isinstance(prompt, str) and _NUMBERS.search(prompt[:100_000]):
        notes.append("the prompt has weights in numbers, as in 1.5::x::, which are read as text")
    if comment.get("sm") or comment.get("sm_dyn"):
        notes.append("the sampler is a variant of NovelAI, SMEA")
    if "request_type" in other:
        notes.append(OTHER_IMAGE)
    if not comment:
        notes = ["the settings in `Comment` are missing or damaged"]
    return Provenance(
        TOOL,
        "",
        known(
            prompt=prompt,
            negative_prompt=negative,
            seed=comment.get("seed"),
            steps=comment.get("steps"),
            **sampling(comment.get("sampler"), comment.get("noise_schedule")),
            scale=comment.get("scale"),
            guidance_rescale=comment.get("cfg_rescale") or None,
            width=comment.get("width"),
            height=comment.get("height"),
            model=model[1] if model else source or None,
            model_hash=model[2] if model else None,
            **reading("novelai", prompt, negative),
        ),
        other,
        tuple(notes),
    )


def _captions(prompt: Any) -> tuple[str | None, list[str]]:
    """Returns the base caption of a prompt of version 4, None if unknown, and the captions of its characters."""
    caption = fields(fields(prompt).get("caption"))
    base, characters = caption.get("base_caption"), caption.get("char_captions")
    texts = [fields(each).get("char_caption") for each in (characters if isinstance(characters, list) else [])]
    return base if isinstance(base, str) else None, [text for text in texts if isinstance(text, str) and text]
