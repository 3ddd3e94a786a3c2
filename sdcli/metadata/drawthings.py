"""Reads Draw Things's metadata: JSON in UserComment, which XMP has too, or the description beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.texts import COMMENT_KEY, CREATOR_KEY
from sdcli.metadata.values import fields, file_name, objects, others, sampler_name

TOOL = "Draw Things"
READ = {"c", "uc", "seed", "steps", "sampler", "scale", "size", "model"}
HARMLESS = {"v2", "profile", "mask_blur", "mask_blur_outset"}
# The names in the description.
TITLES = {"guidance scale": "scale"}
# How the noise follows from the seed. The other modes have random numbers that sdcli does not have.
SEED_MODES = {"torch cpu compatible": "cpu", "nvidia gpu compatible": "cuda"}
NOTE = "Draw Things converts models to a format of its own, which sdcli cannot read"
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")
_VALUES = re.compile(r"(?:\A|\n)Steps: [^\n]*\s*\Z")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from Draw Things's metadata; returns None if the file has none."""
    own = texts.get(CREATOR_KEY, "").strip() == TOOL
    for content in objects(texts):
        # Every version writes these.
        if "c" in content and (own or {"uc", "sampler", "seed", "size"} <= content.keys()):
            skipped = fields(content.get("v2")).get("clipSkip")
            more = {"clip_skip": skipped} if skipped != 1 else {}
            return _read(content, others(content | more, READ | HARMLESS), [])
    description = texts.get(COMMENT_KEY, "").rstrip()
    return _description(description) if own and _VALUES.search(description) else None


def _description(text: str) -> Provenance:
    """Reads the prompt, the negative prompt after a dash, and a line of values."""
    prompts, _, line = text.rpartition("Steps: ")
    pairs = [part.partition(": ") for part in f"Steps: {line}".split(", ")]
    values: dict[str, Any] = {}
    for title, _, value in pairs:
        key = title.casefold()
        values.setdefault(TITLES.get(key, key.replace(" ", "_")), value)
    prompt, *negatives = prompts.removesuffix("\n").split("\n-")
    if len(negatives) > 1:
        return _read(values, others(values, READ), ["the description does not say where the negative prompt begins"])
    return _read(values | {"c": prompt, "uc": "".join(negatives)}, others(values, READ), [])


def _read(values: dict[str, Any], other: dict[str, Any], notes: list[str]) -> Provenance:
    size = values.get("size")
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    mode = str(values.get("seed_mode", ""))
    rng = SEED_MODES.get(mode.casefold())
    if rng is None:
        notes.append(f"sdcli does not have the random numbers of the seed mode {mode[:80]}".rstrip())
    if str(other.get("strength")) in ("1", "1.0"):
        del other["strength"]
    return Provenance(
        TOOL,
        "",
        known(
            prompt=values.get("c"),
            negative_prompt=values.get("uc"),
            seed=values.get("seed"),
            rng=rng,
            steps=values.get("steps"),
            sampler=sampler_name(values.get("sampler"), None, ()),
            scale=values.get("scale"),
            width=found and found[1],
            height=found and found[2],
            model=file_name(values.get("model")),
        ),
        other,
        (*notes, NOTE),
    )
