"""Embeddings of prompts with weights, chunks, breaks, parts and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sdcli.models.chunks import Chunk, Chunker
from sdcli.models.conditioning import Composition, Conditioning, Encoding, Stages
from sdcli.prompts.syntax import Blend, Part, Passage, parse

if TYPE_CHECKING:
    from sdcli.jobs import Job
    from sdcli.models.families import Family
    from sdcli.models.model import Model

_ROUNDING = 1e-6
"""A mean that is smaller, compared with that of the absolute values, is a sum of rounding errors: the last
normalization of the text encoder has no bias. It is not restored."""


def condition(family: Family, model: Model, jobs: Sequence[Job]) -> Conditioning | tuple[Composition, ...]:
    """The conditioning of a batch.

    Args:
        family: the model's.
        model: a loaded model.
        jobs: the batch; they have the same syntax.

    Returns:
        A `Conditioning`, if each prompt has one text for all steps and all have the same number of chunks; otherwise a
        `Composition` for each job.
    """
    encoder = _Encoder(family, model, jobs[0])
    rows = [encoder.composition(job) for job in jobs]
    shapes = {row.negative[0][1].embeddings.shape for row in rows}
    if len(shapes) == 1 and all(row.is_simple for row in rows):
        return Conditioning.of([row.parts[0][1][0][1] for row in rows], [row.negative[0][1] for row in rows])
    return tuple(rows)


class _Encoder:
    """Encodes passages. Equal ones are encoded once, each chunk alone, so an image does not depend on its batch."""

    def __init__(self, family: Family, model: Model, job: Job) -> None:
        self._family = family
        self._model = model
        self._clip_skip = job.clip_skip
        self._syntax = job.prompt_syntax
        self._encoders = [(Chunker(tokenizer, job.long_prompt), each) for tokenizer, each in model.text_encoders]
        self._chunks: dict[tuple[int, Chunk], Encoding] = {}

    def composition(self, job: Job) -> Composition:
        """The conditioning of a job. Shorter texts are padded with empty chunks to the longest of the job."""
        prompt = parse(job.encoded, self._syntax, job.steps)
        negative = parse(job.negative_prompt, self._syntax, job.steps, negative=True)
        passages = [*prompt.passages(), *negative.passages()]
        length = max(len(chunker.read(passage).chunks) for passage in passages for chunker, _ in self._encoders)
        parts = tuple((part.weight, self._stages(job, part, length)) for part in prompt.parts)
        return Composition(parts, self._stages(job, negative.parts[0], length, negative=True))

    def _stages(self, job: Job, part: Part, length: int, *, negative: bool = False) -> Stages:
        return tuple(
            (last, self._family.completed(self._model, job, self._blend(blend, length), negative=negative))
            for last, blend in part.stages
        )

    def _blend(self, blend: Blend, length: int) -> Encoding:
        if len(blend) == 1 and blend[0].share == 1:
            return self._passage(blend[0], length)
        return Encoding.of_shares([(passage.share, self._passage(passage, length)) for passage in blend])

    def _passage(self, passage: Passage, length: int) -> Encoding:
        return Encoding.of_encoders([self._read(number, passage, length) for number in range(len(self._encoders))])

    def _read(self, number: int, passage: Passage, length: int) -> Encoding:
        """A passage by one of the text encoders."""
        chunker, _ = self._encoders[number]
        chunks = chunker.read(passage).chunks
        chunks += (chunker.empty(),) * (length - len(chunks))
        return Encoding.of_chunks([self._chunk(number, chunk) for chunk in chunks])

    def _chunk(self, number: int, chunk: Chunk) -> Encoding:
        if (number, chunk) not in self._chunks:
            ids = torch.tensor(chunk.ids, device=self._model.device)
            found = self._family.embeddings(self._model, self._encoders[number][1], ids, self._clip_skip)
            changed = weighted(found.embeddings, chunk.weights) * chunk.scale
            self._chunks[number, chunk] = replace(found, embeddings=changed)
        return self._chunks[number, chunk]


def weighted(embeddings: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """The embeddings of tokens multiplied by weights, then all by one number that restores their mean.

    As the emphasis "Original" of AUTOMATIC1111's web UI does.

    Args:
        embeddings: (tokens, width).
        weights: one for each token.
    """
    if all(weight == 1 for weight in weights):
        return embeddings
    changed = embeddings * torch.tensor(weights, dtype=embeddings.dtype, device=embeddings.device)[:, None]
    mean = changed.mean()
    if mean.abs() <= _ROUNDING * changed.abs().mean():
        return changed
    return changed * (embeddings.mean() / mean)
