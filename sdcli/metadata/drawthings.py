"""Reads Draw Things's metadata: JSON in UserComment, which XMP has too, or the description beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.texts import COMMENT_KEY, CREATOR_KEY
from sdcli.metadata.values import fields, file_name, objects, others, sampling

TOOL = "Draw Things"
READ = {"c", "uc", "seed", "steps", "sampler", "scale", "size", "model"}
HARMLESS = {"v2", "profile", "mask_blur", "mask_blur_outset"}
NEUTRAL = {"strength": ("1", "1.0"), "shift": ("1", "1.0"), "clip_skip": ("1",)}
# The names in the description.
TITLES = {"guidance scale": "scale"}
# How the noise follows from the seed. The other modes have random numbers that sdcli does not have.
SEED_MODES = {"torch cpu compatible": "cpu", "nvidia gpu compatible": "cuda"}
NOTE = "Draw Things converts models to a format of its own, which sdcli cannot read"
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from Draw Things's metadata; returns None if the file has none."""
    own = texts.get(CREATOR_KEY, "").strip() == TOOL
    for content in objects(texts):
        # Every version writes these.
        if "c" in content and (own or {"uc", "sampler", "seed", "size"} <= content.keys()):
            more = {"clip_skip": fields(content.get("v2")).get("clipSkip")}
            return _read(content | more, [])
    description = texts.get(COMMENT_KEY, "").rstrip()
    prompts, _, line = description.rpartition("\n")
    return _description(prompts, line) if own and line.startswith("Steps: ") else None


def _description(prompts: str, line: str) -> Provenance:
    """Reads the prompt with the negative prompt after a dash, and a line of values."""
    values: dict[str, Any] = {}
    for title, _, value in (part.partition(": ") for part in line.split(", ")):
        key = title.casefold()
        values[TITLES.get(key, key.replace(" ", "_"))] = value
    prompt, *negatives = prompts.split("\n-")
    if len(negatives) > 1:
        return _read(
            values | {"c": None, "uc": None}, ["the description does not say where the negative prompt begins"]
        )
    return _read(values | {"c": prompt, "uc": "".join(negatives)}, [])


def _read(values: dict[str, Any], notes: list[str]) -> Provenance:
    size = values.get("size")
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    mode = str(values.get("seed_mode", ""))
    rng = SEED_MODES.get(mode.casefold())
    if rng is None:
        notes.append(f"sdcli does not have the random numbers of the seed mode {mode[:80]}".rstrip())
    return Provenance(
        TOOL,
        "",
        known(
            prompt=values.get("c"),
            negative_prompt=values.get("uc"),
            seed=values.get("seed"),
            rng=rng,
            steps=values.get("steps"),
            **sampling(values.get("sampler")),
            scale=values.get("scale"),
            width=found and found[1],
            height=found and found[2],
            model=file_name(values.get("model")),
        ),
        others(values, READ | HARMLESS, NEUTRAL),
        (*notes, NOTE),
    )
