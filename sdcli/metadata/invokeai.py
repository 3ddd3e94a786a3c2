"""Reads InvokeAI's metadata: `invokeai_metadata` of version 3 and later, `sd-metadata` of 2, `Dream` of older ones."""

from __future__ import annotations

import json
import re
import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, known
from sdcli.settings import own_sampler

TOOL = "InvokeAI"
# The options in a Dream command line, with the value attached ("-s50") or as the next argument ("-s 50").
DREAM = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "scale", "A": "sampler"}
LONG = {"steps": "s", "seed": "S", "width": "W", "height": "H", "cfg_scale": "C", "sampler": "A"}
OTHER_IMAGE = "the image was generated from another image"
# The options that InvokeAI writes first, after a prompt that it does not always quote, and never escapes.
_OPTIONS = re.compile(r"\s-s ?\d+ -S ?-?\d+(?=\s|\Z)")
_OPTION = re.compile(r"\s--?[A-Za-z]")
# Characters of the options in a Dream command line.
_LONGEST = 100_000


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from InvokeAI's metadata; returns None if the file has none."""
    if (metadata := read_object(texts.get("invokeai_metadata", ""))) is not None:
        return _metadata(metadata)
    if (metadata := read_object(texts.get("sd-metadata", ""))) is not None:
        return _sd_metadata(metadata)
    command = texts.get("Dream") or texts.get("dream")
    return _dream(command) if command else None


def _metadata(metadata: dict[str, Any]) -> Provenance:
    model = _fields(metadata.get("model"))
    mode = str(metadata.get("generation_mode", ""))
    other_image = bool(metadata.get("init_image")) or "img2img" in mode or "paint" in mode
    used = ("positive_prompt", "negative_prompt", "seed", "rand_device", "steps", "scheduler", "cfg_scale", "width",
             "height", "model", "app_version")  # fmt: skip
    return Provenance(
        TOOL,
        str(metadata.get("app_version", "")),
        known(
            prompt=metadata.get("positive_prompt"),
            negative_prompt=metadata.get("negative_prompt"),
            seed=metadata.get("seed"),
            rng={"cpu": "cpu", "cuda": "cuda"}.get(str(metadata.get("rand_device"))),
            steps=metadata.get("steps"),
            sampler=own_sampler(str(metadata.get("scheduler", ""))) or None,
            scale=metadata.get("cfg_scale"),
            width=metadata.get("width"),
            height=metadata.get("height"),
            model=model.get("name", model.get("model_name", metadata.get("model"))),
            model_hash=model.get("hash"),
        ),
        {key: value for key, value in metadata.items() if key not in used and value not in (None, [], "", {}, False)},
        (OTHER_IMAGE,) if other_image else (),
    )


def _sd_metadata(metadata: dict[str, Any]) -> Provenance:
    image = _fields(metadata.get("image"))
    notes: tuple[str, ...] = ()
    of_grid = metadata.get("images")
    images = [_fields(each) for each in of_grid] if isinstance(of_grid, list) else []
    if not image and images:
        notes += (f"the file is a grid of {len(images)} images; only their common settings are known",)
        first, *rest = images
        image = {key: value for key, value in first.items() if all(each.get(key) == value for each in rest)}
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        if len(prompt) > 1:
            notes += (f"the image was generated from a blend of {len(prompt)} prompts; the prompt is all of them",)
        # InvokeAI blends these prompts by their weights, which a single prompt cannot express.
        prompt = ", ".join(str(_fields(part).get("prompt", "")) for part in prompt)
    positive, negative = _split(prompt) if isinstance(prompt, str) else (None, None)
    used = ("prompt", "seed", "steps", "sampler", "cfg_scale", "width", "height")
    return Provenance(
        TOOL,
        str(metadata.get("app_version", "")),
        known(
            prompt=positive,
            negative_prompt=negative,
            seed=image.get("seed"),
            steps=image.get("steps"),
            sampler=own_sampler(str(image.get("sampler", ""))) or None,
            scale=image.get("cfg_scale"),
            width=image.get("width"),
            height=image.get("height"),
            model=metadata.get("model_weights") or metadata.get("model_id"),
            model_hash=metadata.get("model_hash"),
        ),
        {key: value for key, value in image.items() if key not in used and value not in (None, [], "", {}, False)},
        (*notes, OTHER_IMAGE) if image.get("type") == "img2img" else notes,
    )


def _dream(command: str) -> Provenance:
    """Reads a command line, a quoted prompt and options: "a cat [dogs]" -s50 -S 7 -W512 -H512 -C7.5 -Ak_lms."""
    prompt, rest = command, ""
    if options := deque(_OPTIONS.finditer(command), 1):
        prompt, rest = command[: options[0].start()], command[options[0].start() :]
        if len(prompt) > 1 and prompt[0] == prompt[-1] == '"':
            prompt = re.sub(r"\\([\"\\])", r"\1", prompt[1:-1])
    elif command.startswith('"'):
        try:
            prompt, end = json.JSONDecoder().raw_decode(command)
            rest = command[end:]
        except ValueError:
            prompt, _, rest = command[1:].rpartition('"')
    elif option := _OPTION.search(command):
        prompt, rest = command[: option.start()], command[option.start() :]
    notes: tuple[str, ...] = ()
    if len(rest) > _LONGEST:
        notes = (f"options after {_LONGEST:,} characters are not read",)
        rest = rest[:_LONGEST]
    try:
        arguments = shlex.split(rest)
    except ValueError:
        arguments = rest.split()
    values: dict[str, str] = {}
    other: dict[str, str] = {"Dream": command}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option = re.fullmatch(r"-(?:-(\w+)=?|(tm|ft|cf|[A-Za-z]))(.*)", argument, re.DOTALL)
        letter = option and (LONG.get(option[1]) if option[1] else option[2])
        if option and letter in DREAM:
            values[DREAM[letter]] = option[3] or following
        elif option:
            # Variations, other images and upscaling change the image.
            switch = f"-{option[2]}" if option[2] else f"--{option[1]}"
            other[switch] = option[3] or ("" if following.startswith("-") else following)
    if "sampler" in values:
        values["sampler"] = own_sampler(values["sampler"])
    positive, negative = _split(prompt)
    if {"-I", "--init_img"} & other.keys():
        notes += (OTHER_IMAGE,)
    return Provenance(TOOL, "", known(prompt=positive, negative_prompt=negative, **values), other, notes)


def _split(prompt: str) -> tuple[str, str]:
    """Splits off the negative prompt, which is in square brackets; returns the prompt and the negative prompt."""
    negative = re.findall(r"\[([^][]*)\]", prompt)
    return re.sub(r"\[[^][]*\]", "", prompt).strip(), ", ".join(negative)


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
