"""Prompt files of other tools: each line is a prompt with that tool's flags."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sdcli.errors import InputFileError
from sdcli.prompts.files import PromptFile, Rows
from sdcli.prompts.formats import text
from sdcli.terminal import shortened

A1111 = {
    "prompt": "prompt", "negative_prompt": "negative_prompt", "seed": "seed", "steps": "steps", "cfg_scale": "scale",
    "width": "width", "height": "height", "sampler_name": "sampler", "batch_size": "images_per_prompt",
    "n_iter": "images_per_prompt",
}  # fmt: skip
"""Flags of the script "Prompts from file or textbox" of the web UI, and the settings of sdcli."""
KOHYA = {
    "n": "negative_prompt", "w": "width", "h": "height", "d": "seed", "l": "scale", "s": "steps", "ss": "sampler",
}  # fmt: skip
"""Flags of `gen_img.py` and of the sample prompts of sd-scripts."""
INVOKE = {
    "s": "steps", "steps": "steps", "S": "seed", "seed": "seed", "n": "images_per_prompt",
    "iterations": "images_per_prompt", "W": "width", "width": "width", "H": "height", "height": "height", "C": "scale",
    "cfg_scale": "scale", "A": "sampler", "m": "sampler", "sampler": "sampler",
}  # fmt: skip
"""Flags of the command line of InvokeAI 1 and 2."""

# What a line must contain to be clearly written for a tool. One note is enough, so a rare false alarm does no harm.
_CLEAR = {
    "a1111": re.compile(r"(?:^|\s)--(?:prompt|negative_prompt|steps|cfg_scale|seed|width|height|sampler_name)\s"),
    "kohya": re.compile(r"\s--(?:n\s+\S|(?:w|h|d|s)\s+\d+(?:\s|$)|l\s+[\d.]+(?:\s|$))"),
    "invoke": re.compile(r"\s-(?:[sSCWH] ?[\d.]+|A ?\w+)(?=\s|$)"),
}


def written_for(line: str) -> str | None:
    """The format whose flags a line clearly has; None if it is an ordinary prompt."""
    return next((name for name, flags in _CLEAR.items() if flags.search(line)), None) if "-" in line else None


def a1111(file: PromptFile) -> Rows:
    """`--prompt "a cat" --steps 20`. A line without flags is a prompt."""
    return _rows(file, _a1111)


def kohya(file: PromptFile) -> Rows:
    """`a cat --n a dog --w 512 --h 512`."""
    return _rows(file, _kohya)


def invoke(file: PromptFile) -> Rows:
    """`"a cat [a dog]" -s 50 -S42 -W512`. Text in square brackets is the negative prompt."""
    return _rows(file, _invoke)


def _rows(file: PromptFile, parse: Callable[[str], dict[str, Any]]) -> Rows:
    for place, line in text(file):
        if not isinstance(line, str):
            yield place, line
            continue
        try:
            yield place, parse(line.strip())
        except InputFileError as error:
            yield place, InputFileError(f"{place}: {error.what}", why=error.why, fix=error.fix)


def _a1111(line: str) -> dict[str, Any]:
    if not re.search(r"(?:^|\s)--\w", line):
        return {"prompt": line}
    words = _words(line)
    if not words[0].startswith("--"):
        raise InputFileError(
            f"{shortened(words[0])} is before the first flag", fix='Write --prompt "a cat" --steps 20 on the line.'
        )
    pairs: list[tuple[str, str]] = []
    while words:
        flag = words.popleft()
        value: list[str] = []
        # As the web UI: a prompt needs no quotes, and its first word may be any.
        free = flag in ("--prompt", "--negative_prompt")
        while words and ((free and not value) or not words[0].startswith("--")):
            value.append(words.popleft())
        if len(value) != 1 and not (free and value):
            raise InputFileError(f"{shortened(flag)} needs one value", fix="Write it after the flag.")
        pairs.append((flag, " ".join(value)))
    return _settings(pairs, A1111, "the web UI")


def _kohya(line: str) -> dict[str, Any]:
    prompt, *rest = re.split(r"(?:^|\s+)--(?=\w)", line)
    pairs = []
    for part in rest:
        flag, _, value = part.partition(" ")
        pairs.append((f"--{flag}", value.strip()))
    return {"prompt": prompt.strip(), **_settings(pairs, KOHYA, "kohya")}


def _invoke(line: str) -> dict[str, Any]:
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"(?=\s|$)', line)
    if quoted:
        prompt, rest = re.sub(r'\\(["\\])', r"\1", quoted[1]), line[quoted.end() :]
    else:
        start = re.search(r"(?:^|\s)-{1,2}[A-Za-z]", line)
        prompt, rest = (line[: start.start()], line[start.start() :]) if start else (line, "")
    words = _words(rest)
    pairs = []
    while words:
        word = words.popleft()
        option = re.fullmatch(r"(--[A-Za-z_]+|-[A-Za-z])=?(.*)", word, re.DOTALL)
        if option is None:
            raise InputFileError(f"{shortened(word)} follows no flag", fix="Put the prompt in quotes.")
        follows = bool(words) and (option[1].lstrip("-") in INVOKE or not words[0].startswith("-"))
        pairs.append((option[1], option[2] or (words.popleft() if follows else "")))
    values = _settings(pairs, INVOKE, "InvokeAI")
    if negative := re.findall(r"\[([^][]*)\]", prompt):
        values["negative_prompt"] = ", ".join(negative)
        prompt = re.sub(r"\s*\[[^][]*\]", "", prompt)
    return {"prompt": prompt.strip(), **values}


def _words(line: str) -> deque[str]:
    """A line, split as a shell splits it; without regard to quotes if one of them does not close."""
    try:
        return deque(shlex.split(line))
    except ValueError:
        return deque(line.split())


def _settings(pairs: list[tuple[str, str]], known: Mapping[str, str], tool: str) -> dict[str, Any]:
    """The settings that flags and their values stand for.

    Raises:
        InputFileError: an unknown flag, or one that is given twice.
    """
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for flag, value in pairs:
        name = known.get(flag.lstrip("-"))
        if name is None:
            raise InputFileError(
                f"sdcli has no setting for the flag {shortened(flag)} of {tool}",
                fix=f"Remove it. These flags are read: {', '.join(sorted(known, key=str.lower))}.",
            )
        if flag in seen or (name in values and name != "images_per_prompt"):
            raise InputFileError(f"{flag} is given twice", fix="Remove one of them.")
        if value == "" and name not in ("prompt", "negative_prompt"):
            raise InputFileError(f"{flag} has no value", fix="Write it after the flag.")
        seen.add(flag)
        if name == "images_per_prompt" and name in values and value.isdecimal() and values[name].isdecimal():
            value = str(int(value[:20]) * int(values[name][:20]))
        values[name] = value
    return values
