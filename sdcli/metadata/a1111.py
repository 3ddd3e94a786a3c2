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
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sdcli.jobs import Job
from sdcli.metadata import comfyui
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.texts import COMMENT_KEY, PARAMETERS_KEY
from sdcli.metadata.values import harmless, reading, sampling
from sdcli.registry import SAMPLERS
from sdcli.sampler_names import SCHEDULES, nearest_sampler, sampler_title
from sdcli.settings import default, names, options, path_and_tail
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
        texts: names of other texts of the file of which each shows the same.
        schedules: the schedule by sampler, of a text that does not name it or names it "Automatic"; "" stands for the
            other samplers.
        fixed: the same, of samplers that ignore a schedule that the text names.
        harmless: keys of values that do not change the image, beside those of every tool.
        neutral: the same for single values of a key.
        syntax: the syntax of its prompts, a value of `--prompt-syntax`, if it reads long prompts in chunks, too.
    """

    tool: str
    version: str
    rng: str | None
    keys: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    schedules: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    neutral: Mapping[str, Collection[str]] = field(default_factory=dict)
    syntax: str = "plain"


# Those of the web UI from version 1.9 on, which names them. Before, the name of the sampler has them.
_AUTOMATIC = {
    "dpm2": "karras", "dpm2_a": "karras", "dpmpp_2m": "karras", "dpmpp_2s": "karras", "dpmpp_sde": "karras",
    "dpmpp_2m_sde": "exponential", "dpmpp_3m_sde": "exponential", "": "linspace",
}  # fmt: skip
# The web UI has samplers of the original, with timesteps of their own, beside those of k-diffusion.
_ORIGINAL = {"ddim": "leading", "plms": "leading", "unipc": "leading"}


def _web_ui(tool: str, version: str, rng: str | None = "cuda") -> Writer:
    return Writer(tool, version, rng, schedules={"": "linspace"}, fixed=_ORIGINAL, syntax="a1111")


COMFYUI = Writer(comfyui.TOOL, r"ComfyUI\s*(.*)", "cpu")
WEB_UI = _web_ui("AUTOMATIC1111's web UI", r"(v?\d+\.\d.*|)")
UNKNOWN = Writer("not known", r"(.*)", None)
# First match wins.
WRITERS = (
    Writer("sdcli", r"sdcli (.*)", "cuda"),
    COMFYUI,
    # It writes the generator into every text.
    Writer(
        "stable-diffusion.cpp",
        r"(?:stable-diffusion|sd)\.cpp\s*(.*)",
        None,
        frozenset({"sdcpp"}),
        schedules={"": "linspace"},
        harmless=frozenset({"sdcpp"}),
        # It always writes them: the guidance of distilled models, and an eta that is not set.
        neutral={"guidance": ("3.5",), "eta": ("0.0", "inf")},
        syntax="a1111",
    ),
    _web_ui("reForge", r"(f[\d.]+v\d\w*-v.*)"),
    _web_ui("Forge", r"(f\d+\.\d.*)"),
    # They use the CPU unless set otherwise.
    _web_ui("Forge Neo", r"(neo.*)", None),
    _web_ui("Forge Classic", r"(classic.*)", None),
    Writer(
        "Fooocus",
        r"Fooocus\s*(.*)",
        "cpu",
        frozenset({"fooocus v2 expansion"}),
        # The prompts contain the texts of styles and of the language model.
        harmless=frozenset({"raw prompt", "raw negative prompt", "fooocus v2 expansion", "styles"}),
    ),
    Writer(
        "SD.Next",
        r"(?:SD\.Next\s*)?([0-9a-f]{7,40}|)",
        "cuda",
        frozenset({"app", "pipeline", "backend"}),
        # Each image of a batch has its own seed.
        harmless=frozenset({"app", "pipeline", "backend", "parser", "batch", "index"}),
        neutral={"operations": ("txt2img", "none")},
    ),
    Writer("SwarmUI", r"SwarmUI\s*(.*)", "cpu"),
    Writer("InvokeAI", r"InvokeAI\s*(.*)", "cpu"),
    Writer("Civitai", r"Civitai\s*(.*)", None, frozenset({"civitai resources", "civitai metadata"})),
    # It runs ComfyUI.
    Writer("Stability Matrix", r"Stability ?Matrix\s*(.*)", "cpu", texts=frozenset({"parameters-json", "smproj"})),
    WEB_UI,
    UNKNOWN,
)
_RUN_COMFYUI = [writer for writer in WRITERS if writer.tool in ("ComfyUI", "Fooocus", "SwarmUI", "Stability Matrix")]
# The names that the tools give to the generators that sdcli can reproduce.
RNGS = {"gpu": "cuda", "nv": "cuda", "cuda": "cuda", "cpu": "cpu"}
# What a saver of ComfyUI writes in place of a prompt that it does not find.
PLACEHOLDERS = ("", "unknown", "undefined", "none", "null", "n/a")
READ = {"steps", "sampler", "schedule type", "cfg scale", "seed", "size", "size-1", "size-2", "model", "model hash",
        "eta ddim", "cfg rescale", "rng", "version"}  # fmt: skip
HARMLESS = {"batch pos", "batch size", "civitai metadata", "created date", "hashes", "lora hashes", "negative template",
            "scheduler", "template", "user", "vae hash", "wildcard prompt"}  # fmt: skip
NEUTRAL: Mapping[str, Collection[str]] = {
    "civitai resources": ("[]",), "clip skip": ("0.0", "1.0"), "denoising strength": ("1.0",),
    "ensd": ("0.0",), "vae": ("Automatic", "Baked VAE", "Default (model)"), "variation seed strength": ("0.0",),
    "variation strength": ("0.0",),
}  # fmt: skip
NUMBERS = {"steps": "steps", "cfg scale": "scale", "seed": "seed", "cfg rescale": "guidance_rescale"}
_STEPS_LINE = re.compile(r"^[ \t]*Steps:.*", re.IGNORECASE | re.MULTILINE)
_STEPS_WITHIN = re.compile(r"^.*?[,|][ \t]*Steps:[ \t]*\d", re.IGNORECASE | re.MULTILINE)
# Values that stand beside the steps, or alone if the tool writes no steps.
_BESIDE = re.compile(
    r"(?:^|[,|])[ \t]*(?:Sampler|CFG scale|Seed|Size|Model|Version|Created Date|Civitai resources):", re.IGNORECASE
)
_LETTERS = re.compile(r"[^\W\d_]")
_NUMERIC = re.compile(r"[\d.x\xd7]*")
_SIZE = re.compile(r"(\d+)(?:\s*[x\xd7*]\s*(\d+))?", re.IGNORECASE)
_STRING = re.compile(r'"((?:[^"\\\n]|\\[^\n])*)"(?=[ \t]*(?:[,\n]|\Z))')
# Values that look like JSON and are not, after which values are read as plain text: each can take long. Values that are
# read.
_MOST_ERRORS, _MOST_PAIRS = 100, 200_000
_NEGATIVE = re.compile(rf"^{NEGATIVE} ?", re.IGNORECASE | re.MULTILINE)
# A line of values before the last one, which SD.Next writes.
_VALUES_BEFORE = re.compile(r"\n(?:Version|App|Pipeline|Backend): [^\n]*,[ \t]*\Z", re.IGNORECASE)
_BARS = re.compile(r"[^:,|\n]*:[^,|\n]*\|")
_END = re.compile(r"[,\n]")


def _others() -> dict[str, str]:
    """The image settings without a fixed place in the text, by their names in it."""
    placed = {"prompt", "negative_prompt", "steps", "sampler", "schedule", "scale", "seed", "height", "width", "rng",
              "lora", "embedding", "vae"}  # fmt: skip
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
        "Sampler": sampler_title(job.sampler),
        **({} if job.schedule == default("schedule") else {"Schedule type": SCHEDULES[job.schedule][0]}),
        "CFG scale": f"{job.scale:g}",
        "Seed": job.seed,
        "Size": f"{job.width}x{job.height}",
        "Model hash": job.model_hash[:10],
        "Model": job.model,
    }
    for title, name in _others().items():
        if (value := getattr(job, name)) != default(name):
            values[title] = f"{value:g}" if isinstance(value, float) else value
    # The titles of the web UI for the hashes; its prompts contain the names and weights.
    for setting, title in (("lora", "Lora"), ("embedding", "TI")):
        if given := getattr(job, setting):
            files = [path_and_tail(setting, each) for each in given]
            values[setting.capitalize()] = ", ".join(f"{Path(path).name}{tail}" for path, tail in files)
            hashes = {Path(path).stem: job.files.get(path, "")[:12] for path, _ in files}
            values[f"{title} hashes"] = ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
    if job.vae:
        vae = Path(job.vae)
        # In a folder of diffusers all weights have the same name.
        shown = vae.parent if vae.stem == "diffusion_pytorch_model" else vae
        values |= {"VAE hash": job.files.get(job.vae, "")[:10], "VAE": shown.name}
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
    titles = {title.casefold(): title for title, _ in reversed(pairs)}
    values, notes = _values(pairs)
    if len(pairs) >= _MOST_PAIRS:
        notes.append(f"values after the first {_MOST_PAIRS:,} are not read")
    if not values or not ("steps" in values or "civitai resources" in values or PARAMETERS_KEY in texts):
        # UserComment of a photograph can contain any text.
        return None if PARAMETERS_KEY not in texts or _graph(texts) else _unreadable(text)
    version = values.get("version", "")
    writer, number = _writer(version, values.keys(), texts)
    prompt, negative_prompt = _prompts(prompts)
    if prompt is None:
        notes.append(f"several lines begin with `{NEGATIVE}`, so the prompts are not known")
    if writer is COMFYUI and prompt is not None and prompt.strip().casefold() in PLACEHOLDERS:
        if _graph(texts):
            return None
        if prompt.strip():
            prompt = None
            negative_prompt = None if (negative_prompt or "").strip().casefold() in PLACEHOLDERS else negative_prompt
    width, height = _size(values)
    own = writer.tool == "sdcli"
    if own:
        notes.append("the record is missing; the values are those of the `parameters` text")
    others = {title.casefold(): name for title, name in _others().items()} if own else {}
    how = _sampling(values, writer)
    if own and number == "0.1.0" and values.get("sampler") == "DPM++ 2M" and not how["schedule"]:
        # What that version called the sampler that is DPM-Solver now.
        how["sampler"] = "dpm_solver"
    if writer is COMFYUI and how["sampler"] in SAMPLERS and not how["schedule"]:
        notes.append(f"the text does not contain the schedule of the sampler {values['sampler']}")
    settings = known(
        prompt=prompt,
        negative_prompt=negative_prompt,
        **how,
        rng=RNGS.get(values["rng"].casefold()) if "rng" in values else writer.rng,
        width=width,
        height=height,
        # stable-diffusion.cpp has a key of its own for a file without text encoders.
        model=values.get("model") if own else values.get("model") or values.get("unet") or None,
        model_hash=values.get("model hash") or None,
        **{"eta": values.get("eta ddim")}
        | {name: values.get(title) for title, name in NUMBERS.items()}
        | {name: values[title] for title, name in others.items() if title in values},
    )
    for title, name in (NUMBERS | {"size": "width"}).items():
        if title in values and name not in settings:
            notes.append(f"the value {values[title][:80]!r} of {titles[title]} is not known")
    # Other tools write 0 or 1 for none.
    skips = known(clip_skip=values.get("clip skip")).get("clip_skip", 0) > 1
    if skips:
        settings |= known(clip_skip=values["clip skip"])
    if writer.syntax != "plain":
        settings |= reading(writer.syntax, prompt, negative_prompt)
    used = READ | others.keys() | ({"clip skip"} if skips else set())
    other = {titles[key]: value for key, value in values.items() if key not in used}
    neutral = {"unet": (settings.get("model"),), "sampler rng": (values.get("rng"),)}
    ineffective = harmless(other, HARMLESS | writer.harmless, {**NEUTRAL, **writer.neutral, **neutral})
    return Provenance(writer.tool, number, settings, other, tuple(notes), ineffective)


def _values(pairs: list[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Returns the values by their names in lower case, and notes.

    Different values with the same name are put together, or left out if the name is one that the reader knows.
    """
    found: dict[str, dict[str, None]] = {}
    for title, value in pairs:
        found.setdefault(title.casefold(), {})[value] = None
    ambiguous = [title for title, values in found.items() if title in READ and len(values) > 1]
    notes = [f"the text has several values of {title}, so it is not known" for title in ambiguous]
    return {title: ", ".join(values) for title, values in found.items() if title not in ambiguous}, notes


def _prompts(text: str) -> tuple[str | None, str | None]:
    """Returns the prompt and the negative prompt; None for both if it is not certain where the first ends."""
    found = list(islice(_NEGATIVE.finditer(text), 2))
    if len(found) > 1:
        return None, None
    return (text[: found[0].start()].removesuffix("\n"), text[found[0].end() :]) if found else (text, "")


def _size(values: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Returns width and height; None for both if they are not known."""
    if "size" not in values:
        return values.get("size-1"), values.get("size-2")
    found = _SIZE.fullmatch(values["size"])
    return (found[1], found[2]) if found else (None, None)


def _graph(texts: Mapping[str, str]) -> bool:
    """Returns whether the file also has a graph of ComfyUI with settings."""
    found = comfyui.read(texts)
    return found is not None and bool(found.settings)


def _unreadable(text: str) -> Provenance:
    note = "the `parameters` text has an unknown format"
    return Provenance("not known", other={PARAMETERS_KEY: text}, notes=(note,), harmless=frozenset({PARAMETERS_KEY}))


def _writer(version: str, keys: Collection[str], texts: Mapping[str, str]) -> tuple[Writer, str]:
    """Returns the tool that wrote a text with this value of Version and these keys, and the version of the tool."""
    has_graph = texts.get("prompt", "").startswith("{")
    if not version:
        by_key = next((writer for writer in WRITERS if writer.keys & set(keys) or writer.texts & texts.keys()), None)
        return by_key or (COMFYUI if has_graph else WEB_UI if "steps" in keys else UNKNOWN), ""
    for writer in WRITERS:
        if match := re.fullmatch(writer.version, version, re.IGNORECASE | re.DOTALL):
            # Some savers of ComfyUI write the version of the web UI.
            return COMFYUI if has_graph and writer in (WEB_UI, UNKNOWN) else writer, match[1]
    raise AssertionError("the last writer matches any version")


def _sampling(values: Mapping[str, str], writer: Writer) -> dict[str, str | None]:
    """Returns the sampler and the schedule."""
    name = values.get("sampler")
    # Older versions have no schedule type; the sampler's name contains it: "DPM++ 2M Karras".
    schedule = values.get("schedule type") or values.get("scheduler")
    found = (comfyui.sampling_of if writer in _RUN_COMFYUI else sampling)(name, schedule)
    sampler = nearest_sampler(found["sampler"] or "") or ""
    if fixed := writer.fixed.get(found["sampler"] or ""):
        found["schedule"] = fixed
    elif sampler and not found["schedule"]:
        # "Automatic" stands for the schedule of the sampler from version 1.9 on, before it for that of the name.
        automatic = writer.schedules if schedule is None else _AUTOMATIC
        found["schedule"] = automatic.get(sampler, automatic.get(""))
    return found


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Splits a text into the lines of the prompts, and the names and values."""
    start = _start(text)
    if start is None:
        return text, []
    prompts, line = text[:start].removesuffix("\n"), text[start:]
    if _BARS.match(line):
        first, _, rest = line.partition("\n")
        pairs = [
            (title.strip(), value.strip()) for title, _, value in (part.partition(":") for part in first.split("|"))
        ]
        pairs += _pairs(rest)
        prompts = re.sub(r"\Aprompt: ?", "", prompts, flags=re.IGNORECASE)
    else:
        pairs = list(islice(_pairs(line), _MOST_PAIRS))
    if before := _VALUES_BEFORE.search(prompts):
        prompts, pairs = prompts[: before.start()], [*_pairs(before[0].strip(" \t,\n")), *pairs]
    return prompts, pairs


def _start(text: str) -> int | None:
    """Returns where the line of values starts; None if there is none.

    A prompt, or a text after the line of values, can have a line that starts with "Steps:" and has no other value.
    """
    found = list(_STEPS_LINE.finditer(text))
    full = next((each for each in reversed(found) if _BESIDE.search(each[0])), None)
    if full or found:
        return (full or found[-1]).start()
    if within := deque(_STEPS_WITHIN.finditer(text), 1):
        return within[0].start()
    # Some tools write no steps.
    end = len(text)
    for line in reversed(text.split("\n")):
        if _BESIDE.match(line) and len(_BESIDE.findall(line)) > 1:
            return end - len(line)
        end -= len(line) + 1
    return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yields the names and values after the prompts.

    A value is a JSON string, array or object, which can contain line breaks, or ends at a comma before the next name.
    A line break after a value ends the line of values: every line after it has one name, for example "Template", and a
    value.
    """
    decoder = json.JSONDecoder(strict=False)
    position, end_of_line, errors = 0, False, 0
    pair: tuple[str, str] | None = None
    seen = set()
    while not end_of_line and (colon := text.find(":", position)) >= 0:
        between, _, key = text[position:colon].rpartition(",")
        if pair is not None:
            yield from _with_rest(pair, between)
        key, start = key.strip(" ,\n"), colon + 1
        start += text.startswith(" ", start)
        value, end = "", start
        if text.startswith(('"', "[", "{"), start) and errors < _MOST_ERRORS:
            try:
                value, end = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                errors += 1
                # A string with a backslash that is no escape.
                if string := _STRING.match(text, start):
                    value, end = string[1], string.end()
        if not isinstance(value, str):
            value = text[start:end]
        found = _END.search(text, end)
        stop = found.start() if found else len(text)
        pair = key, value if end > start else text[start:stop].strip()
        seen.add(key.casefold())
        position, end_of_line = stop + 1, text.startswith("\n", stop)
    if pair is not None:
        yield from _with_rest(pair, "" if end_of_line else text[position:])
    if not end_of_line:
        return
    title = ""
    lines: list[str] = []
    for line in text[position:].split("\n"):
        key, colon_found, value = line.partition(": ")
        # A name that the line of values has belongs to a text of several lines.
        if colon_found and re.fullmatch(r"[A-Z][\w ]{0,40}", key) and key.casefold() not in seen:
            if title:
                yield title, "\n".join(lines)
            title, lines = key, [value]
        else:
            lines.append(line)
    if title:
        yield title, "\n".join(lines)


def _with_rest(pair: tuple[str, str], rest: str) -> Iterator[tuple[str, str]]:
    """Yields a name and value with what follows it up to the next name: more of the value, or names without a value.

    Tools write a name alone if the value is the same text, and some do not quote a value that contains commas.
    """
    name, value = pair
    if not rest.strip():
        yield pair
    elif (name.casefold() in READ - {"model"} or _NUMERIC.fullmatch(value)) and _LETTERS.match(rest.lstrip()):
        yield pair
        for each in rest.split(","):
            yield each.strip(), each.strip()
    else:
        yield name, f"{value},{rest.rstrip()}"
