"""Embeddings of prompts with weights, chunks, breaks, parts and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sdcli.models.chunks import Chunk, Chunker
from sdcli.models.conditioning import Composition, Conditioning, Stages
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
    shapes = {row.negative[0][1].shape for row in rows}
    if len(shapes) == 1 and all(row.is_simple for row in rows):
        prompt = torch.stack([row.parts[0][1][0][1] for row in rows])
        return Conditioning(prompt, torch.stack([row.negative[0][1] for row in rows]))
    return tuple(rows)


class _Encoder:
    """Encodes passages. Equal ones are encoded once, each chunk alone, so an image does not depend on its batch."""

    def __init__(self, family: Family, model: Model, job: Job) -> None:
        self._family = family
        self._model = model
        self._clip_skip = job.clip_skip
        self._syntax = job.prompt_syntax
        self._chunker = Chunker(model.tokenizer, job.long_prompt)
        self._chunks: dict[Chunk, torch.Tensor] = {}

    def composition(self, job: Job) -> Composition:
        """The conditioning of a job. Shorter texts are padded with empty chunks to the longest of the job."""
        prompt = parse(job.encoded, self._syntax, job.steps)
        negative = parse(job.negative_prompt, self._syntax, job.steps, negative=True)
        passages = [*prompt.passages(), *negative.passages()]
        length = max(len(self._chunker.read(passage).chunks) for passage in passages)
        parts = tuple((part.weight, self._stages(part, length)) for part in prompt.parts)
        return Composition(parts, self._stages(negative.parts[0], length))

    def _stages(self, part: Part, length: int) -> Stages:
        return tuple((last, self._blend(blend, length)) for last, blend in part.stages)

    def _blend(self, blend: Blend, length: int) -> torch.Tensor:
        """(tokens, width)"""
        if len(blend) == 1 and blend[0].share == 1:
            return self._passage(blend[0], length)
        return torch.stack([passage.share * self._passage(passage, length) for passage in blend]).sum(0)

    def _passage(self, passage: Passage, length: int) -> torch.Tensor:
        chunks = self._chunker.read(passage).chunks
        chunks += (self._chunker.empty(),) * (length - len(chunks))
        return torch.cat([self._chunk(chunk) for chunk in chunks])

    def _chunk(self, chunk: Chunk) -> torch.Tensor:
        if chunk not in self._chunks:
            ids = torch.tensor([chunk.ids], device=self._model.device)
            embeddings = self._family.embeddings(self._model, ids, self._clip_skip)[0]
            self._chunks[chunk] = weighted(embeddings, chunk.weights) * chunk.scale
        return self._chunks[chunk]


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
