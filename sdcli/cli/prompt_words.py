"""The positional arguments of `sdcli txt2img`: prompts, or the words of one prompt without quotes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sdcli.errors import UsageError
from sdcli.settings import image_format
from sdcli.terminal import shortened

_WHOLE = re.compile(
    r"\s|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
"""What only a whole prompt has: a blank, or a character of a script that puts none between words."""
_LOST_VALUE = re.compile(r"true|false|yes|no|on|off|none|null|[-+]?\d*[.,]?\d+|\d+x\d+", re.IGNORECASE)
"""A word that is no prompt, but the value of a flag that takes none, or one value only."""


def prompts(words: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The prompts that positional arguments stand for, and a note if they were joined.

    If one of them has a blank, each is a prompt. Otherwise they are the words of one prompt whose quotes are missing.

    Raises:
        UsageError: a word that is no prompt: the value of a flag, or the name of a file.
    """
    for word in words:
        if os.path.isfile(word) and Path(word).suffix:  # noqa: PTH113  # has an answer for names that no file can have
            raise UsageError(f"{word} is a file, not a prompt", fix=_use_of(word))
    if len(words) == 1 or any(_WHOLE.search(word) for word in words):
        for word in words:
            if _LOST_VALUE.fullmatch(word):
                raise UsageError(
                    f"{word!r} is not read as a prompt",
                    why="It looks like the value of a flag that takes no value, or no second one.",
                    fix=f"To generate an image of it: --prompt {word}",
                )
        return tuple(words), ""
    joined = " ".join(words)
    return (joined,), (
        f'the words are read as one prompt, "{joined}"; put each prompt in quotes, or pass --prompt for each of several'
    )


def require_alone(words: Sequence[str], flag: str, value: str | Sequence[str]) -> None:
    """Refuse prompts without a flag beside a flag that gives prompts, too.

    Args:
        words: the positional arguments.
        flag: the flag, as it was typed.
        value: its value.
    """
    if isinstance(value, str) and not any(_WHOLE.search(word) for word in words):
        # `--prompt a red apple`: only the first word is the flag's value.
        whole = " ".join((value, *words))
        raise UsageError(
            f"the words {' '.join(words)!r} after {flag} {value} belong to no flag",
            fix=f'Put the whole value in quotes: {flag} "{shortened(whole)}"',
        )
    raise UsageError(f"prompts without a flag and {flag} contradict each other", fix="Pass one of them.")


def _use_of(file: str) -> str:
    """How to pass a file of this kind."""
    suffix = Path(file).suffix.lower()
    if image_format(file) or suffix in (".gif", ".bmp", ".tif", ".tiff", ".avif"):
        return "Image to image is not supported yet: sdcli generates images from text only."
    flag = (
        "--ckpt"
        if suffix in (".ckpt", ".safetensors")
        else "--config"
        if suffix in (".yaml", ".yml")
        else "--from-file"
    )
    return f"Pass it with {flag}; --prompt {file} generates an image of these words."
