"""What becomes of a job: a generated image, a failed one, one that is withheld, or one that is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True, repr=False)
class GeneratedImage:
    """A generated image.

    Attributes:
        job: the job.
        pixels: RGB, (height, width, 3). From an executor float32 in [0, 1]; once saved uint8, with its watermark.
        record: what its file says of it.
        effort: what generating it took, for the journal: seconds, images in its batch.
        path: where it is saved, if it is.
        writer: saves the image with its record as a file; None before the run has finished the image.
    """

    job: Job
    pixels: NDArray[Any]
    record: ImageRecord
    effort: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    writer: Callable[[GeneratedImage, Path], None] | None = None

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        where = f", path={str(self.path)!r}" if self.path else ""
        return f"<GeneratedImage {self.job.prompt!r} {width}x{height} seed={self.job.seed}{where}>"

    @property
    def image(self) -> Image:
        """The saved pixels as a Pillow image. It has no metadata; `save` writes them."""
        from PIL import Image

        return Image.fromarray(self.pixels)

    def save(self, path: str | Path) -> Path:
        """Save the image with its record as a new file.

        Args:
            path: the file; its suffix names the format.

        Returns:
            The path.

        Raises:
            sdcli.errors.OutputError: the suffix is that of no format, the file exists, or it cannot be written.
        """
        if self.writer is None:
            raise ValueError("the image is not finished: its run has not returned it")
        path = Path(path)
        self.writer(self, path)
        return path


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
