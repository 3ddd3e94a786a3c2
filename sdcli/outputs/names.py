"""What an image's file is called: the pattern of `--output-name`, and names that rows give."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sdcli.errors import UsageError
from sdcli.jobs import Job
from sdcli.outputs.formats import FORMATS
from sdcli.settings import ImageFormat, image_format

FIELDS = (
    "index", "seed", "prompt", "negative_prompt", "steps", "sampler", "scale", "eta", "height", "width", "model",
    "model_hash",
)  # fmt: skip
"""What a pattern may hold between braces."""
_SLUG = 60
_PART = 120
_LONGEST = 200
"""Bytes of a name, and of a value within one; file systems take 255, and a number may follow."""
_WORD = re.compile(r"[^\W_]\S*")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"*:<>?\\|]')


def slug(text: str) -> str:
    """Words as part of a file name: letters and digits of any script in lower case, dashes between."""
    plain = unicodedata.normalize("NFKC", text).lower()
    whole = "-".join(_WORD.findall("".join(sign if _in_words(sign) else " " for sign in plain)))
    short = _cut(whole[:_SLUG], _PART)
    if whole[len(short) :][:1] not in ("", "-"):
        # Whole words, unless the first is longer still.
        short = short.rpartition("-")[0] or short
    return short or "picture"


def _in_words(sign: str) -> bool:
    """Letters, digits, and the marks on them, which are the vowels of many scripts."""
    return sign.isalnum() or (unicodedata.category(sign) in ("Mn", "Mc") and not "\ufe00" <= sign <= "\ufe0f")


def _cut(text: str, size: int) -> str:
    """The beginning of a text that takes no more than `size` bytes."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")


class _Pattern(string.Formatter):
    """`str.format`, with `slug`, and without its way into the values' attributes."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if field_name not in kwargs:
            raise UsageError(
                f"--output-name has no {{{field_name}}}", fix=f"There are: {', '.join(f'{{{f}}}' for f in FIELDS)}."
            )
        return kwargs[field_name], field_name

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion:
            raise UsageError(f"--output-name takes no !{conversion}", fix="Leave it out.")
        return value

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "slug":
            return slug(str(value))
        text = super().format_field(value, format_spec)
        # A value is part of one name: only the pattern itself makes folders.
        return _cut(_UNSAFE.sub("-", text.replace("/", "-")).lstrip("."), _PART) or "picture"


def check_pattern(pattern: str, format: ImageFormat) -> None:
    """That a pattern gives names.

    Raises:
        UsageError: an unknown field, a form that the field does not take, a name that is none.
    """
    example = dict.fromkeys(("prompt", "negative_prompt", "sampler", "model", "model_hash"), "word")
    values = {name: example.get(name, 1.0 if name in ("scale", "eta") else 1) for name in FIELDS}
    require_name(_formatted(pattern, values), format, "--output-name")


def name_of(job: Job, pattern: str | None, format: ImageFormat) -> str | None:
    """The name of a job's file in `samples/`, with `/` between folders; None: the next number.

    Raises:
        UsageError: the values make a name that is none.
    """
    if job.out is not None:
        return require_name(job.out, format, "out")
    if pattern is None:
        return None
    # An ending is the pattern's: that of a prompt such as "photo.jpg" is none.
    suffix = PurePosixPath(pattern).suffix if image_format(pattern) else FORMATS[format].suffix
    name = _formatted(pattern, job.model_dump(include=set(FIELDS)))
    name = name.removesuffix(suffix) if image_format(pattern) else name
    # Only now is it known how long the values are.
    short = [_cut(part, _LONGEST - 10) for part in name.split("/")]
    return require_name("/".join(short) + suffix, format, "--output-name")


def require_name(name: str, format: ImageFormat, what: str) -> str:
    """The name with the format's ending, below the output folder and fit for any file system.

    Raises:
        UsageError: it would leave the folder, has the ending of another format, or is none.
    """
    path = PurePosixPath(name)
    parts = path.parts
    if path.is_absolute() or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise UsageError(
            f"{what} {name!r} would leave the output folder", fix="Give a name below it, such as cats/one.png."
        )
    if not parts or name.endswith("/") or any(part.startswith(".") for part in parts) or _UNSAFE.search(name):
        raise UsageError(
            f"{what} {name!r} is no name for an image",
            why='Names are not empty, begin with no dot, and hold no control characters or any of "*:<>?\\|.',
        )
    by_name = image_format(name)
    if by_name not in (None, format):
        raise UsageError(
            f"{what} {name!r} contradicts --format {format}", fix="Leave the ending out, or give the --format of it."
        )
    full = name if by_name else f"{name}{FORMATS[format].suffix}"
    if any(len(part.encode()) > _LONGEST for part in PurePosixPath(full).parts):
        raise UsageError(
            f"{what} {name!r} is longer than {_LONGEST} bytes", fix="Shorten it; {prompt:slug} is at most 60 signs."
        )
    return full


def _formatted(pattern: str, values: Mapping[str, Any]) -> str:
    try:
        return _Pattern().vformat(pattern, (), values)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise UsageError(
            f"--output-name {pattern!r} is not a pattern", why=f"{error}.", fix="For example: {index:05}-{prompt:slug}"
        ) from None
