"""File names of images: the pattern of `--output-name`, and the names that rows of a prompt file set."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sdcli.errors import UsageError
from sdcli.jobs import Job, NoisePlace
from sdcli.registry import FORMATS
from sdcli.settings import default, image_format, names

_NAMELESS = "picture"
"""The name of an image whose prompt has no letters. It has never changed, because scripts look for it."""
_SLUG = 60
_PART = 120
_LONGEST = 200
"""Bytes of a name, and of one value in it. File systems allow 255, and a number may be appended."""
_WORD = re.compile(r"[^\W_]\S*")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"*:<>?\\|]')
"""Control characters, among them those that change the direction of text, halves of characters, and what some file
systems reject."""
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE
)
_LONGEST_PATH = 3000
"""Bytes of a name with its folders. Linux allows 4096 for a path, with the output folder."""
_WIDEST = 200
"""Characters that a format specification may ask for."""
_FOREIGN = re.compile(r"\.(avif|bmp|gif|heic|ico|jp2|jxl|svg|tga|tiff?)", re.IGNORECASE)


def fields() -> list[str]:
    """The fields that a pattern may contain in braces."""
    return ["index", *names("image"), "model", "model_hash"]


def slug(text: str) -> str:
    """A text as part of a file name: letters and digits of any script in lower case, with dashes between words."""
    plain = unicodedata.normalize("NFKC", text).lower()
    whole = "-".join(_WORD.findall("".join(character if _is_letter(character) else " " for character in plain)))
    short = _cut(whole[:_SLUG], _PART)
    if whole[len(short) :][:1] not in ("", "-"):
        # Cut at a word, unless the first word is too long itself.
        short = short.rpartition("-")[0] or short
    return short or _NAMELESS


def _is_letter(character: str) -> bool:
    """Letters, digits, and combining marks, which are the vowels of many scripts."""
    mark = unicodedata.category(character) in ("Mn", "Mc") and not "\ufe00" <= character <= "\ufe0f"
    return mark or character.isalnum()


def _cut(text: str, size: int) -> str:
    """The beginning of a text that takes no more than `size` bytes."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")


class _Pattern(string.Formatter):
    """`str.format` with the form `slug`, and without access to the attributes of values."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if field_name not in kwargs:
            raise UsageError(
                f"--output-name has no {{{field_name}}}",
                fix=f"The fields are: {', '.join(f'{{{f}}}' for f in fields())}.",
            )
        return kwargs[field_name], field_name

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion:
            raise UsageError(f"--output-name does not support !{conversion}", fix="Remove it.")
        return value

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "slug":
            return slug(str(value))
        if too_wide := next((n for n in re.findall(r"\d+", format_spec) if len(n) > 10 or int(n) > _WIDEST), None):
            raise UsageError(
                f"--output-name has the width {too_wide[:20]}", why=f"A value has at most {_WIDEST} characters."
            )
        text = super().format_field(value, format_spec)
        # A value is part of one name: only the pattern itself creates folders.
        return _cut(_UNSAFE.sub("-", text.replace("/", "-")).lstrip("."), _PART) or _NAMELESS


def check_pattern(pattern: str, format: str) -> None:
    """Check that a pattern gives valid names.

    Raises:
        UsageError: an unknown field, a form that the field does not support, or an invalid name.
    """
    image = {name: default(name) for name in names("image")} | {"prompt": "word", "negative_prompt": "word"}
    image |= {"steps": 1, "height": 1, "width": 1, "scale": 1.0}
    example = Job(**image, noise=NoisePlace(), model="word", model_hash="word", index=1)
    values = example.model_dump(include=set(fields()))
    name = require_name(_formatted(pattern, values), format, "--output-name")
    require_portable(name, format, "--output-name")


def name_of(job: Job, pattern: str | None, format: str) -> str | None:
    """The name of a job's file in `samples/`, with `/` between folders; None if the file gets the next number.

    Raises:
        UsageError: the values give an invalid name.
    """
    if job.out is not None:
        return require_name(job.out, format, "out")
    if pattern is None:
        return None
    # Only the pattern has a suffix: the end of a prompt such as "photo.jpg" is not one.
    suffix = PurePosixPath(pattern).suffix if image_format(pattern) else FORMATS[format].suffix
    name = _formatted(pattern, job.model_dump(include=set(fields())))
    name = name.removesuffix(suffix) if image_format(pattern) else name
    # The length of the values is only known now.
    parts = name.split("/")
    short = [_cut(part, min(_LONGEST - 10, _LONGEST_PATH // len(parts) - 10)) for part in parts]
    return require_name("/".join(short) + suffix, format, "--output-name")


def require_name(name: str, format: str, what: str) -> str:
    """The name with the suffix of the format, inside the output folder and valid on any file system.

    Raises:
        UsageError: it leaves the folder, has the suffix of another format, or is not a valid name.
    """
    path = PurePosixPath(name)
    parts = path.parts
    if path.is_absolute() or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise UsageError(
            f"{what} {name!r} would leave the output folder", fix="Pass a name inside it, such as cats/one.png."
        )
    if not parts or name.endswith("/") or any(part.startswith(".") for part in parts) or _UNSAFE.search(name):
        raise UsageError(
            f"{what} {name!r} is not a valid file name",
            why="A name is not empty, does not begin with a dot, and contains no control characters and none of "
            '"*:<>?\\|.',
        )
    by_name = image_format(name)
    if by_name not in (None, format):
        raise UsageError(
            f"{what} {name!r} contradicts --format {format}",
            fix="Remove the suffix, or pass the --format that it names.",
        )
    full = name if by_name else f"{name}{FORMATS[format].suffix}"
    if len(full.encode(errors="replace")) > _LONGEST_PATH:
        raise UsageError(f"{what} {name[:60]!r}... is longer than {_LONGEST_PATH} bytes", fix="Shorten it.")
    if any(len(part.encode()) > _LONGEST for part in PurePosixPath(full).parts):
        raise UsageError(
            f"{what} {name!r} is longer than {_LONGEST} bytes",
            fix="Shorten it; {prompt:slug} has at most 60 characters.",
        )
    return full


def require_portable(name: str, format: str, what: str) -> str:
    """As `require_name`, for a name that a user writes: it must also mean the same on any system.

    Raises:
        UsageError: as `require_name`; a name that Windows reserves, or changes; a folder named like an image, which
            another image may be called; the suffix of an image format that sdcli does not write.
    """
    full = require_name(name, format, what)
    *folders, _ = parts = PurePosixPath(full).parts
    shown = repr(name)
    if any(_RESERVED.fullmatch(part) for part in parts):
        raise UsageError(f"{what} {shown} is not a valid file name", why="Windows reserves con, nul and similar names.")
    if any(part.endswith((" ", ".")) for part in (*folders, *PurePosixPath(name).parts)):
        raise UsageError(
            f"{what} {shown} is not a valid file name",
            why="A name does not end with a blank or a dot.",
        )
    if any(image_format(folder) for folder in folders):
        raise UsageError(
            f"{what} {shown} is not a valid file name",
            why="A folder cannot have the suffix of an image.",
            fix="Rename the folder.",
        )
    suffix = PurePosixPath(name).suffix
    if _FOREIGN.fullmatch(suffix):
        raise UsageError(
            f"{what} {shown} has the suffix {suffix}, which sdcli does not write",
            fix=f"Leave it out, or pass one of the formats {', '.join(FORMATS)} with --format.",
        )
    return full


def _formatted(pattern: str, values: Mapping[str, Any]) -> str:
    try:
        return _Pattern().vformat(pattern, (), values)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise UsageError(
            f"--output-name {pattern!r} is not a valid pattern",
            why=f"{error}.",
            fix="For example: {index:05}-{prompt:slug}",
        ) from None
