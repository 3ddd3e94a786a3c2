"""Where settings come from: the user's file, another file, the environment, flags; each layer over the weaker ones.

A file is TOML with the settings' names as keys, spelt in any way that the command line takes; a variable is `SDCLI_`
and such a name in capitals, with underscores. No file of the current folder is read unasked: where a script runs does
not change what it draws.
"""

from __future__ import annotations

import difflib
import json
import os
import re
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
from sdcli.settings import LAION_DEFAULTS, Settings, flag_of, flags, spellings

PREFIX = "SDCLI_"
FILE_VARIABLE = "SDCLI_CONFIG_FILE"
"""Stands for `--config-file`."""


@dataclass(frozen=True)
class Origin:
    """Where a setting's value comes from."""

    kind: Literal["default", "user file", "config file", "environment", "record", "flag"]
    name: str = ""
    """The path of the file, the variable, or the flag; none for a default."""
    line: int | None = None
    """In a file, the line where the setting begins."""

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}" if self.line else self.name or self.kind


@dataclass(frozen=True)
class Said:
    """A setting's value, and where it was said."""

    value: Any
    origin: Origin


Layer = Mapping[str, Said]
"""What one source says, by the settings' names."""


@dataclass(frozen=True)
class Configuration:
    """The settings in force, and what was said to make them so."""

    settings: Settings
    said: Layer


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: str | None = None,
    environment: Mapping[str, str] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Configuration:
    """The settings from, weakest first: defaults, the user's file, `config_file`, the environment, flags.

    Args:
        flags: the values of the flags that were given, by the settings' names.
        config_file: another file; by default the one that the environment names.
        environment: variables; by default those of this process.
        recorded: the settings of an earlier run, which stand in the place of files and environment.

    Raises:
        InputFileError: a file that is missing or cannot be read as TOML. Only the user's may be missing.
        UsageError: an unknown or repeated setting, a value of the wrong type, or one that cannot be meant.
    """
    environment = os.environ if environment is None else environment
    if config_file is None:
        config_file = environment.get(FILE_VARIABLE) or None
    layers: list[Layer] = [
        {name: Said(value, Origin("record", "the run's record")) for name, value in (recorded or {}).items()}
    ]
    if recorded is None:
        layers = [
            read_file(user_file(), "user file"),
            {} if config_file is None else read_file(Path(config_file), "config file"),
            read_environment(environment),
        ]
    said = merge(
        *layers, {name: Said(value, Origin("flag", flag_of(name).names[0])) for name, value in (flags or {}).items()}
    )
    with origins_told(said):
        return Configuration(Settings.of(**{name: one.value for name, one in said.items()}), said)


def user_file() -> Path:
    """The file of the user's own settings, whether it is there or not."""
    return platformdirs.user_config_path("sdcli", appauthor=False) / "sdcli.toml"


def read_file(path: Path, kind: Literal["user file", "config file"]) -> Layer:
    """What a TOML file says; nothing if it is the user's and not there.

    A relative path of a file to read starts from the folder of the TOML file, `~/` from the user's home. A model or a
    configuration that is not there is left as it is, since it may be a name; and `outdir` starts from the current
    folder, as on the command line.

    Raises:
        InputFileError: it is missing, or cannot be read as TOML.
        UsageError: an unknown setting, one that is there twice, or a value of the wrong type.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        if kind == "user file" and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise InputFileError(f"cannot read the settings in {path}", why=f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputFileError(
            f"cannot read the settings in {path}: it is not UTF-8",
            why=f"Line {line} holds the byte 0x{error.object[error.start]:02x}.",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InputFileError(f"cannot read the settings in {path}: it is not TOML", why=f"{error}.") from error
    lines = _lines(text)
    said = _layer(((key, value, Origin(kind, str(path), lines.get(key))) for key, value in values.items()), strict=True)
    return {name: Said(_from_folder(name, one.value, path.parent), one.origin) for name, one in said.items()}


def read_environment(environment: Mapping[str, str]) -> Layer:
    """What the variables that begin with `SDCLI_` say; an empty one says nothing.

    Raises:
        UsageError: an unknown setting, one that is there twice, or a value of the wrong type.
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
    """Every way to name a setting, as a file's key and as a variable, to its name; underscores for dashes."""
    keys = spellings()
    return keys | {f"{PREFIX}{key.upper()}": name for key, name in keys.items()}


def _layer(entries: Iterable[tuple[str, Any, Origin]], *, strict: bool) -> dict[str, Said]:
    """What a source's entries say: key, value, place. Strict keeps 30 and "30" apart; else texts are read as flags'."""
    said: dict[str, Said] = {}
    keys: dict[str, str] = {}
    for key, value, origin in entries:
        place = "the environment" if origin.kind == "environment" else origin
        name = _spellings().get(key.replace("-", "_"))
        if name is None or key.startswith(PREFIX) != (origin.kind == "environment"):
            raise UsageError(
                f"unknown setting {key} in {place}", why=_nearest(key), fix="sdcli txt2img --help lists all settings."
            )
        if name in keys:
            raise UsageError(f"{keys[name]} and {key} in {place} are the same setting", fix="Leave one of the two out.")
        keys[name] = key
        said[name] = Said(_parsed(name, value, f"{key} = {toml(value)} in {place}", strict=strict), origin)
    return said


def _nearest(key: str) -> str:
    """What may have been meant by a key or a variable that is none."""
    variable = key.upper().startswith(PREFIX)
    known = {spelling.lower(): spelling for spelling in _spellings() if spelling.startswith(PREFIX) == variable}
    near = difflib.get_close_matches(key.replace("-", "_").lower(), known, n=2)
    return f"Did you mean {' or '.join(known[spelling] for spelling in near)}?" if near else ""


def _parsed(name: str, value: Any, what: str, *, strict: bool) -> Any:
    """The value in the setting's type; dashes and underscores are one and the same in fixed choices."""
    choices = next(choices for setting, _, _, choices in flags() if setting == name)
    if isinstance(value, str):
        value = next((c for c in choices if c.replace("-", "_") == value.replace("-", "_")), value)
    kind: Any = Settings.model_fields[name].annotation
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value, strict=True) if strict else adapter.validate_strings(value)
    except ValidationError as error:
        raise UsageError(f"{what} is not valid", why=f"{error.errors()[0]['msg']}.") from None


def _from_folder(name: str, value: Any, folder: Path) -> Any:
    """A path of a file to read, from the folder that it is relative to; any other value as it is."""
    metavar = flag_of(name).metavar
    if metavar not in ("FILE", "FOLDER", "YAML", "MODEL") or not value:
        return value
    if value.startswith("~/"):
        return str(Path(value).expanduser())
    if metavar == "FILE" or (metavar != "FOLDER" and (folder / value).exists()):
        return str(folder / value)
    return value


def _lines(text: str) -> dict[str, int]:
    """The line where each key of a TOML file begins, as tomllib does not tell it.

    A statement is the fewest lines that are TOML by themselves.
    """
    lines: dict[str, int] = {}
    statement = ""
    begins = 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not statement:
            begins = number
        statement += line
        try:
            keys = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        for key in keys:
            lines.setdefault(key, begins)
        statement = ""
    return lines


# What makes no sense beside a setting of a stronger layer. A switch that is off displaces nothing.
_DISPLACED: dict[str, set[str]] = {
    "prompt": {"from_file"},
    "sampler": {"plms", "dpm_solver"},
    "plms": {"sampler", "dpm_solver"},
    "dpm_solver": {"sampler", "plms"},
    "model": {"ckpt", "config", "laion400m"},
    "ckpt": {"model"},
    "config": {"model"},
    "laion400m": {"model", "ckpt", "config"},
    "watermark": {"no_watermark"},
    "matrix": {"compat"},
    "compat": {"matrix"},
    "fixed_code": {"seed_mode"},
    "resume": {"skip_save", "output"},
    # One image, and nothing beside it.
    "output": {
        *("from_file", "matrix", "n_samples", "n_iter", "images_per_prompt"),
        *("output_name", "gallery", "skip_save", "skip_grid", "resume"),
    },
}


def merge(*layers: Layer) -> Layer:
    """Layers over one another, weakest first. What contradicts a stronger layer goes; it is never an error."""
    merged: dict[str, Said] = {}
    for layer in layers:
        gone = {
            other for name, said in layer.items() if said.value is not False for other in _DISPLACED.get(name, set())
        }
        # A revision is one of the model that it was said for.
        if "model" in merged and "model" in gone | layer.keys():
            gone.add("revision")
        # --plms beside --dpm_solver counts for nothing, also where a stronger layer turns --dpm_solver off.
        if _sampler(merged) == "dpm_solver":
            gone.add("plms")
        # PLMS knows no eta but 0.
        if _sampler(layer) == "plms":
            gone.add("eta")
        elif "eta" in layer and layer["eta"].value != 0 and _sampler(merged) == "plms":
            gone |= {"sampler", "plms"}
        merged = {name: said for name, said in merged.items() if name not in gone} | dict(layer)
    return merged


def _sampler(layer: Layer) -> str | None:
    """The sampler that a layer asks for, by its name or by a switch."""
    for switch in ("dpm_solver", "plms"):
        if switch in layer and layer[switch].value:
            return switch
    return layer["sampler"].value if "sampler" in layer else None


# Switches that set other settings, the stronger first.
_SWITCHES = {"sampler": ("dpm_solver", "plms")} | dict.fromkeys(LAION_DEFAULTS, ("laion400m",))


def origin(name: str, said: Layer) -> Origin:
    """Where the value of a setting comes from: itself, or a switch that stands for it."""
    if name in said:
        return said[name].origin
    switches = (switch for switch in _SWITCHES.get(name, ()) if switch in said and said[switch].value)
    return next((said[switch].origin for switch in switches), Origin("default"))


@contextmanager
def origins_told(said: Layer) -> Iterator[None]:
    """Let an error that names flags also say which of them were set in a file or the environment, and where."""
    try:
        yield
    except SdcliError as error:
        told = []
        for spelling in dict.fromkeys(re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", str(error))):
            name = _spellings().get(spelling.replace("-", "_"))
            where = origin(name, said) if name else Origin("default")
            if where.kind not in ("default", "flag"):
                told.append(f"--{spelling} is set by {where}.")
        error.why = " ".join([error.why, *told]).strip()
        raise


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def template() -> str:
    """A settings file to start from: every setting with its help and default, all commented out."""
    lines = [
        "# Settings of sdcli. Take away the # before a setting to set it; `sdcli config` shows what is in force.",
        "# Stronger than this file: --config-file FILE, variables such as SDCLI_STEPS=30, and flags.",
        "# Relative paths of files to read start from this folder, outdir from where sdcli runs.",
    ]
    for panel, group in groupby(flags(), key=lambda entry: entry[1].panel):
        lines += ["", f"### {panel}"]
        for name, flag, default, choices in group:
            words = f"{flag.help} One of: {', '.join(choices)}." if choices else flag.help
            text = str in get_args(Settings.model_fields[name].annotation)
            placeholder = f'"{flag.metavar}"' if text else flag.metavar
            lines += ["", f"# {words}", f"# {name} = {placeholder if default is None else toml(default)}"]
    return "\n".join(lines) + "\n"
