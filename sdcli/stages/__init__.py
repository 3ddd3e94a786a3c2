"""Stages: what happens to images between generation and saving.

A stage is one file with a function from a `StageContext` to a `Stage`, and one line in `sdcli.registry.STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sdcli.errors import DeviceError, ModelError
from sdcli.events import Note, Progress
from sdcli.images import Batch, FailedImage, GeneratedImage, Result, WithheldImage
from sdcli.memory import LESS_MEMORY, memory_errors
from sdcli.model_spec import ModelSpec
from sdcli.models.model import ModelSource
from sdcli.registry import STAGES
from sdcli.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]


@dataclass(frozen=True)
class StageContext:
    """What stages are made from.

    Attributes:
        settings: those of the run.
        spec: the model.
        source: where the model comes from.
        as_saved: pixels, uint8, to the pixels that are read back from a file of the run's format.
    """

    settings: Settings
    spec: ModelSpec
    source: ModelSource
    as_saved: Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Outcome:
    """What a stage makes of one image.

    Attributes:
        pixels: of the same type as before; None if the image is not to be saved.
        record: the value of the record's field that has the stage's name.
        note: what the user should read, after the image's name: "was mirrored".
    """

    pixels: Pixels | None
    record: Any = None
    note: str = ""


class Stage(Protocol):
    """A stage. Creating it costs nothing."""

    name: str
    """The field of the record that it fills."""
    works_on: Literal["image", "file"]
    """image: generated images, float32 in [0, 1], before they are put on the grid; file: what is about to be saved,
    single images and pages of the grid, uint8."""

    def check(self, height: int, width: int) -> str:
        """Check that images of this size, in pixels, can be processed.

        Returns:
            What the user should read; "" if nothing.

        Raises:
            sdcli.errors.SdcliError: they cannot.
        """
        ...

    def prepare(self, device: str) -> str:
        """Find, and fetch if needed, what the stage needs, before the model loads; the same results as `check`."""
        ...

    def load(self) -> None:
        """Load what is heavy, once, before the first image."""
        ...

    def apply(self, images: Sequence[Pixels]) -> list[Outcome]:
        """Process images, RGB, (height, width, 3) each; one outcome for each, in order."""
        ...


class Stages:
    """The stages of a run, in order.

    Args:
        context: see `StageContext`.
        progress: receives the notes of the stages.
    """

    def __init__(self, context: StageContext, progress: Progress) -> None:
        self._settings = context.settings
        self._progress = progress
        self._stages: list[Stage] = [stage for make in STAGES.values() if (stage := make(context)) is not None]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def check(self, height: int, width: int) -> list[str]:
        """See `Stage.check`."""
        return [note for stage in self._stages if (note := stage.check(height, width))]

    def prepare(self, device: str) -> list[str]:
        """See `Stage.prepare`."""
        return [note for stage in self._stages if (note := stage.prepare(device))]

    def loaded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the stages load before the first one that is generated."""
        loaded = False
        for batch in batches:
            if not loaded and any(batch.needed):
                with memory_errors("out of memory", fix=LESS_MEMORY):
                    for stage in self._stages:
                        stage.load()
                loaded = True
            yield batch

    def apply(self, results: Sequence[Result]) -> Iterator[Result]:
        """Send the generated images of a batch through the stages that work on images; the rest stays as it is."""
        results = list(results)
        for stage in self._stages:
            if stage.works_on != "image":
                continue
            places = [place for place, result in enumerate(results) if isinstance(result, GeneratedImage)]
            images = [result for result in results if isinstance(result, GeneratedImage)]
            for place, result in zip(places, self._through(stage, images), strict=True):
                results[place] = result
        yield from results

    def finish(self, pixels: Pixels, what: str) -> tuple[Pixels, dict[str, Any]]:
        """Send what is about to be saved through the stages that work on files.

        Args:
            pixels: RGB, uint8, (height, width, 3).
            what: the name of the image in notes.

        Returns:
            The pixels, and the fields of the record.
        """
        fields = {}
        for stage in self._stages:
            if stage.works_on == "file":
                (outcome,) = stage.apply([pixels])
                fields[stage.name] = outcome.record
                pixels = pixels if outcome.pixels is None else outcome.pixels
                self._note(what, outcome)
        return pixels, fields

    def _through(self, stage: Stage, images: list[GeneratedImage]) -> list[Result]:
        if not images:
            return []
        try:
            with memory_errors("out of memory", fix=LESS_MEMORY):
                outcomes = stage.apply([image.pixels for image in images])
        except (ModelError, DeviceError) as error:
            if self._settings.on_error == "stop":
                raise
            if len(images) == 1:
                return [FailedImage(images[0].job, error)]
            return [result for image in images for result in self._through(stage, [image])]
        return [self._result(stage, image, outcome) for image, outcome in zip(images, outcomes, strict=True)]

    def _result(self, stage: Stage, image: GeneratedImage, outcome: Outcome) -> Result:
        self._note(f"image {image.job.index + 1}", outcome)
        record = image.record.model_copy(update={stage.name: outcome.record})
        if outcome.pixels is None:
            return WithheldImage(image.job, record)
        return GeneratedImage(image.job, outcome.pixels, record, image.effort)

    def _note(self, what: str, outcome: Outcome) -> None:
        if outcome.note:
            self._progress(Note(f"{what} {outcome.note}"))
