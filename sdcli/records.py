"""Records in image files, and the lines of the journal of a run.

Both are written and read here only. `schema` counts the changes that older versions cannot read; older schemas are
migrated on reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_serializer

from sdcli.jobs import Job, Name, NoisePlace, at_home, key
from sdcli.json_text import read_object
from sdcli.settings import Settings, default, names, options, with_paths
from sdcli.version import VERSION

SCHEMA = 2
"""1: sdcli 0.1, without a schema number. 2: keys are made of what differs from the defaults."""


class _Part(BaseModel):
    """A part of a file's JSON. Unknown fields are kept: stages and newer versions may add some."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, protected_namespaces=())

    def values(self) -> dict[str, Any]:
        """The JSON object, without the fields that were never set."""
        # Not in the mode "json", which refuses half of a character; files may contain that.
        return self.model_dump(by_alias=True, exclude_unset=True)


_NAME = TypeAdapter(Name | None)


def _with_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Raise `ValueError` if a setting that names a file, a folder or a model contains a value that no name can be."""
    for name, line in options().items():
        if line.path or name == "revision":
            try:
                value = settings.get(name)
                for each in value if line.repeats and isinstance(value, list | tuple) else [value]:
                    _NAME.validate_python(each, strict=True)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg']}") from error
    return settings


RecordedSettings = Annotated[dict[str, Any], AfterValidator(_with_names)]
"""Settings by name. Their values are checked when they are used, except for names."""


class SafetyRecord(_Part):
    """The verdict of the safety checker on an image, and what was done about it."""

    checker: str = ""
    flagged: bool = False
    scores: dict[str, float] = {}
    source: str = ""
    """Where the weights of the checker come from."""
    threshold: float | None = None
    """The score from which the checker flags an image; older versions did not record it."""
    done: Literal["replace", "blur", "skip", "keep"] | None = None
    """The value of `--on-unsafe`, if the image is flagged."""

    @property
    def withheld(self) -> bool:
        """Whether the image was not saved as it was generated."""
        return self.done in ("replace", "blur", "skip")

    @property
    def why(self) -> str:
        """The checker, the highest score and its limit, in two digits, or in four if both would look the same."""
        score, limit = max(self.scores.values(), default=None), self.threshold
        if score is None or limit is None:
            return self.checker if score is None else f"{self.checker} {score:.2f}"
        digits = 4 if f"{score:.2f}" == f"{limit:.2f}" else 2
        return f"{self.checker} {score:.{digits}f}, limit {limit:.{digits}f}"


class WatermarkRecord(_Part):
    """The watermark of an image, as it was read back: `wrong_bits` of `bits` differ from the text."""

    text: str = ""
    method: str = ""
    found: bool = False
    wrong_bits: int = 0
    bits: int = 0


class ReadingRecord(_Part):
    """How the model's vocabulary read a prompt, see `sdcli.models.vocabulary.Reading`."""

    taken: dict[str, str] = {}
    unknown: list[str] = []
    not_obeyed: dict[str, str] = {}


_Record = TypeVar("_Record", bound="_FileRecord")


class _FileRecord(_Part):
    schema_version: int = Field(default=SCHEMA, alias="schema")
    sdcli: str = ""
    """The version that wrote the file."""
    job: Job | None = None
    watermark: WatermarkRecord | None = None

    @classmethod
    def new(cls: type[_Record], **parts: Any) -> _Record:
        """A record of this version. It never contains a time, so the same job gives the same file."""
        return cls(schema_version=SCHEMA, sdcli=VERSION, **parts)

    @field_serializer("job")
    def _whole_job(self, job: Job | None) -> dict[str, Any] | None:
        return None if job is None else job.model_dump(mode="json")


class ImageRecord(_FileRecord):
    """The record in an image file. A file that `sdcli watermark --add` wrote may have no job."""

    words_cut: str | None = None
    """The end of the prompt that the text encoder did not read."""
    reading: ReadingRecord = ReadingRecord()
    """How the model's vocabulary read the prompt; empty if every word is the model's own."""
    settings: RecordedSettings = {}
    """Settings beside the job that are needed to generate the image again, see `recorded_settings`."""
    safety: SafetyRecord | None = None
    device: str | None = None
    """The device that generated it, as PyTorch names it."""
    precision: str | None = None
    """ "full", "autocast float16" or "autocast bfloat16", and why if it changed on the way."""
    vae: Literal["tiled"] | None = None
    """How the VAE decoded the latents, if not whole."""

    @property
    def withheld(self) -> bool:
        """Whether the image was unsafe and was not saved as it was generated."""
        return self.safety is not None and self.safety.withheld


class GridRecord(_FileRecord):
    """The record in a page of the grid: the settings of its run, and the job of its first image."""

    grid: dict[str, Any]
    page: int = 0


class RunLine(_Part):
    """A line of the journal for each start of the run."""

    kind: Literal["run"] = "run"
    schema_version: int = Field(default=1, alias="schema")
    started: str = ""
    settings: RecordedSettings
    """Settings that were given, without those with the facet `journal=False`."""
    folder: Name
    """The current folder of the run: relative paths start from it. `~` stands for the home folder."""
    versions: dict[str, str] = {}
    device: str = ""


class Line(_Part):
    """A line of the journal for an image or a page of the grid. An image's line also has the fields of its record.

    The kind of a saved image is "picture", as in the first version of the journal.
    """

    kind: Literal["picture", "grid", "withheld", "failed"]
    schema_version: int = Field(default=1, alias="schema")
    key: str
    file: Name | None = None
    """Relative to the output folder, with forward slashes."""
    sha256: str | None = None
    """Of the file."""
    safety: SafetyRecord | None = None

    @classmethod
    def new(cls, kind: str, key: Key, **fields: Any) -> Line:
        """A line of this version."""
        return cls.model_validate({"kind": kind, "schema": SCHEMA, "key": key.key, **fields})

    @property
    def withheld(self) -> bool:
        """Whether the image was unsafe and was not saved as it was generated."""
        return self.safety is not None and self.safety.withheld


_LONGEST = 100
"""Characters of a value in the reason why a record cannot be read."""


class UnreadableRecord(ValueError):
    """A record that this version cannot read. The message is the reason."""


def read_record(values: Mapping[str, Any]) -> ImageRecord | GridRecord:
    """The record that a file contains as JSON.

    Raises:
        UnreadableRecord: it is damaged, or a newer version wrote it.
    """
    schema = values.get("schema", 1)
    writer = f"it was written by sdcli {str(values.get('sdcli'))[:_LONGEST]}"
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise UnreadableRecord(f"{writer} with schema {str(schema)[:_LONGEST]}; this version reads up to {SCHEMA}")
    # Schema 1 has the fields of schema 2, so reading it needs no change.
    kind = GridRecord if "grid" in values else ImageRecord
    try:
        return kind.model_validate({**values, "schema": schema})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:_LONGEST]
        raise UnreadableRecord(f"{writer}; {place}: {first['msg']}") from error


def read_line(data: bytes) -> RunLine | Line | None:
    """A line of a journal; None if it is damaged or of an unknown kind."""
    values = read_object(data)
    if values is None:
        return None
    try:
        return (RunLine if values.get("kind") == "run" else Line).model_validate(values)
    except ValidationError:
        return None


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """The settings with the facet `recorded` that are not at their defaults; the checkpoint's if it is in use.

    Paths as they were given, with `~` for the home folder, which may name a person.
    """
    values = {name: getattr(settings, name) for name in names(recorded=True)}
    checkpoint = {name: values.pop(name) for name in ("ckpt", "config")}
    kept = {name: value for name, value in values.items() if value != default(name)}
    if settings.checkpoint is not None:
        kept |= checkpoint
    return {name: with_paths(name, value, at_home) for name, value in kept.items()}


@dataclass(frozen=True)
class Key:
    """The identity of a job or of a page of the grid in journals.

    Attributes:
        key: as this version writes it.
        old: as schema 1 wrote it; None if schema 1 cannot express the job.
    """

    key: str
    old: str | None = None


class Keys:
    """The keys of a run's jobs. Repeated jobs are counted, so that each has another key.

    Args:
        settings: those of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[str, int] = {}

    def next(self, job: Job) -> Key:
        """The key of the run's next job."""
        first = Key(key(job, self._settings), _old_key(job, self._settings))
        # A place in the run's stream is used once; an image's own seed may be used again.
        if job.noise != NoisePlace():
            return first
        times = self._seen[first.key] = self._seen.get(first.key, 0) + 1
        if times == 1:
            return first
        return Key(_digest(f"{first.key} {times}"), first.old and _digest(f"{first.old} {times}"))


class PageKey:
    """The key of a page of the grid, made of the keys of its images."""

    def __init__(self) -> None:
        self._key, self._old = sha256(), sha256()
        self._has_old = True

    def add(self, image: Key) -> None:
        """Add an image of the page."""
        self._key.update(image.key.encode())
        self._old.update((image.old or "").encode())
        self._has_old = self._has_old and image.old is not None

    def close(self, shape: tuple[int, ...]) -> Key:
        """The key of a page of this shape, (height, width, 3)."""
        for digest in (self._key, self._old):
            digest.update(f"grid of {shape}".encode())
        return Key(self._key.hexdigest(), self._old.hexdigest() if self._has_old else None)


class _Schema1Job(BaseModel):
    """The fields of a job in schema 1, in their order. A key of schema 1 is a hash of its JSON."""

    prompt: str
    negative_prompt: str
    seed: int
    rng: str
    noise: NoisePlace
    height: int
    width: int
    steps: int
    sampler: str
    scale: float
    eta: float
    precision: str
    model: str
    model_hash: str
    out: str | None


_SCHEMA_1_FILE_SETTINGS = (
    "format", "watermark", "no_watermark", "watermark_method",
    "safety_checker", "safety_model", "nsfw_threshold", "on_unsafe",
)  # fmt: skip


def _old_key(job: Job, settings: Settings) -> str | None:
    """The key that schema 1 gave the job; None if the job or the run uses a setting that schema 1 did not have."""
    if job.read_as is not None or job.files:
        return None
    newer_image = set(names("image")) - _Schema1Job.model_fields.keys()
    newer_file = set(names("file")) - set(_SCHEMA_1_FILE_SETTINGS)
    if any(getattr(job, name) != default(name) for name in newer_image):
        return None
    if any(getattr(settings, name) != default(name) for name in newer_file):
        return None
    values = {name: getattr(settings, name) for name in _SCHEMA_1_FILE_SETTINGS}
    # Schema 1 had one threshold for all models.
    values["nsfw_threshold"] = 0.5 if settings.nsfw_threshold is None else settings.nsfw_threshold
    file_settings = json.dumps(values)
    old = _Schema1Job.model_validate(job.model_dump(include=set(_Schema1Job.model_fields)))
    return _digest(file_settings + old.model_dump_json())


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
