r"""The syntax of AUTOMATIC1111's web UI, which most other tools read, too.

    (x) [x] (x:1.5)   1.1 times the weight, 1/1.1 times, 1.5 times; brackets in brackets multiply
    \( \) \[ \] \\    these characters themselves
    [a:b:8] [a:b:0.4] a for 8 steps, or for 0.4 of the steps, then b; [a:8] is b after, [a::8] is a before
    [a|b]             a and b in turns
    a AND b :0.7      two prompts, each with its own direction of the guidance
    BREAK             the rest is in the next chunk
    <lora:name:0.8>   a LoRA with its weight

"Original" is the only mode of emphasis, which is the default there.
"""

from __future__ import annotations

import re

from sdcli.prompts.syntax import Adapter, Blend, Parsed, Part, Passage, schedules
from sdcli.prompts.syntax.emphasis import Emphasis
from sdcli.terminal import shortened

_EMPHASIS = Emphasis(
    {("(", ")"): 1.1, ("[", "]"): 1 / 1.1},
    re.compile(
        # A backslash before any other character is left out.
        r"\\(?P<escaped>[()\[\]\\]?)"
        r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
        r"|(?P<bad>:\s*(?:[+-]?[.,\d][^()\[\]:\\]{0,40}|))(?=\))"
        r"|(?P<bracket>[()\[\]])"
    ),
    breaks=True,
)
_AND = re.compile(r"\bAND\b(?!_PERP|_SALT|_TOPK)")
_PART_WEIGHT = re.compile(r"[+-]?(?:\d+\.?|\d*\.\d+)")
_NETWORK = re.compile(r"<(\w{1,40}):([^>]{1,300})>")
_LONGEST = 40


def parse(text: str, steps: int, *, negative: bool) -> Parsed:
    """See `sdcli.prompts.syntax.Parse`."""
    notes: list[str] = []
    adapters: list[Adapter] = []

    def network(found: re.Match[str]) -> str:
        adapter = _adapter(found[2].split(":")) if found[1] in ("lora", "lyco") else None
        if adapter is not None:
            adapters.append(adapter)
            return ""
        shown = shortened(found[0], _LONGEST)
        if found[1] in ("lora", "lyco"):
            notes.append(f"a weight in {shown} is not a number, and it is read as text")
            return found[0]
        notes.append(f"{shown} is left out: it is not a LoRA")
        return ""

    if not negative:
        text = _NETWORK.sub(network, text)
    parts = []
    for each in [text] if negative else _AND.split(text):
        prompt, weight = (each, 1.0) if negative else _weighted(each)
        stages: list[tuple[int, Blend]] = []
        for end, shown in schedules.stages(prompt, steps):
            sections, more = _EMPHASIS.read(shown)
            stages.append((end, (Passage(sections),)))
            notes += more
        parts.append(Part(tuple(stages), weight))
    if len(parts) == 1 and parts[0].weight != 1:
        notes.append(f"the whole prompt has the weight {parts[0].weight:g}, which is at its end after a colon")
    return Parsed(tuple(parts), tuple(adapters), tuple(dict.fromkeys(notes)))


def escaped(text: str) -> str:
    """A text with a backslash before each bracket and backslash, so that it is read as it is."""
    return re.sub(r"[\\()\[\]]", r"\\\g<0>", text)


def _weighted(text: str) -> tuple[str, float]:
    """A prompt without the weight at its end, and that weight."""
    stripped = text.rstrip()
    before, colon, number = stripped.rpartition(":")
    if colon and _PART_WEIGHT.fullmatch(number.lstrip()):
        return before.rstrip(), float(number)
    return stripped, 1.0


def _adapter(items: list[str]) -> Adapter | None:
    """The LoRA of `name:weight`, `name:text encoder weight:UNet weight`, or with names, `name:te=1:unet=0.5`."""
    named = dict(item.split("=", 1) for item in items[1:] if "=" in item)
    numbers = [item for item in items[1:] if "=" not in item]
    try:
        text_weight = float(named.get("te", numbers[0] if numbers else 1))
        weight = float(named.get("unet", numbers[1] if len(numbers) > 1 else text_weight))
    except ValueError:
        return None
    finite = abs(weight) < float("inf") and abs(text_weight) < float("inf")
    return Adapter(items[0], weight, text_weight) if finite else None
