"""The `parameters` text of AUTOMATIC1111's web UI, which most tools read and many write.

a prompt, of one line or more
Negative prompt: of one line or more
Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512, Model: "a, b", ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from sdcli.jobs import Job
from sdcli.metadata.provenance import Provenance, known, own_sampler
from sdcli.metadata.texts import COMMENT_KEY, PARAMETERS_KEY
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.version import VERSION

TOOL = "AUTOMATIC1111's web UI"
NEGATIVE = "Negative prompt:"
# Whose noise, as the web UI names it, where sdcli has the same.
RNGS = {"GPU": "cuda", "NV": "cuda", "CPU": "cpu"}
OWN = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "Eta", "Eta DDIM", "RNG",
    "Version",
)  # fmt: skip


def write(job: Job, version: str = VERSION) -> str:
    """The job as such a text."""
    lines = [job.prompt]
    if job.negative_prompt:
        lines.append(f"{NEGATIVE} {job.negative_prompt}")
    values = {
        "Steps": job.steps,
        "Sampler": SAMPLERS[job.sampler].title,
        "CFG scale": f"{job.scale:g}",
        "Seed": job.seed,
        "Size": f"{job.width}x{job.height}",
        "Model hash": job.model_hash[:10],
        "Model": job.model,
        **({"Eta": f"{job.eta:g}"} if job.eta else {}),
        "RNG": {"cuda": "NV", "cpu": "CPU"}[job.rng],
        "Version": f"sdcli {version}",
    }
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items()))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """Values with a comma or colon are quoted, so that the line can be taken apart again."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ",:\n") else value


def read(texts: Mapping[str, str]) -> Provenance | None:
    """What such a text says; None if there is none."""
    text = texts.get(PARAMETERS_KEY) or texts.get(COMMENT_KEY, "")
    words, _, last = text.rstrip().rpartition("\n")
    values = dict(_pairs(last))
    if "Steps" not in values:
        # A photograph's comment may be anything.
        return _unreadable(text) if PARAMETERS_KEY in texts else None
    prompt, _, negative = f"\n{words}".partition(f"\n{NEGATIVE}")
    width, _, height = values.get("Size", "").partition("x")
    # Before it named schedules of their own, the sampler's name said it: "DPM++ 2M Karras".
    schedule = values.get("Schedule type", "")
    sampler = values.get("Sampler", "")
    sampler = own_sampler(sampler) if schedule in ("", "Uniform", "DDIM") else f"{sampler} {schedule}"
    version = values.get("Version", "")
    own = version.startswith("sdcli ")
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
            eta=values.get("Eta", values.get("Eta DDIM")),
            width=width,
            height=height,
            model=values.get("Model"),
            model_hash=values.get("Model hash"),
        ),
        {key: value for key, value in values.items() if key not in OWN},
        ("its record is gone: this is what the `parameters` text says",) if own else (),
    )


def _unreadable(text: str) -> Provenance:
    return Provenance("not known", other={PARAMETERS_KEY: text}, notes=("its `parameters` text is of no known form",))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The names and values of the last line. A value in quotes is JSON; others end at the comma."""
    decoder = json.JSONDecoder()
    place = 0
    while (colon := line.find(":", place)) >= 0:
        key, start = line[place:colon].strip(" ,"), colon + 1
        start += line.startswith(" ", start)
        value, end = "", start
        if line.startswith('"', start):
            with suppress(ValueError):
                value, end = decoder.raw_decode(line, start)
        comma = line.find(",", end)
        comma = len(line) if comma < 0 else comma
        yield key, value if end > start else line[start:comma].strip()
        place = comma + 1
