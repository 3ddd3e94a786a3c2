"""A run: settings, prompts, model and output, found to fit together before the model loads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import Any

from sdcli import models
from sdcli.errors import InputFileError, ModelError, OutputError, UsageError, indented
from sdcli.events import Note, Phase, Progress, ignore
from sdcli.jobs import Job, batches, sampler_of, size, steps_of
from sdcli.models import adapters, families
from sdcli.models.adapters import Adapter
from sdcli.models.adapters.embedding import EmbeddingFile
from sdcli.models.model import ModelSource
from sdcli.models.scheduler_config import FEW_STEPS_BY
from sdcli.models.vocabulary import Reading, Vocabulary
from sdcli.outputs import formats, names
from sdcli.outputs.folder import SAMPLES
from sdcli.pipeline.samplers import Plan
from sdcli.prompts import Prompt, Prompts, Row, has_templates
from sdcli.prompts import syntax as syntaxes
from sdcli.prompts.syntax import HEAVIEST, PLAIN, Parsed, looks_like, parse, words
from sdcli.prompts.templates import LONGEST, is_plain
from sdcli.registry import SAMPLERS
from sdcli.settings import AUTO, Settings, default, flag, require_taken, with_paths
from sdcli.stages import StageContext, Stages
from sdcli.terminal import shortened

HASHING_AFTER = 1.0
"""Seconds after which it is said that the model is hashed; the hash of an earlier run takes none."""
_PATH_MAX = 4096
"""Bytes of a path on Linux, with the zero byte at its end."""
_LONGEST_PROMPT, _LONGEST_MARK = 80, 40
_MOST_NOTES = 12
"""Of a run, about the words of its prompts."""
_MOST_CHOICES = 10_000
"""Images of a run with templates whose prompts are read before the model loads."""


class Run:
    """A valid run.

    Args:
        settings: the settings.
        progress: receives a note for each skipped row.
        source: the model, if it is already found.
        reads: whether the model's vocabulary reads the prompts.

    Raises:
        sdcli.errors.SdcliError: an image cannot be generated or saved. The rows of a stream are only checked as they
            arrive.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Progress = ignore,
        source: ModelSource | None = None,
        *,
        reads: bool = True,
    ) -> None:
        _require_current_folder()
        self.progress = progress
        self.skipped = 0
        """Rows skipped so far."""
        self.source: ModelSource = source or models.find_for(settings)
        self.spec = self.source.spec
        # In the journal, too: another version may have another default.
        own = {"steps": steps_of(settings, self.spec), "sampler": sampler_of(settings, self.spec)}
        settings = settings.model_copy(update=own)
        self.settings = settings
        if settings.output_name is not None:
            names.check_pattern(settings.output_name, settings.format)
        if settings.output not in (None, "-"):
            _require_new(Path(str(settings.output)))
        self._longest = 0
        context = StageContext(
            settings, self.spec, self.source, lambda pixels: formats.as_saved(pixels, settings.format)
        )
        self.stages = Stages(context, progress)
        self.vocabulary = self.source.vocabulary() if reads else None
        self._words_noted: set[str] = set()
        self._syntax_noted: set[str] = set()
        self._has_templates = False
        self._adapters: dict[tuple[str, str], Adapter] = {}
        self._find = cache(partial(adapters.find, folder=settings.adapters))
        self.notes = [*self.spec.notes, *self._require(settings)]
        """What the user should read before the run starts."""
        skip = self._skip if settings.on_error == "skip" else None
        self._prompts = Prompts(settings, self._check, skip, lambda note: progress(Note(note)))
        self.total = self._prompts.count()
        """Number of images; None for a stream of prompts."""
        self.counts = self._prompts.counts
        """How the number comes about; None for a stream."""
        if self._has_templates and self.total is not None and settings.on_error == "stop":
            for _ in islice(self._known_prompts(Prompts(settings)), _MOST_CHOICES):
                pass

    def batches(self, *, report: bool = True) -> Iterator[list[Job]]:
        """The jobs in order, in batches. Only once for a stream. The first batch computes the model's hash.

        Args:
            report: whether skipped rows are counted and noted.
        """
        prompts = self._known_prompts(self._prompts.each(report=report), report=report)
        yield from batches(
            prompts, self.settings, self.spec, self.model_hash, self._step_draws, self._read, self._files_of
        )

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the model's weights, which are downloaded if they are not on this machine."""
        here = self.source.here()
        if not here:
            self.progress(Phase("downloading model"))
        late = Timer(HASHING_AFTER, self.progress, [Phase("hashing model")])
        late.daemon = True
        if here:
            late.start()
        try:
            return self.source.hash()
        finally:
            late.cancel()

    def _files_of(self, prompt: Prompt) -> dict[str, Any]:
        """The fields of a job about the files that change its model: their names in records, and their hashes."""
        settings = prompt.settings
        used: dict[str, Any] = {"lora": settings.lora, "embedding": self._embeddings(prompt.text, settings)}
        used |= {"vae": settings.vae} if settings.vae else {}
        fields: dict[str, Any] = {}
        hashes: dict[str, str] = {}
        for setting, value in used.items():
            found = {path: self._located(setting, path) for path in adapters.paths(setting, value)}
            names_of = {path: adapter.name for path, adapter in found.items()}
            fields[setting] = with_paths(setting, value, names_of.__getitem__)
            hashes |= {adapter.name: adapter.hash for adapter in found.values()}
            if setting == "lora":
                fields["lora_hashes"] = {each.name: each.hash_of_tensors for each in found.values()}
        return fields | ({"files": hashes} if hashes else {})

    def _embeddings(self, text: str, settings: Settings) -> tuple[str, ...]:
        """The values of --embedding whose words the prompt or the negative prompt has: the others change nothing."""
        both = f"{text}\n{settings.negative_prompt}"
        return tuple(value for value in adapters.embeddings(settings.embedding) if self._embedding(value).is_in(both))

    def _embedding(self, value: str) -> EmbeddingFile:
        (path,) = adapters.paths("embedding", value)
        return adapters.embedding(self._located("embedding", path).path, adapters.word(value))

    def _located(self, setting: str, path: str) -> Adapter:
        """A file that changes the model. It is looked for once, and its hash is that of the beginning of the run."""
        if (setting, path) not in self._adapters:
            self._adapters[setting, path] = adapters.locate(
                setting, path, self.settings.adapters, offline=self.settings.offline
            )
        return self._adapters[setting, path]

    def _step_draws(self, job: Job) -> int:
        if job.sampler == AUTO:
            return job.steps  # a scheduler of diffusers draws at most once in each step
        draws: int = SAMPLERS[job.sampler].draws(Plan.of(job, job.steps), self.spec.schedule)
        return draws

    def _check(self, row: Row) -> Row:
        if row.settings is not self.settings:
            self._require(row.settings)
        if row.out is not None:
            self._require_place(names.require_portable(row.out, self.settings.format, "out"))
        length = len(row.text) + len(row.settings.negative_prompt)
        if length > self._longest:
            self._longest = length
            height, width = size(row.settings, self.spec)
            formats.require_room(height, width, row.text, row.settings.negative_prompt, self.settings.format)
        if not has_templates(row.settings) or is_plain(row.text):
            self._read(row.text, row.settings)
            return replace(row, settings=self._with_loras(row.text, row.settings))
        if self.vocabulary is not None or row.settings.prompt_syntax != PLAIN:
            self._has_templates = True
        return row

    def _with_loras(self, text: str, settings: Settings) -> Settings:
        """The settings with the LoRAs that the prompt names.

        Raises:
            ModelError: a LoRA is not found, or does not fit the model.
        """
        named = self._parsed(text, settings).adapters
        if not named:
            return settings
        lora = adapters.with_named(settings.lora, named, self._find)
        self._require_loras(lora[len(settings.lora) :])
        for each in named:
            self._note_weights(each, settings.lora)
        return settings if lora == settings.lora else settings.model_copy(update={"lora": lora})

    def _note_weights(self, named: syntaxes.Adapter, given: Sequence[str]) -> None:
        """Note a LoRA of a prompt that --lora names with other weights."""
        for value in given:
            (path,) = adapters.paths("lora", value)
            other = adapters.weights(value) != (named.weight, named.text_weight)
            if other and adapters.is_name_of(named.name, path):
                self._note_syntax(f"the LoRA {named.name} has the weights of {flag('lora')}, not those in the prompt")

    def _require_loras(self, values: Sequence[str]) -> None:
        for path in adapters.paths("lora", values):
            adapters.lora(self._located("lora", path).path).require_fit(self.spec)

    def _read(self, text: str, settings: Settings) -> str:
        """What the text encoder gets for a prompt.

        Raises:
            UsageError: a weight or a part of it cannot be encoded, or the model knows no word of it.
        """
        self._require_syntax(text, settings)
        return text if self.vocabulary is None else self._known(text, settings, self.vocabulary).text

    def _require_syntax(self, text: str, settings: Settings) -> None:
        """Check what a prompt and its negative prompt say in their syntax; notes what they may not mean."""
        syntax = settings.prompt_syntax
        for name, each in (("prompt", text), ("negative_prompt", settings.negative_prompt)):
            if syntax == PLAIN and settings.long_prompt == default("long_prompt"):
                # One note is enough for a file of many prompts.
                can_read = not settings.compat and self.spec.pipeline is None
                if can_read and not self._syntax_noted and (found := looks_like(each)):
                    self._note_syntax(
                        f"{shortened(found[1], _LONGEST_MARK)} is read as text; if it is not meant so, pass "
                        f"{flag('prompt_syntax')} {found[0]}"
                    )
                continue
            if len(each) > LONGEST:
                raise UsageError(
                    f"the {name.replace('_', ' ')} has {len(each):,} characters, and the limit is {LONGEST:,}",
                    fix=f"Shorten it, or leave out {flag('prompt_syntax')} and {flag('long_prompt')}.",
                    settings=(name,),
                )
            parsed = self._parsed(each, settings, negative=name == "negative_prompt")
            if parsed.heaviest > HEAVIEST:
                raise UsageError(
                    f"the {name.replace('_', ' ')} {shortened(repr(each), _LONGEST_PROMPT)} has a weight of "
                    f"{parsed.heaviest:g}, and the limit is {HEAVIEST:g}",
                    why="Weights of brackets within brackets are multiplied.",
                    fix="Use smaller weights, or fewer brackets.",
                    settings=(name,),
                )
            if self.spec.guidance_embedding and (len(parsed.parts) > 1 or parsed.parts[0].weight != 1):
                raise UsageError(
                    f"the model {self.spec.name} takes one prompt, and AND and its weights make several",
                    why="Its guidance is learned, and not a difference between predictions.",
                    fix="Leave them out.",
                    settings=("prompt",),
                )
            for note in parsed.notes:
                self._note_syntax(f"in the {name.replace('_', ' ')}, {note}")

    def _parsed(self, text: str, settings: Settings, *, negative: bool = False) -> Parsed:
        return parse(text, settings.prompt_syntax, steps_of(settings, self.spec), negative=negative)

    def _note_syntax(self, note: str) -> None:
        if len(self._syntax_noted) < _MOST_NOTES and note not in self._syntax_noted:
            self._syntax_noted.add(note)
            self.progress(Note(note))

    def _known(self, text: str, settings: Settings, vocabulary: Vocabulary) -> Reading:
        """How the model reads a prompt. Notes what differs from the prompt, for the first prompts of the run.

        Raises:
            UsageError: it knows no word of the prompt, and the run has no --any-words.
        """
        reading = vocabulary.read(text, settings.prompt_syntax)
        if not reading.known and not self.settings.any_words:
            near = vocabulary.nearest(words(text, settings.prompt_syntax))
            raise UsageError(
                f"the model {self.spec.name} knows no word of the prompt {shortened(repr(text), _LONGEST_PROMPT)}",
                why=f"It knows {len(vocabulary)} things by their names, and no people"
                + (f"; the nearest names: {', '.join(near)}." if near else "."),
                fix="sdcli models words lists them. --any-words generates an arbitrary image; --model MODEL or --ckpt "
                "FILE uses a model that knows more.",
                settings=("prompt",),
            )
        for note in reading.notes():
            if len(self._words_noted) < _MOST_NOTES and note not in self._words_noted:
                self._words_noted.add(note)
                full = len(self._words_noted) == _MOST_NOTES
                self.progress(Note("further words are drawn as others or ignored; see --dry-run" if full else note))
        return reading

    def _known_prompts(self, prompts: Iterable[Prompt], *, report: bool = True) -> Iterator[Prompt]:
        """The prompts that can be generated, with their LoRAs. Templates are read now, and not in `_check`."""
        for prompt in prompts:
            try:
                self._read(prompt.text, prompt.settings)
                settings = self._with_loras(prompt.text, prompt.settings)
            except (UsageError, ModelError) as error:
                if self.settings.from_file is None:
                    raise
                of_file = InputFileError(f"image {prompt.index + 1}: {error.what}", why=error.why, fix=error.fix)
                if self.settings.on_error == "stop":
                    raise of_file from error
                if report:
                    self._skip(of_file)
            else:
                yield replace(prompt, settings=settings)

    def _require_place(self, name: str) -> None:
        """Raise `UsageError` if no file of this name can be in `samples/`."""
        path = Path(self.settings.outdir).absolute() / SAMPLES / name
        # A number may be appended to the name.
        if len(os.fsencode(path)) + 20 > _PATH_MAX:
            raise UsageError(
                f"out {name[:60]!r}... is too long for the folder {self.settings.outdir}", fix="Shorten it."
            )
        for folder in list(path.parents)[: name.count("/")]:
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"out {name!r} is in {folder}, which is not a folder", fix="Pass another name.")

    def _require(self, settings: Settings) -> list[str]:
        """Check that the model and the stages can handle these settings; returns the notes of the stages."""
        height, width = size(settings, self.spec)
        notes = families.get(self.spec.family).require(settings, self.spec)
        plan = Plan.of(settings, steps_of(settings, self.spec))
        self._require_loras(settings.lora)
        for path in adapters.paths("vae", settings.vae):
            adapters.vae(self._located("vae", path).path).require_fit(self.spec)
        for value in adapters.embeddings(settings.embedding):
            self._embedding(value).require_fit(self.spec)
        if settings.embedding and self.vocabulary is not None:
            raise UsageError(
                f"{flag('embedding')} {settings.embedding[0]} cannot be used with the model {self.spec.name}",
                why="It reads prompts in its own words.",
                fix="Pass another model with --model or --ckpt.",
                settings=("embedding",),
            )
        if (sampler := sampler_of(settings, self.spec)) != AUTO:
            require_taken(settings, sampler)
            SAMPLERS[sampler].check(plan, self.spec.schedule)
        if self.spec.few_steps_by and sampler not in FEW_STEPS_BY.values():
            notes.append(
                f"the model {self.spec.name} is made for a few steps of another sampler: pass --sampler "
                f"{self.spec.few_steps_by}"
            )
        return [*notes, *self.stages.check(height, width)]

    def _skip(self, error: InputFileError) -> None:
        self.skipped += 1
        self.progress(Note(f"skipped: {indented(error)}"))


def _require_current_folder() -> None:
    """Raise `OutputError` if the current folder was deleted. PyTorch needs it, and its libraries end the process."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise OutputError(
            "there is no current folder", why=f"{error.strerror}.", fix="It was deleted: cd to another folder."
        ) from error


def _require_new(path: Path) -> None:
    """Raise `OutputError` if a file exists, or its folder does not."""
    try:
        exists = path.exists()
    except OSError as error:  # the name is too long
        raise OutputError(
            f"cannot write --output {path}", why=f"{error.strerror}.", fix="Pass another name."
        ) from error
    if exists:
        fix = "Pass a new name: sdcli never overwrites a file."
        if path.is_dir():
            fix = "It is a folder: add the name of the file, or pass --outdir instead."
        raise OutputError(f"--output {path} already exists", fix=fix)
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"cannot write --output {path}", why=f"The folder {path.parent} does not exist.", fix="Create it."
        )
