"""Prompts become chunks of tokens with weights, each as long as the text encoder takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sdcli.jobs import Job
from sdcli.models.tokenizer import PromptLength
from sdcli.models.tokenizer import measure as measured
from sdcli.prompts.syntax import PLAIN, Passage, Section, parse

BACKTRACK = 20
"""Tokens after the last comma of a full chunk that move to the next one, as in the web UI by default."""


@dataclass(frozen=True)
class Chunk:
    """The tokens of one evaluation of the text encoder.

    Attributes:
        ids: with those for the beginning, the end and the padding.
        weights: one for each of them.
        tokens: how many of them are tokens of the text, which are after the first.
        scale: what all embeddings are multiplied by.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    tokens: int
    scale: float = 1.0


@dataclass(frozen=True)
class Chunks:
    """A passage as the text encoder reads it.

    Attributes:
        chunks: one or more.
        tokens: tokens of the text, read or not.
        cut: the ends of its sections that are not read, as written; "" if all is read.
    """

    chunks: tuple[Chunk, ...]
    tokens: int
    cut: str


@dataclass(frozen=True)
class _Token:
    id: int
    weight: float
    rest: tuple[int, int]
    """Its piece and its place in it."""


class Chunker:
    """Divides passages into chunks.

    Args:
        tokenizer: as `Model.tokenizer`.
        long_prompt: what to do with more tokens than fit into a chunk, see `--long-prompt`.
    """

    def __init__(self, tokenizer: Any, long_prompt: str) -> None:
        self._tokenizer = tokenizer
        self._long_prompt = long_prompt
        self._begin, *_, self._end = tokenizer("").input_ids
        self.length = int(tokenizer.model_max_length)
        self._room = self.length - 2
        comma = tokenizer(",", add_special_tokens=False).input_ids
        self._comma = comma[0] if len(comma) == 1 else None

    def empty(self) -> Chunk:
        """The chunk of an empty text."""
        return self._chunk([], 1.0)

    def read(self, passage: Passage) -> Chunks:
        """The chunks of a passage."""
        chunks: list[Chunk] = []
        tokens, cut = 0, []
        for section in passage.sections:
            found = list(self._tokens(section))
            tokens += len(found)
            if not found and chunks and section is passage.sections[-1]:
                break
            if self._long_prompt == "cut":
                if len(found) > self._room:
                    cut.append(_rest(section, found[self._room]))
                parts = [found[: self._room]]
            else:
                parts = self._divided(found)
            chunks += [self._chunk(part, section.scale) for part in parts]
        return Chunks(tuple(chunks), tokens, " ".join(filter(None, cut)))

    def _tokens(self, section: Section) -> Iterator[_Token]:
        texts = [piece.text for piece in section.pieces]
        if not texts:
            return
        # Each piece for itself, as the web UI does: a word that a bracket divides is two words.
        encoded = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for number, piece in enumerate(section.pieces):
            places = zip(encoded["input_ids"][number], encoded["offset_mapping"][number], strict=True)
            for token, (start, _) in places:
                yield _Token(token, piece.weight, (number, start))

    def _divided(self, tokens: Sequence[_Token]) -> list[list[_Token]]:
        """The tokens of each chunk. What follows a comma near the end of a full chunk moves to the next one."""
        parts: list[list[_Token]] = [[]]
        comma: int | None = None
        for token in tokens:
            full = len(parts[-1]) == self._room
            if token.id == self._comma:
                comma = len(parts[-1])
            elif full and comma is not None and self._room - comma <= BACKTRACK:
                moved = parts[-1][comma + 1 :]
                del parts[-1][comma + 1 :]
                parts.append(moved)
                comma, full = None, False
            if full:
                parts.append([])
                comma = None
            parts[-1].append(token)
        return parts

    def _chunk(self, tokens: Sequence[_Token], scale: float) -> Chunk:
        padding = self._room - len(tokens)
        return Chunk(
            (self._begin, *(token.id for token in tokens), self._end, *(self._tokenizer.pad_token_id,) * padding),
            (1.0, *(token.weight for token in tokens), 1.0, *(1.0,) * padding),
            len(tokens),
            scale,
        )


def _rest(section: Section, first: _Token) -> str:
    """The text of a section from a token on."""
    number, start = first.rest
    return (section.pieces[number].text[start:] + "".join(piece.text for piece in section.pieces[number + 1 :])).strip()


def measure(tokenizer: Any, jobs: Sequence[Job], *, negative: bool = False) -> list[PromptLength]:
    """How much of the prompt of each job the model reads; of a prompt that changes, of its longest text.

    Args:
        tokenizer: as `Model.tokenizer`.
        jobs: any.
        negative: whether to measure the negative prompts instead.
    """
    texts = [job.negative_prompt if negative else job.encoded for job in jobs]
    # In one call, which is faster.
    as_is = list(dict.fromkeys(text for job, text in zip(jobs, texts, strict=True) if _is_as_is(job)))
    known = dict(zip(as_is, measured(tokenizer, as_is), strict=True)) if as_is else {}
    return [
        known[text] if _is_as_is(job) else _measured(tokenizer, job, text, negative)
        for job, text in zip(jobs, texts, strict=True)
    ]


def _is_as_is(job: Job) -> bool:
    """Whether the original would read the prompt in the same way."""
    return (job.prompt_syntax, job.long_prompt) == (PLAIN, "cut")


Runs = tuple[tuple[str, float], ...]
"""The runs of tokens with one weight in a chunk: (text, weight)."""


@dataclass(frozen=True)
class Encoded:
    """A text that is encoded for an image, with the weights of its tokens.

    Attributes:
        negative: whether it belongs to the negative prompt.
        part: number of the part of the guidance, from 1, and its weight.
        until: the last step that it is used in, as `Part.stages` has it.
        share: in a blend.
        chunks: one or more.
    """

    negative: bool
    part: tuple[int, float]
    until: int
    share: float
    chunks: tuple[Runs, ...]


def encoded(tokenizer: Any, job: Job) -> list[Encoded]:
    """Every text that is encoded for a job, as its syntax reads it; none for a prompt that is encoded as it is."""
    if _is_as_is(job):
        return []
    chunker = Chunker(tokenizer, job.long_prompt)
    found = []
    for negative, text in ((False, job.encoded), (True, job.negative_prompt)):
        parsed = parse(text, job.prompt_syntax, job.steps, negative=negative)
        for number, part in enumerate(parsed.parts, 1):
            for until, blend in part.stages:
                for passage in blend:
                    runs = tuple(tuple(_runs(tokenizer, chunk)) for chunk in chunker.read(passage).chunks)
                    found.append(Encoded(negative, (number, part.weight), until, passage.share, runs))
    return found


def _runs(tokenizer: Any, chunk: Chunk) -> Iterator[tuple[str, float]]:
    tokens = zip(chunk.ids[1 : chunk.tokens + 1], chunk.weights[1 : chunk.tokens + 1], strict=True)
    for weight, run in groupby(tokens, lambda token: token[1]):
        yield tokenizer.decode([token for token, _ in run]).strip(), weight * chunk.scale


def _measured(tokenizer: Any, job: Job, text: str, negative: bool) -> PromptLength:
    chunker = Chunker(tokenizer, job.long_prompt)
    passages = parse(text, job.prompt_syntax, job.steps, negative=negative).passages()
    most = max(map(chunker.read, passages), key=lambda chunks: chunks.tokens)
    return PromptLength(most.tokens + 2 * len(most.chunks), chunker.length, most.cut, len(most.chunks))
