r"""The syntax of compel, which InvokeAI reads.

    word+ word-- (a b)++ "a b"-   1.1 times the weight for each plus, 0.9 times for each minus
    (a b)1.2                      1.2 times; brackets in brackets multiply
    ("a", "b").blend(0.7, 0.3)    the embeddings of a and b, added; weights are divided by their sum, except with
                                  no_normalize
    ("a", "b").and(1, 0.5)        a and b encoded apart, one after the other; weights multiply the embeddings
    withLora(name, 0.8)           a LoRA with its weight
    \( \) \" \+ \- \\             these characters themselves

Weights are applied as in the syntax a1111. compel itself moves the embeddings away from those of an empty prompt.
"""

from __future__ import annotations

import math
import re

from sdcli.prompts.syntax import MOST_OPEN, Adapter, Parsed, Part, Passage, Piece, Section
from sdcli.terminal import shortened

_END = r"(?=[\s()\",.+=-]|$)"
_SIGNS = rf"(?:\++|-+){_END}"
_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)"
_TOKEN = re.compile(
    rf"\\(?P<escaped>[()\"+\-\\])"
    rf"|(?P<open>\()"
    rf"|(?P<close>[)\"])(?P<after>{_SIGNS}|{_NUMBER}(?![.\d])|\.attend\((?P<attend>\+{{1,100}}|-{{1,100}}|{_NUMBER})\))?"
    rf"|(?P<word>(?:[^\s()\",.=+\\-]|[+-](?![\s()\",.+=-]|$))+)(?P<signs>{_SIGNS})?"
)
_BAD = re.compile(r"[\d.]+")
_OPERATOR = re.compile(r"\s*\((.*)\)\s*\.(blend|and|add)\(([^()]*)\)\s*", re.DOTALL)
_QUOTED = re.compile(r"\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\",()]+))\s*(,|\Z)", re.DOTALL)
_LORA = re.compile(r"\b(?:use|with)Lora\(\s*([\w.-]{1,200})\s*(?:,\s*([^(),]{1,20}))?\)")
_LONGEST = 40


def parse(text: str, steps: int, *, negative: bool) -> Parsed:
    """See `sdcli.prompts.syntax.Parse`."""
    notes: list[str] = []
    adapters: list[Adapter] = []

    def lora(found: re.Match[str]) -> str:
        weight = _number(found[2] or "1")
        if weight is None:
            notes.append(f"the weight in {shortened(found[0], _LONGEST)} is not a number, and it is read as text")
            return found[0]
        adapters.append(Adapter(found[1], weight, weight))
        return ""

    if not negative:
        text = _LORA.sub(lora, text)
    blend = _operator(text, notes)
    if blend is None:
        pieces, more = _pieces(text)
        notes += more
        blend = (Passage((Section(pieces),)),)
    if ".swap(" in text:
        notes.append(".swap() is read as text: sdcli does not have it")
    return Parsed((Part(((steps, blend),)),), tuple(adapters), tuple(dict.fromkeys(notes)))


def escaped(text: str) -> str:
    """A text with a backslash before each character of the syntax, so that it is read as it is."""
    return re.sub(r"[()\"+\-\\]", r"\\\g<0>", text)


def _operator(text: str, notes: list[str]) -> tuple[Passage, ...] | None:
    """The passages of `.blend()` or `.and()`; None if the prompt has neither, or they are not valid."""
    found = _OPERATOR.fullmatch(text)
    if found is None:
        return None
    texts, end = [], 0
    while item := _QUOTED.match(found[1], end):
        texts.append(item[2] if item[1] is None else item[1].replace('\\"', '"'))
        end = item.end()
        if not item[3]:
            break
    options = [option.strip() for option in found[3].split(",") if option.strip()]
    normalize = found[2] == "blend" and "no_normalize" not in options
    weights = [_number(option) for option in options if option != "no_normalize"] or [1.0] * len(texts)
    numbers = [weight for weight in weights if weight is not None]
    if end < len(found[1]) or not texts or len(numbers) != len(weights) or len(weights) != len(texts):
        notes.append(f".{found[2]}({shortened(found[3], _LONGEST)}) is read as text: it needs a number for each prompt")
        return None
    total = sum(numbers)
    if normalize and not (total and math.isfinite(1 / total)):
        notes.append(f".blend({found[3]}) is read as text: the sum of the weights is 0")
        return None
    sections = []
    for each, weight in zip(texts, numbers, strict=True):
        pieces, more = _pieces(each)
        notes += more
        sections.append((pieces, weight / total if normalize else weight))
    if found[2] == "blend":
        return tuple(Passage((Section(pieces),), weight) for pieces, weight in sections)
    return (Passage(tuple(Section(pieces, weight) for pieces, weight in sections)),)


def _pieces(text: str) -> tuple[tuple[Piece, ...], list[str]]:
    """The pieces of a text, and notes."""
    # Brackets that close are emptied; those that do not are text.
    texts: list[str] = []
    weights: list[float] = []
    brackets: list[tuple[str, int]] = []
    notes: list[str] = []

    def add(run: str, weight: float = 1.0) -> None:
        texts.append(run)
        weights.append(weight)

    end = 0
    for token in _TOKEN.finditer(text):
        add(text[end : token.start()])
        end = token.end()
        bracket = token["open"] or token["close"]
        opening = "(" if bracket == ")" else bracket
        if token["escaped"]:
            add(token["escaped"])
        elif token["word"]:
            add(token["word"], _weight(token["signs"] or ""))
        elif bracket != "(" and brackets and brackets[-1][0] == opening:
            start = brackets.pop()[1]
            texts[start] = ""
            factor = _weight(token["attend"] or token["after"] or "")
            for at in range(start, len(weights)):
                weights[at] *= factor
            if not token["after"] and (bad := _BAD.match(text, end)) and any(map(str.isdigit, bad[0])):
                notes.append(f"the weight {shortened(bad[0], _LONGEST)} is not a number, and is read as text")
        elif bracket != ")" and len(brackets) < MOST_OPEN:
            brackets.append((str(bracket), len(texts)))
            add(str(bracket))
            add(token["after"] or "")
        else:
            add(token[0])
    add(text[end:])
    notes += [f"the bracket {bracket} is not closed, and is read as text" for bracket, _ in brackets]
    pieces: list[Piece] = []
    for run, weight in zip(texts, weights, strict=True):
        if pieces and pieces[-1].weight == weight:
            pieces[-1] = Piece(pieces[-1].text + run, weight)
        elif run:
            pieces.append(Piece(run, weight))
    return tuple(pieces), notes


def _weight(operator: str) -> float:
    """What pluses, minuses or a number multiply by; 1 for none."""
    if not operator.strip("+-"):
        signs = min(len(operator), MOST_OPEN)
        return float((1.1 if operator.startswith("+") else 0.9) ** signs)
    return float(operator)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(rf"\s*[+]?{_NUMBER}\s*", text) and math.isfinite(float(text)) else None
