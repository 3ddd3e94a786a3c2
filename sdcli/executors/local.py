"""Generates batches in this process: loads the model, and handles lack of memory and NaN."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sdcli import estimates
from sdcli.errors import DeviceError, ModelError
from sdcli.events import BatchDone, BatchStarted, Note, Phase, Progress, StepDone
from sdcli.images import Batch, FailedImage, GeneratedImage, Result, UnneededImage
from sdcli.jobs import Job
from sdcli.memory import LESS_MEMORY, is_out_of_memory, memory_errors
from sdcli.models import adapters
from sdcli.models.model import Model, ModelSource
from sdcli.records import ImageRecord
from sdcli.registry import SAMPLERS
from sdcli.settings import DeviceName, OnError, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdcli.devices import Compute
    from sdcli.models.adapters.lora import Adapted
    from sdcli.pipeline.samplers import Step


@dataclass
class MemoryLimits:
    """What fits in memory, as far as the run has found out.

    Attributes:
        rows: the most images in a batch; None if no limit is known.
        tiled: whether the VAE decodes images in tiles.
    """

    rows: int | None = None
    tiled: bool = False

    def reduce(self, rows: int, job: Job, model: Model) -> str | None:
        """Ask for less memory than `rows` such images took.

        Returns:
            What changes, in words; None if nothing can be reduced further.
        """
        if rows > 1:
            self.rows = rows // 2
            return f"out of memory with batches of {rows}: continuing with batches of {self.rows}, with the same noise"
        side = min(job.height, job.width) // model.spec.downscale
        if not self.tiled and _tile(model.vae, side, model.spec.downscale):
            self.tiled = True
            return "out of memory with batches of 1: the VAE continues in tiles, with the same noise"
        return None


def _tile(vae: Any, side: int, downscale: int) -> bool:
    """Let the VAE decode in overlapping tiles of half the shorter side; False if it cannot."""
    if not hasattr(vae, "use_tiling"):
        return False
    vae.enable_tiling()
    vae.tile_latent_min_size = max(8, side // 2)
    vae.tile_sample_min_size = vae.tile_latent_min_size * downscale
    if hasattr(vae, "spatial_scale_factor"):
        vae.spatial_scale_factor = downscale  # AutoencoderTiny takes it for 8
    return True


class LocalExecutor:
    """See `sdcli.executors.Executor`."""

    def __init__(
        self, source: ModelSource, *, device: DeviceName, precision: Precision, on_error: OnError, progress: Progress
    ) -> None:
        self._start = time.monotonic()
        from sdcli import devices

        self._source = source
        self._device_name = device
        self._compute = devices.choose(device, precision)
        self._on_error = on_error
        self._progress = progress
        self._limits = MemoryLimits()
        self._reported: set[int] = set()
        self._changes: tuple[tuple[str, ...], tuple[str, ...], str] = ((), (), "")
        """The LoRAs, the embeddings and the VAE that the model has now."""
        self._batches = Counter[tuple[int, int, int]]()
        self._number = 0
        """Of the current batch in the run, from 1."""

    @property
    def device(self) -> str:
        return str(self._compute.device)

    @property
    def description(self) -> str:
        return str(self._compute)

    @cached_property
    def _model(self) -> Model:
        """The model, loaded on first use."""
        self._progress(Phase("importing libraries"))
        from sdcli.models import weights

        with memory_errors("out of memory", fix=LESS_MEMORY):
            model = self._source.load(self._compute.device, lambda _: self._progress(Phase("loading model")))
            if self._compute.autocast_dtype is None:
                weights.to_full(model)
            return model

    @cached_property
    def _adapted(self) -> Adapted:
        from sdcli.models.adapters.lora import Adapted

        return Adapted(self._model)

    def _adapt(self, jobs: Sequence[Job]) -> Adapted:
        """The model with the LoRAs and embeddings of a batch, and with no others.

        Raises:
            ModelError: a file does not fit the model.
        """
        embeddings = tuple(dict.fromkeys(value for job in jobs for value in job.embedding))
        wanted = (jobs[0].lora, embeddings, jobs[0].vae)
        if wanted != self._changes:
            if wanted[-1] != self._changes[-1]:
                self._limits.tiled = False
            self._changes = ((), (), "")
            vae = adapters.vae(adapters.of_job("vae", jobs[0].vae)) if jobs[0].vae else None
            for note in self._adapted.use(adapters.uses(jobs[0]), adapters.words(embeddings), vae):
                if hash(note) not in self._reported:
                    self._reported.add(hash(note))
                    self._progress(Note(note))
            self._changes = wanted
        return self._adapted

    def map(self, batches: Iterable[Batch]) -> Iterator[list[Result]]:
        for self._number, batch in enumerate(batches, 1):
            if not any(batch.needed):
                self._progress(BatchDone(len(batch.jobs)))
                yield [UnneededImage(job) for job in batch.jobs]
                continue
            results = self._generate(batch.jobs)
            yield [
                result if needed else UnneededImage(job)
                for job, needed, result in zip(batch.jobs, batch.needed, results, strict=True)
            ]

    def _generate(self, jobs: Sequence[Job]) -> list[GeneratedImage | FailedImage]:
        """A batch; with `--on-error skip` one by one after an error, because a single image may spoil the batch."""
        known = "_model" in vars(self)
        _ = self._model
        if not known:
            estimates.remember_loading(jobs[0], self.device, time.monotonic() - self._start)
        start = time.monotonic()
        try:
            with memory_errors("out of memory", fix=LESS_MEMORY):
                adapted = self._adapt(jobs)
                cut = self._cut(adapted, jobs)
                read = [adapted.words.job(job) for job in jobs]
                pixels, facts, rows = self._within_memory(adapted.model, read)
        except (ModelError, DeviceError) as error:
            if self._on_error == "stop":
                raise
            if len(jobs) == 1:
                return [FailedImage(jobs[0], error)]
            pixels = None
        if pixels is None:
            return [result for job in jobs for result in self._generate([job])]
        seconds = time.monotonic() - start
        self._remember(jobs[0], len(jobs), seconds)
        effort = {"seconds": round(seconds / len(jobs), 3), "batch": rows}
        return [
            GeneratedImage(job, image, ImageRecord.new(**self._words(job, cut), job=job, **facts), effort)
            for job, image in zip(jobs, pixels, strict=True)
        ]

    def _cut(self, adapted: Adapted, jobs: Sequence[Job]) -> dict[str, str]:
        """The end of each prompt that the text encoder does not read; each is reported once."""
        cut: dict[str, str] = {}
        for negative in (True, False):
            texts = [job.negative_prompt if negative else job.encoded for job in jobs]
            lengths = adapted.words.measure(adapted.model.tokenizer, jobs, negative=negative)
            cut |= {text: length.cut for text, length in zip(texts, lengths, strict=True)}
        for text, unread in cut.items():
            if unread and hash(text) not in self._reported:
                self._reported.add(hash(text))
                self._progress(Note(f"the prompt is longer than the model reads; ignored: {unread}"))
        return cut

    def _words(self, job: Job, cut: Mapping[str, str]) -> dict[str, Any]:
        """The fields of the record about the words of a prompt."""
        words: dict[str, Any] = {"words_cut": cut[job.encoded] or None}
        if vocabulary := self._source.vocabulary():
            reading = vocabulary.read(job.prompt, job.prompt_syntax)
            # A job of a record may have been read by another version.
            if reading.text == job.encoded and (values := reading.values()):
                words["reading"] = values
        return words

    def _within_memory(self, model: Model, jobs: Sequence[Job]) -> tuple[list[NDArray[Any]], dict[str, Any], int]:
        """The images, the fields of their records, and the most that were generated at once.

        Halves the batch while memory is short, down to one image; then the VAE decodes in tiles.

        Raises:
            ModelError: the images contain NaN in full precision.
            RuntimeError, MemoryError: not enough memory for one image.
        """
        from sdcli import devices

        compute = devices.choose(self._device_name, jobs[0].precision)
        images: list[NDArray[Any]] = []
        precision, most = compute.precision, 0
        while todo := list(jobs[len(images) :]):
            rows = min(len(todo), self._limits.rows or len(todo))
            finished = None
            try:
                finished, precision = self._without_nan(model, todo[:rows], compute)
            except (RuntimeError, MemoryError) as error:
                change = self._limits.reduce(rows, jobs[0], model) if is_out_of_memory(error) else None
                if change is None:
                    raise
                self._progress(Note(change))
            if finished is None:
                # Outside the except block, where nothing refers to the failed batch any more.
                devices.empty_cache(compute.device)
                continue
            images += finished
            most = max(most, rows)
            self._progress(BatchDone(rows))
        # Stages fill in safety and watermark; without a stage the fields say that there is none.
        facts = {"safety": None, "watermark": None, "device": str(compute.device), "precision": precision}
        return images, facts | ({"vae": "tiled"} if self._limits.tiled else {}), most

    def _without_nan(self, model: Model, jobs: Sequence[Job], compute: Compute) -> tuple[list[NDArray[Any]], str]:
        """The images in [0, 1], float32, and their precision; retries in float32 if the output contains NaN."""
        import torch

        from sdcli.models import weights
        from sdcli.pipeline import generate
        from sdcli.pipeline.samplers import Plan

        def on_step(step: Step) -> None:
            self._progress(StepDone(step.index))

        sampler, plan = SAMPLERS[jobs[0].sampler], Plan.of(jobs[0], jobs[0].steps)
        evaluations = sampler.evaluations(plan, model.spec.schedule)
        reason = sampler.why(plan, model.spec.schedule)
        why = f"{plan.steps} steps take {evaluations} evaluations of the model: {reason}" if reason else ""
        precision = compute.precision
        for attempt in (compute, compute.full()) if compute.autocast_dtype else (compute,):
            if attempt is not compute:
                self._progress(
                    Note(f"NaN in {precision}: generating the batch again in full precision, with the same noise")
                )
                precision = f"full, after not a number in {precision}"
            self._progress(BatchStarted(len(jobs), evaluations, self._number, why))
            full = weights.in_full(model) if attempt.autocast_dtype is None else nullcontext()
            with attempt.context(), full:
                images, latents = generate(model, jobs, on_step)
            # The latents, too: a VAE may turn an infinity into a number.
            if torch.isfinite(latents).all() and torch.isfinite(images).all():
                return list(((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()), precision
        raise ModelError(
            f"the model {model.spec.name} generates NaN instead of an image",
            why="Its weights may be damaged, or the guidance scale is far too high.",
            fix="Check the checkpoint, or pass a smaller --scale.",
        )

    def _remember(self, job: Job, rows: int, seconds: float) -> None:
        """Remember the time of a batch, once for each size; the first batch of a size warms up."""
        shape = (job.height, job.width, rows)
        self._batches[shape] += 1
        if self._batches[shape] == 2:
            estimates.remember(job, self.device, rows, seconds)
