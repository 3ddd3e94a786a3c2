"""Merges settings from the user's file, another file, the environment and flags, and keeps the origin of each value.

A file is TOML with the names of settings as keys, in any spelling that the command line accepts. A variable is `SDCLI_`
and such a name in capitals, with underscores. No file of the current folder is read unless it is named, so the folder
in which a script runs does not change its images.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import platformdirs
from pydantic import TypeAdapter, ValidationError

from sdcli.errors import InputFileError, SdcliError, UsageError
from sdcli.registry import SAMPLERS
from sdcli.settings import (
    ORIGINAL_SAMPLER,
    RANDOM,
    PathKind,
    Settings,
    assignments,
    flag,
    flags,
    in_use,
    invalid,
    lists,
    options,
    spellings,
    with_flags,
    with_paths,
)
from sdcli.suggestions import did_you_mean, elsewhere, near
from sdcli.terminal import shortened

PREFIX = "SDCLI_"
FILE_VARIABLE = "SDCLI_CONFIG_FILE"
"""The variable that does the same as `--config-file`."""


MAX_SIZE = 200_000
"""Bytes of a settings file; one with every setting has ten thousand."""
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){50}""")
"""A key with many parts. tomllib takes time with the square of their number, and no setting has parts."""
_LONGEST = 100
"""Characters of a value in a message."""


@dataclass(frozen=True)
class Origin:
    """The origin of a setting's value."""

    kind: Literal["default", "user file", "config file", "environment", "record", "flag"]
    name: str = ""
    """The path of the file, the variable, or the flag; empty for a default."""
    line: int | None = None
    """The line of the setting in a file."""

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}" if self.line else self.name or self.kind


@dataclass(frozen=True)
class Given:
    """A setting's value and its origin."""

    value: Any
    origin: Origin


Layer = Mapping[str, Given]
"""The values of one source, by the names of the settings."""


@dataclass(frozen=True)
class Configuration:
    """The settings in force, and the values that were given."""

    settings: Settings
    given: Layer

    @property
    def random_seed(self) -> bool:
        """Whether the seed was chosen, because the one that was given is `RANDOM`."""
        return "seed" in self.given and self.given["seed"].value == RANDOM


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: str | None = None,
    environment: Mapping[str, str] | None = None,
    recorded: Mapping[str, Any] | None = None,
    typed: Mapping[str, str] | None = None,
) -> Configuration:
    """Load the settings. Sources, weakest first: defaults, the user's file, `config_file`, the environment, flags.

    Args:
        flags: the values of the flags that were given, by the names of the settings.
        config_file: another file; by default the one that the environment names.
        environment: variables; by default those of this process.
        recorded: the settings of an earlier run, which replace files and environment.
        typed: the flags as they were typed, by the names of the settings, for errors. That of `prompts` stands for
            prompts without a flag: then each prompt has one image, unless a source says another number.

    Raises:
        InputFileError: a file does not exist or is not TOML. The user's file may be missing.
        UsageError: a setting is unknown or repeated, or its value is not valid.
    """
    environment = os.environ if environment is None else environment
    if config_file is None:
        config_file = environment.get(FILE_VARIABLE) or None
    layers: list[Layer] = [
        {name: Given(value, Origin("record", "the run's record")) for name, value in (recorded or {}).items()}
    ]
    if recorded is None:
        layers = [
            read_file(user_file(), "user file"),
            {} if config_file is None else read_file(Path(config_file), "config file"),
            read_environment(environment),
        ]
    typed = typed or {}
    by_flags = {}
    origins = {name: Origin("flag", typed.get(name, flag(name))) for name in flags or {}}
    with origins_in_errors({name: Given(value, origins[name]) for name, value in (flags or {}).items()}):
        for name, set_, value in assignments(flags or {}):
            # The flag of a sampler whose name has a schedule is not that of the schedule.
            is_own = set_ in (name, lists().get(name))
            by_flags[set_] = Given(value, origins[name] if is_own else Origin("flag", flag(set_)))
    layers.append(by_flags)
    if "prompts" in typed:
        layers.insert(0, _one_image_each(layers))
    given = merge(*layers)
    with origins_in_errors(given):
        return Configuration(Settings.of(**{name: one.value for name, one in given.items()}), given)


def _one_image_each(layers: Iterable[Layer]) -> Layer:
    """The number of images of prompts without a flag, beneath these layers."""
    given = {name for layer in layers for name in layer}
    numbers = ("n_samples", "n_iter") if given & {"n_samples", "n_iter"} else ("images_per_prompt",)
    return {} if "images_per_prompt" in given else {name: Given(1, Origin("default")) for name in numbers}


def user_file() -> Path:
    """The path of the user's own settings file, whether or not it exists.

    For a user without a home folder it is one that cannot exist.
    """
    try:
        return platformdirs.user_config_path("sdcli", appauthor=False) / "sdcli.toml"
    except RuntimeError:
        return Path(os.devnull) / "sdcli" / "sdcli.toml"


def read_file(path: Path, kind: Literal["user file", "config file"]) -> Layer:
    """The settings of a TOML file; none if it is the user's file and does not exist.

    A relative path of a file to read starts from the folder of the TOML file, `~/` from the user's home. A model or a
    configuration that does not exist there stays unchanged, since it may be a name. `outdir` starts from the current
    folder, as on the command line.

    Raises:
        InputFileError: it does not exist, or is not TOML.
        UsageError: a setting is unknown or repeated, or its value has the wrong type.
    """
    try:
        text = _bytes_of(path).decode("utf-8-sig")
        if _LONG_KEY.search(text):
            raise tomllib.TOMLDecodeError("A key has more than 50 parts")
        values = tomllib.loads(text)
        toml(values)  # fails for numbers that are too long to be printed
    except OSError as error:
        if kind == "user file" and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise InputFileError(f"cannot read the settings in {path}", why=f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputFileError(
            f"cannot read the settings in {path}: it is not UTF-8",
            why=f"Line {line} contains the byte 0x{error.object[error.start]:02x}.",
        ) from error
    except (ValueError, RecursionError) as error:  # also for integers of thousands of digits, and deep nesting
        raise InputFileError(f"cannot read the settings in {path}: it is not TOML", why=f"{error}.") from error
    lines = _lines(text)
    given = _layer(
        ((key, value, Origin(kind, str(path), lines.get(key))) for key, value in values.items()), strict=True
    )
    return {name: Given(_from_folder(name, one.value, path.parent), one.origin) for name, one in given.items()}


def _bytes_of(path: Path) -> bytes:
    """The content of a settings file.

    Raises:
        OSError: it cannot be read, may block, or has more than `MAX_SIZE` bytes.
    """
    # Pipes that a shell has opened, as for <(command), are in these folders. Another may have no writer, and block.
    opened = str(path).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin"))
    if stat.S_ISFIFO(path.stat().st_mode) and not opened:
        raise OSError(errno.EINVAL, "It is a pipe")
    with path.open("rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise OSError(errno.EFBIG, f"It has more than {MAX_SIZE:,} bytes")
    return content


def read_environment(environment: Mapping[str, str]) -> Layer:
    """The settings of the variables that begin with `SDCLI_`. Empty variables are ignored.

    Raises:
        UsageError: a setting is unknown or repeated, or its value has the wrong type.
    """
    return _layer(
        (
            (variable, value, Origin("environment", variable))
            for variable, value in environment.items()
            if variable.startswith(PREFIX) and variable != FILE_VARIABLE and value
        ),
        strict=False,
    )


@cache
def _spellings() -> dict[str, str]:
    """The name of a setting by each spelling in files and in the environment, with underscores for dashes."""
    keys = spellings()
    return keys | {f"{PREFIX}{key.upper()}": name for key, name in keys.items()}


def _layer(entries: Iterable[tuple[str, Any, Origin]], *, strict: bool) -> dict[str, Given]:
    """The settings of entries (key, value, origin). `strict` distinguishes 30 and "30"; otherwise strings are parsed as
    those of flags.
    """
    keys: dict[str, tuple[str, Origin]] = {}
    values: dict[str, Any] = {}
    for key, value, origin in entries:
        place = "the environment" if origin.kind == "environment" else origin
        name = _spellings().get(key.replace("-", "_"))
        if name is None or key.startswith(PREFIX) != (origin.kind == "environment"):
            raise UsageError(
                f"unknown setting {key[:_LONGEST]} in {place}",
                why=_nearest(key),
                fix="sdcli txt2img --help lists all settings.",
            )
        if name in keys:
            raise UsageError(f"{keys[name][0]} and {key} in {place} are the same setting", fix="Remove one of them.")
        keys[name] = key, origin
        values[name] = value
    given: dict[str, Given] = {}
    with origins_in_errors({name: Given(value, keys[name][1]) for name, value in values.items()}):
        for name, set_, value in assignments(values):
            key, origin = keys[name]
            place = "the environment" if origin.kind == "environment" else origin
            given[set_] = Given(_parsed(set_, value, f"{key} = {_shown(value)} in {place}", strict=strict), origin)
    return given


def _nearest(key: str) -> str:
    """What another tool's setting is called here, or the settings with a similar name, as a question."""
    if not key.upper().startswith(PREFIX):
        return elsewhere(key) or did_you_mean(near(key, spellings()))
    name = key[len(PREFIX) :]
    return elsewhere(name) or did_you_mean(f"{PREFIX}{each.upper()}" for each in near(name, spellings()))


def _parsed(name: str, value: Any, what: str, *, strict: bool) -> Any:
    """The value in the setting's type."""
    if value == RANDOM and name == "seed":
        return value
    kind: Any = Settings.model_fields[name].annotation
    adapter = TypeAdapter(kind)
    try:
        as_is = strict or name in lists().values() or options()[name].repeats
        parsed = adapter.validate_python(value, strict=True) if as_is else adapter.validate_strings(value)
    except ValidationError:
        error = invalid(name, value)
        raise UsageError(f"{what} is not valid", why=error.why, fix=error.fix) from None
    if options()[name].path and "\0" in (parsed or ""):
        raise UsageError(f"{what} is not valid", why="A path cannot contain a zero byte.")
    return parsed


def _from_folder(name: str, value: Any, folder: Path) -> Any:
    """The path of a file to read, relative to `folder`; any other value unchanged."""
    return with_paths(name, value, lambda path: _path_from(options()[name].path, path, folder)) if value else value


def _path_from(kind: PathKind | None, path: str, folder: Path) -> str:
    if path.startswith("~/"):
        return os.path.expanduser(path)  # noqa: PTH111  # unchanged, if there is no home folder
    # A model may be a name, and folders start from the current folder, as on the command line.
    if kind in ("file", "checkpoint") or (kind not in ("folder", "output folder") and (folder / path).exists()):
        return path if path == "-" else str(folder / path)
    return path


def _lines(text: str) -> dict[str, int]:
    """The line of each key of a TOML file, which tomllib does not report; not of those after a very long statement.

    A statement is the smallest number of lines that are valid TOML.
    """
    lines: dict[str, int] = {}
    statement = ""
    begins = 1
    # Of long statements each line would be parsed as often as there are lines after it.
    left = len(text) + 100_000
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not statement:
            begins = number
        statement += line
        left -= len(statement)
        if left < 0:
            break
        try:
            keys = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        for key in keys:
            lines.setdefault(key, begins)
        statement = ""
    return lines


def merge(*layers: Layer) -> Layer:
    """Layers over one another, weakest first. A stronger layer drops what contradicts it; that is never an error."""
    merged: dict[str, Given] = {}
    for layer in layers:
        values = {name: given.value for name, given in layer.items()}
        dropped: set[str] = set()
        for name, value in values.items():
            line = options()[name]
            if in_use(name, values):
                dropped.update(line.contradicts)
            # A switch that is off displaces nothing.
            if value is not False:
                dropped.update(line.displaces)
        # A revision belongs to the model that it was given for.
        if "model" in merged and "model" in dropped | layer.keys():
            dropped.add("revision")
        weaker = {name: given.value for name, given in merged.items()}
        # --dpm_solver overrides --plms, also where a stronger layer turns --dpm_solver off.
        if weaker.get("dpm_solver"):
            dropped.add("plms")
        sampler, before = _sampler(values), _sampler(weaker)
        if sampler is not None:
            dropped |= _refused(sampler, weaker) | _of_name(merged)
        elif before is not None and _refused(before, values):
            dropped |= {name for name, line in options().items() if "sampler" in (name, *line.stands_for)}
            dropped |= _refused(ORIGINAL_SAMPLER, weaker) | _of_name(merged)
        merged = {name: given for name, given in merged.items() if name not in dropped} | dict(layer)
    return merged


def _refused(sampler: str, values: Mapping[str, Any]) -> set[str]:
    """The settings among these values that a sampler does not take."""
    given = ((name, values[name]) for name in ("schedule", "sigmas", "eta") if name in values)
    return {name for name, value in given if not SAMPLERS[sampler].takes(name, value)}


def _of_name(given: Layer) -> set[str]:
    """The schedule, if the name of the sampler has set it: both come from one place."""
    both = {name: given[name].origin for name in ("sampler", "schedule") if name in given}
    return {"schedule"} if len(both) == 2 and both["sampler"] == both["schedule"] else set()


def _sampler(values: Mapping[str, Any]) -> str | None:
    """The sampler that these values name, or that a switch of theirs stands for; None if there is none."""
    switches = (name for name in ("dpm_solver", "plms") if values.get(name))
    sampler = next((options()[name].stands_for["sampler"] for name in switches), values.get("sampler"))
    return sampler if sampler in SAMPLERS else None


def origin(name: str, given: Layer) -> Origin:
    """The origin of a setting's value: its own, or that of a switch that stands for it."""
    if name in given:
        return given[name].origin
    switches = reversed([switch for switch, line in options().items() if name in line.stands_for])
    return next(
        (given[switch].origin for switch in switches if switch in given and given[switch].value), Origin("default")
    )


@contextmanager
def origins_in_errors(given: Layer) -> Iterator[None]:
    """Name the flags in an error as they were typed, and add the file, line or variable that set the others."""
    try:
        yield
    except SdcliError as error:
        flags_given = ((flag(name), one.origin.name) for name, one in given.items() if one.origin.kind == "flag")
        typed = {first: name for first, name in flags_given if name.startswith("-")}
        for part in ("what", "why", "fix"):
            setattr(error, part, with_flags(getattr(error, part), lambda name: typed.get(name, name)))
        origins = ((flag(name), origin(name, given)) for name in error.settings)
        sources = [f"{shown} is set by {place}." for shown, place in origins if place.kind not in ("default", "flag")]
        error.why = " ".join([error.why, *sources]).strip()
        raise


def toml(value: Any) -> str:
    """A value in TOML."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _shown(value: Any) -> str:
    """A value in TOML, short enough for a message."""
    return shortened(toml(value), _LONGEST)


def template() -> str:
    """A settings file with every setting, its help and its default, all commented out."""
    lines = [
        "# Settings of sdcli. Remove the # before a setting to set it; `sdcli config` shows the settings in force.",
        "# --config-file FILE, variables such as SDCLI_STEPS=30, and flags override this file.",
        "# Relative paths of files to read start from this folder; outdir starts from the folder in which sdcli runs.",
    ]
    for panel, group in groupby(flags(), key=lambda entry: entry[1].panel):
        lines += ["", f"### {panel}"]
        for name, line, value, choices in group:
            text = f"{line.help} One of: {', '.join(choices)}." if choices else line.help
            is_text = str in get_args(Settings.model_fields[name].annotation)
            placeholder = f'"{line.metavar}"' if is_text else line.metavar
            lines += ["", f"# {text}", f"# {name} = {placeholder if value is None else toml(value)}"]
    return "\n".join(lines) + "\n"
