"""Values that several tools write in the same form."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from sdcli.json_text import read_object
from sdcli.metadata.texts import COMMENT_KEY, PARAMETERS_KEY
from sdcli.prompts.syntax import is_text
from sdcli.sampler_names import own_schedule, split

OTHER_IMAGE = "the image was generated from another image"
NO_RNG = "the random number generator is not known"


_SHORT = 75
"""Bytes of a prompt that is never longer than the model reads: each token has at least one."""


def reading(syntax: str, *prompts: Any) -> dict[str, str]:
    """Returns the settings that read prompts as a tool does that has a syntax and reads prompts of any length."""
    texts = [text[:100_000] for text in prompts if isinstance(text, str)]
    weighted = not all(is_text(text, syntax) for text in texts)
    long = any(len(text.encode(errors="replace")) > _SHORT for text in texts)
    return ({"prompt_syntax": syntax} if weighted else {}) | ({"long_prompt": "chunk"} if long else {})


def objects(texts: Mapping[str, str], *names: str) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects in `parameters`, in UserComment, and in the texts with these names."""
    for name in (PARAMETERS_KEY, COMMENT_KEY, *names):
        if name in texts and (content := _object(texts[name])):
            yield content


@lru_cache(maxsize=2)
def _object(text: str) -> dict[str, Any] | None:
    # Several readers look at a text of megabytes, one after the other.
    return read_object(text)


def fields(value: Any) -> dict[str, Any]:
    """Returns a JSON object; an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def file_name(path: Any) -> str | None:
    """Returns the last part of a path of any system; None if there is no file."""
    name = path.replace("\\", "/").rpartition("/")[2] if isinstance(path, str) else ""
    return None if name in ("", "None") else name


def sampling(name: Any, schedule: Any = None) -> dict[str, str | None]:
    """Returns the sampler and the schedule, by their names in sdcli if it has them, otherwise by those of the tool.

    Args:
        name: the tool's name of the sampler, which may be followed by that of the schedule.
        schedule: its name of the schedule; any value that is not a text if the tool does not name one.
    """
    sampler, of_name = split(name) if isinstance(name, str) and name not in ("", "None") else (None, None)
    given = schedule if isinstance(schedule, str) and schedule not in ("", "None") else "auto"
    found = own_schedule(given) or given
    found = (of_name or "auto") if found == "auto" else found
    return {"sampler": sampler, "schedule": None if found == "auto" else found}


def harmless(
    other: Mapping[str, Any], always: Collection[str], neutral: Mapping[str, Collection[Any]] = MappingProxyType({})
) -> frozenset[str]:
    """Returns the names of the values that do not change the image, or that the settings contain.

    Args:
        other: the values of a tool.
        always: names in lower case of values of which this is always true.
        neutral: for a name in lower case, the values of which it is true, as text; numbers with a decimal point.
    """
    return frozenset(
        name
        for name, value in other.items()
        if (key := name.casefold()) in always
        or value in ("False", "None")
        or (key in neutral and _text(value) in neutral[key])
    )


def _text(value: Any) -> str:
    try:
        return str(float(str(value)))
    except ValueError:
        return str(value)


def others(
    values: Mapping[str, Any], used: Collection[str], neutral: Mapping[str, Collection[str]] = MappingProxyType({})
) -> dict[str, Any]:
    """Returns the values that may have an effect.

    Args:
        values: the values of a tool.
        used: names of values to leave out. Values that are empty, zero or off are left out, too.
        neutral: for a name, the values without an effect, as text.
    """
    return {
        name: value
        for name, value in values.items()
        if name not in used
        and value not in (None, False, "", "None", "[]", [], {})
        and not (name in neutral and str(value) in neutral[name])
    }
