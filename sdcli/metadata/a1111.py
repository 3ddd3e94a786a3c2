"""Reads and writes the `parameters` text of AUTOMATIC1111's web UI, which most other tools read and many write.

The text is the prompt and the negative prompt, each of one or more lines, and a line of values:

    a red apple
    Negative prompt: leaves
    Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512, Model: "a, b", ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from sdcli.jobs import Job
from sdcli.metadata.provenance import Provenance, known, own_sampler
from sdcli.metadata.texts import COMMENT_KEY, PARAMETERS_KEY
from sdcli.registry import SAMPLERS
from sdcli.settings import default, names, options
from sdcli.version import VERSION

TOOL = "AUTOMATIC1111's web UI"
NEGATIVE = "Negative prompt:"
# The web UI's names of the random number generators that sdcli can reproduce.
RNGS = {"GPU": "cuda", "NV": "cuda", "CPU": "cpu"}
READ = {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "Eta DDIM", "RNG", "Version"}


def _others() -> dict[str, str]:
    """The image settings without a fixed place in the text, by their names in it."""
    placed = {"prompt", "negative_prompt", "steps", "sampler", "scale", "seed", "height", "width", "rng"}
    return {
        options()[name].parameter or name.replace("_", " ").capitalize(): name
        for name in names("image")
        if name not in placed
    }


def write(job: Job, version: str = VERSION) -> str:
    """Returns the `parameters` text of a job."""
    lines = [job.prompt]
    if job.negative_prompt:
        lines.append(f"{NEGATIVE} {job.negative_prompt}")
    values: dict[str, Any] = {
        "Steps": job.steps,
        "Sampler": SAMPLERS[job.sampler].title,
        "CFG scale": f"{job.scale:g}",
        "Seed": job.seed,
        "Size": f"{job.width}x{job.height}",
        "Model hash": job.model_hash[:10],
        "Model": job.model,
    }
    for title, name in _others().items():
        if (value := getattr(job, name)) != default(name):
            values[title] = f"{value:g}" if isinstance(value, float) else value
    values |= {"RNG": {"cuda": "NV", "cpu": "CPU"}[job.rng], "Version": f"sdcli {version}"}
    lines.append(", ".join(f"{title}: {_quoted(str(value))}" for title, value in values.items()))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """Quotes a value with a comma, colon or line break, so that the line can be parsed."""
    return json.dumps(value, ensure_ascii=False) if any(character in value for character in ",:\n") else value


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from a `parameters` text; returns None if the file has none."""
    text = texts.get(PARAMETERS_KEY) or texts.get(COMMENT_KEY, "")
    prompts, _, last = text.rstrip().rpartition("\n")
    values = dict(_pairs(last))
    if "Steps" not in values:
        # UserComment of a photograph can contain any text.
        return _unreadable(text) if PARAMETERS_KEY in texts else None
    prompt, _, negative = f"\n{prompts}".partition(f"\n{NEGATIVE}")
    width, _, height = values.get("Size", "").partition("x")
    # Older versions have no schedule type; the sampler's name contains it: "DPM++ 2M Karras".
    schedule = values.get("Schedule type", "")
    sampler = values.get("Sampler", "")
    sampler = own_sampler(sampler) if schedule in ("", "Uniform", "DDIM") else f"{sampler} {schedule}"
    version = values.get("Version", "")
    own = version.startswith("sdcli ")
    others = _others()
    return Provenance(
        "sdcli" if own else "ComfyUI" if "prompt" in texts else TOOL,
        version.removeprefix("sdcli "),
        known(
            prompt=prompt.removeprefix("\n"),
            negative_prompt=negative.removeprefix(" "),
            steps=values.get("Steps"),
            sampler=sampler or None,
            scale=values.get("CFG scale"),
            seed=values.get("Seed"),
            rng=RNGS.get(values.get("RNG", "GPU")),
            width=width,
            height=height,
            model=values.get("Model"),
            model_hash=values.get("Model hash"),
            **{"eta": values.get("Eta DDIM")} | {name: values[title] for title, name in others.items() if title in values},
        ),
        {title: value for title, value in values.items() if title not in READ | others.keys()},
        ("the record is missing; the values are those of the `parameters` text",) if own else (),
    )


def _unreadable(text: str) -> Provenance:
    return Provenance("not known", other={PARAMETERS_KEY: text}, notes=("the `parameters` text has an unknown format",))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yields the names and values in the last line. A quoted value is a JSON string; other values end at a comma."""
    decoder = json.JSONDecoder()
    position = 0
    while (colon := line.find(":", position)) >= 0:
        key, start = line[position:colon].strip(" ,"), colon + 1
        start += line.startswith(" ", start)
        value, end = "", start
        if line.startswith('"', start):
            with suppress(ValueError):
                value, end = decoder.raw_decode(line, start)
        comma = line.find(",", end)
        comma = len(line) if comma < 0 else comma
        yield key, value if end > start else line[start:comma].strip()
        position = comma + 1
