"""What InvokeAI writes: `invokeai_metadata` since version 3, `sd-metadata` in 2, before it a command line, `Dream`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from sdcli.metadata.provenance import Provenance, known, own_sampler, parsed

TOOL = "InvokeAI"
# The switches of a Dream command line; their values stand beside them or stick to them.
DREAM = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "scale", "A": "sampler"}
LONG = {"steps": "s", "seed": "S", "width": "W", "height": "H", "cfg_scale": "C", "sampler": "A"}


def read(texts: Mapping[str, str]) -> Provenance | None:
    """What InvokeAI says; None if it says nothing."""
    if (metadata := parsed(texts.get("invokeai_metadata"))) is not None:
        return _metadata(metadata)
    if (metadata := parsed(texts.get("sd-metadata"))) is not None:
        return _sd_metadata(metadata)
    command = texts.get("Dream") or texts.get("dream")
    return _dream(command) if command else None


def _metadata(metadata: dict[str, Any]) -> Provenance:
    model = _fields(metadata.get("model"))
    taken = ("positive_prompt", "negative_prompt", "seed", "rand_device", "steps", "scheduler", "cfg_scale", "width",
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
            model=model.get("name", model.get("model_name")),
            model_hash=model.get("hash"),
        ),
        {key: value for key, value in metadata.items() if key not in taken and value not in (None, [], "", {}, False)},
    )


def _sd_metadata(metadata: dict[str, Any]) -> Provenance:
    image = _fields(metadata.get("image"))
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        # Several with weights of their own are blended, which no single prompt says.
        prompt = ", ".join(str(_fields(part).get("prompt", "")) for part in prompt)
    words, negative = _split(prompt) if isinstance(prompt, str) else (None, None)
    taken = ("prompt", "seed", "steps", "sampler", "cfg_scale", "width", "height")
    return Provenance(
        TOOL,
        str(metadata.get("app_version", "")),
        known(
            prompt=words,
            negative_prompt=negative,
            seed=image.get("seed"),
            steps=image.get("steps"),
            sampler=own_sampler(str(image.get("sampler", ""))) or None,
            scale=image.get("cfg_scale"),
            width=image.get("width"),
            height=image.get("height"),
            model=metadata.get("model_weights"),
            model_hash=metadata.get("model_hash"),
        ),
        {key: value for key, value in image.items() if key not in taken and value not in (None, [], "", {}, False)},
    )


def _dream(command: str) -> Provenance:
    """A prompt in quotes, then switches: "a cat [dogs]" -s50 -S 7 -W512 -H512 -C7.5 -Ak_lms."""
    prompt, rest = command, ""
    if command.startswith('"'):
        try:
            prompt, end = json.JSONDecoder().raw_decode(command)
            rest = command[end:]
        except ValueError:
            prompt, _, rest = command[1:].rpartition('"')
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    values: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=False):
        switch = re.fullmatch(r"-(?:-(\w+)=?|([A-Za-z]))(.*)", word, re.DOTALL)
        letter = switch and (LONG.get(switch[1]) if switch[1] else switch[2])
        if switch and letter in DREAM:
            values[DREAM[letter]] = switch[3] or following
    if "sampler" in values:
        values["sampler"] = own_sampler(values["sampler"])
    text, negative = _split(prompt)
    return Provenance(TOOL, "", known(prompt=text, negative_prompt=negative, **values), {"Dream": command})


def _split(prompt: str) -> tuple[str, str]:
    """The prompt without what stands in square brackets, and that: what it steers away from."""
    negative = re.findall(r"\[([^][]*)\]", prompt)
    return re.sub(r"\[[^][]*\]", "", prompt).strip(), ", ".join(negative)


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
