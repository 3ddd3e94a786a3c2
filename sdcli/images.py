"""What becomes of a job: a generated image, a failed one, one that is withheld, or one that is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import SdcliError
from sdcli.jobs import Job
from sdcli.records import ImageRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True)
class Batch:
    """Jobs that are generated together.

    A batch is generated whole even if only some of its images are needed: the last digits of an image depend on how
    many are generated at once.

    Attributes:
        jobs: the jobs, which differ only in prompt, seed and noise.
        needed: for each job, whether its image is missing and this process is to generate it.
    """

    jobs: Sequence[Job]
    needed: Sequence[bool]


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image.

    Attributes:
        job: the job.
        pixels: RGB, (height, width, 3). From an executor float32 in [0, 1]; once saved uint8, with its watermark.
        record: what its file says of it.
        effort: what generating it took, for the journal: seconds, images in its batch.
        path: where it is saved, if it is.
    """

    job: Job
    pixels: NDArray[Any]
    record: ImageRecord
    effort: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def image(self) -> Image:
        """The saved pixels as a Pillow image."""
        from PIL import Image

        return Image.fromarray(self.pixels)


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be generated, in a run with `--on-error skip`."""

    job: Job
    error: SdcliError


@dataclass(frozen=True)
class WithheldImage:
    """An image that a stage removed, such as an unsafe one with `--on-unsafe skip`."""

    job: Job
    record: ImageRecord


@dataclass(frozen=True)
class UnneededImage:
    """A job whose image is already on disk, or that another process generates."""

    job: Job


Result = GeneratedImage | FailedImage | WithheldImage | UnneededImage
