"""Reads and writes the `parameters` text of AUTOMATIC1111's web UI, which most other tools read and many write.

The text is the prompt and the negative prompt, each of one or more lines, and a line of values:

    a red apple
    Negative prompt: leaves
    Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512, Model: "a, b", ...

Other tools write keys in other case, bars between the values, JSON without quotes, and further lines; each is read.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sdcli.jobs import Job
from sdcli.metadata import comfyui
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.texts import COMMENT_KEY, PARAMETERS_KEY
from sdcli.registry import SAMPLERS
from sdcli.settings import default, names, options, own_sampler
from sdcli.version import VERSION

NEGATIVE = "Negative prompt:"


@dataclass(frozen=True)
class Writer:
    """A tool that writes a `parameters` text.

    Attributes:
        tool: its name.
        version: a pattern of its value of Version, whose group is the version of the tool.
        rng: the random number generator of a text without RNG; None if unknown.
        keys: keys of which each shows that the tool wrote the text, if Version does not name another tool.
        schedules: the schedules with which the samplers of sdcli are the same.
    """

    tool: str
    version: str
    rng: str | None
    keys: frozenset[str] = frozenset()
    schedules: frozenset[str] = frozenset({"", "uniform", "ddim"})


COMFYUI = Writer(comfyui.TOOL, r"ComfyUI\s*(.*)", "cpu", schedules=frozenset({"", *comfyui.OWN_SCHEDULES}))
WEB_UI = Writer("AUTOMATIC1111's web UI", r"(v?\d+\.\d.*|)", "cuda")
UNKNOWN = Writer("not known", r"(.*)", None)
# First match wins.
WRITERS = (
    Writer("sdcli", r"sdcli (.*)", "cuda"),
    COMFYUI,
    # It writes the generator into every text.
    Writer("stable-diffusion.cpp", r"(?:stable-diffusion|sd)\.cpp\s*(.*)", None, frozenset({"sdcpp"})),
    Writer("Forge", r"(f\d+\.\d.*|neo.*)", "cuda"),
    Writer("Fooocus", r"Fooocus\s*(.*)", "cpu", frozenset({"fooocus v2 expansion"})),
    Writer("SD.Next", r"(?:SD\.Next\s*)?([0-9a-f]{7,40}|)", "cuda", frozenset({"app", "pipeline", "backend"})),
    Writer("SwarmUI", r"SwarmUI\s*(.*)", "cpu"),
    Writer("InvokeAI", r"InvokeAI\s*(.*)", "cpu"),
    Writer("Civitai", r"Civitai\s*(.*)", None, frozenset({"civitai resources", "civitai metadata"})),
    WEB_UI,
    UNKNOWN,
)
# The names that the tools give to the generators that sdcli can reproduce.
RNGS = {"gpu": "cuda", "nv": "cuda", "cuda": "cuda", "cpu": "cpu"}
# What a saver of ComfyUI writes in place of a prompt that it does not find.
PLACEHOLDERS = ("", "unknown", "undefined", "none", "null", "n/a")
READ = {
    "steps",
    "sampler",
    "schedule type",
    "cfg scale",
    "seed",
    "size",
    "model",
    "model hash",
    "eta ddim",
    "rng",
    "version",
}
_STEPS = re.compile(r"^[ \t]*Steps:", re.IGNORECASE | re.MULTILINE)
_STEPS_WITHIN = re.compile(r"^.*?[,|][ \t]*Steps:[ \t]*\d", re.IGNORECASE | re.MULTILINE)
_NEGATIVE = re.compile(rf"^{NEGATIVE} ?", re.IGNORECASE | re.MULTILINE)
# A line of values before the last one, which SD.Next writes.
_VALUES_BEFORE = re.compile(r"\n(?:Version|App|Pipeline|Backend): [^\n]*,[ \t]*\Z", re.IGNORECASE)
_BARS = re.compile(r"[^:,|\n]*:[^,|\n]*\|")
_END = re.compile(r"[,\n]")


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
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    prompts, pairs = _split(text)
    titles = {title.casefold(): title for title, _ in pairs}
    values = {title.casefold(): value for title, value in pairs}
    if "steps" not in values:
        # UserComment of a photograph can contain any text.
        return None if PARAMETERS_KEY not in texts or _graph(texts) else _unreadable(text)
    version = values.get("version", "")
    writer, number = _writer(version, values.keys(), has_graph=texts.get("prompt", "").startswith("{"))
    negative = _NEGATIVE.search(prompts)
    prompt: str | None = prompts[: negative.start()].removesuffix("\n") if negative else prompts
    negative_prompt: str | None = prompts[negative.end() :] if negative else ""
    if writer is COMFYUI and prompt is not None and prompt.strip().casefold() in PLACEHOLDERS:
        if _graph(texts):
            return None
        if prompt.strip():
            prompt = None
            negative_prompt = None if (negative_prompt or "").strip().casefold() in PLACEHOLDERS else negative_prompt
    width, _, height = values.get("size", "").casefold().partition("x")
    own = writer.tool == "sdcli"
    others = {title.casefold(): name for title, name in _others().items()}
    return Provenance(
        writer.tool,
        number,
        known(
            prompt=prompt,
            negative_prompt=negative_prompt,
            steps=values.get("steps"),
            sampler=_sampler(values, writer) or None,
            scale=values.get("cfg scale"),
            seed=values.get("seed"),
            rng=RNGS.get(values["rng"].casefold()) if "rng" in values else writer.rng,
            width=width,
            height=height,
            model=values.get("model"),
            model_hash=values.get("model hash"),
            **{"eta": values.get("eta ddim")}
            | {name: values[title] for title, name in others.items() if title in values},
        ),
        {titles[key]: value for key, value in values.items() if key not in READ | others.keys()},
        ("the record is missing; the values are those of the `parameters` text",) if own else (),
    )


def _graph(texts: Mapping[str, str]) -> bool:
    """Returns whether the file also has a graph of ComfyUI with settings."""
    found = comfyui.read(texts)
    return found is not None and bool(found.settings)


def _unreadable(text: str) -> Provenance:
    return Provenance("not known", other={PARAMETERS_KEY: text}, notes=("the `parameters` text has an unknown format",))


def _writer(version: str, keys: Collection[str], *, has_graph: bool) -> tuple[Writer, str]:
    """Returns the tool that wrote a text with this value of Version and these keys, and the version of the tool."""
    if not version:
        by_key = next((writer for writer in WRITERS if writer.keys & set(keys)), None)
        return by_key or (COMFYUI if has_graph else WEB_UI), ""
    for writer in WRITERS:
        if match := re.fullmatch(writer.version, version, re.IGNORECASE | re.DOTALL):
            # Some savers of ComfyUI write the version of the web UI.
            return COMFYUI if has_graph and writer in (WEB_UI, UNKNOWN) else writer, match[1]
    raise AssertionError("the last writer matches any version")


def _sampler(values: Mapping[str, str], writer: Writer) -> str:
    """Returns the name of the sampler, with its schedule unless it is that of the sampler of sdcli."""
    sampler = values.get("sampler", "")
    # Older versions have no schedule type; the sampler's name contains it: "DPM++ 2M Karras".
    schedule = values.get("schedule type", "")
    own = own_sampler(sampler)
    # The web UI has a schedule of its own for DDIM and PLMS, and Karras for DPM++ 2M.
    automatic = schedule.casefold() == "automatic" and own in ("ddim", "plms")
    if automatic or schedule.casefold() in writer.schedules:
        return own
    return f"{sampler} {schedule}"


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Splits a text into the lines of the prompts, and the names and values."""
    found = deque(_STEPS.finditer(text), 1) or deque(_STEPS_WITHIN.finditer(text), 1)
    if not found:
        return text, []
    start = found[0].start()
    prompts, line = text[:start].removesuffix("\n"), text[start:]
    if _BARS.match(line):
        first, _, rest = line.partition("\n")
        pairs = [
            (title.strip(), value.strip()) for title, _, value in (part.partition(":") for part in first.split("|"))
        ]
        pairs += _pairs(rest)
        prompts = re.sub(r"\Aprompt: ?", "", prompts, flags=re.IGNORECASE)
    else:
        pairs = list(_pairs(line))
    if before := _VALUES_BEFORE.search(prompts):
        prompts, pairs = prompts[: before.start()], [*_pairs(before[0].strip(" \t,\n")), *pairs]
    return prompts, pairs


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yields the names and values after the prompts.

    A value is a JSON string, array or object, which can contain line breaks, or ends at a comma. A line break after a
    value ends the line of values: every line after it has one name, for example "Template", and a value.
    """
    decoder = json.JSONDecoder(strict=False)
    position, end_of_line = 0, False
    while not end_of_line and (colon := text.find(":", position)) >= 0:
        key, start = text[position:colon].strip(" ,\n"), colon + 1
        start += text.startswith(" ", start)
        value, end = "", start
        if text.startswith(('"', "[", "{"), start):
            with suppress(ValueError, RecursionError):
                value, end = decoder.raw_decode(text, start)
        if not isinstance(value, str):
            value = text[start:end]
        found = _END.search(text, end)
        stop = found.start() if found else len(text)
        yield key, value if end > start else text[start:stop].strip()
        position, end_of_line = stop + 1, text.startswith("\n", stop)
    if not end_of_line:
        return
    title = ""
    lines: list[str] = []
    for line in text[position:].split("\n"):
        key, colon_found, value = line.partition(": ")
        if colon_found and re.fullmatch(r"[A-Z][\w ]{0,40}", key):
            if title:
                yield title, "\n".join(lines)
            title, lines = key, [value]
        else:
            lines.append(line)
    if title:
        yield title, "\n".join(lines)
