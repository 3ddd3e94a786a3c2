"""Invisible watermarks: writing them into finished images, and reading them back.

A watermark is a text. Its UTF-8 bits are repeated over the image, one bit per cell of 8 x 8 pixels, in the U (blue)
channel of YUV. The methods `dwtDct` and `dwtDctSvd` are those of invisible-watermark, with the same bytes that the
original script writes. `robust` writes the same watermark as `dwtDctSvd` with less damage to the image; the decoder of
invisible-watermark reads it.

A watermark counts as found if at most a fifth of its bits are wrong. For the 136 bits of `StableDiffusionV1`, random
bits pass this test once in about 10^12. A text of three letters or fewer is weak evidence, and so is a text of almost
only zero bits ("@@@@"), because a flat image reads as zeros.

To add a method, write one file with a `Method`, and add one line to `sdcli.registry.WATERMARK_METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdcli.errors import ModelError, UsageError
from sdcli.records import WatermarkRecord
from sdcli.registry import WATERMARK_METHODS
from sdcli.stages import Outcome, StageContext

Pixels = NDArray[np.uint8]
"""A finished image: (height, width, 3), RGB, 0 to 255."""
Bits = NDArray[np.uint8]
"""(bits,), each 0 or 1, most significant bit of each byte first."""

CELL = 8
"""Side in pixels of the cell that holds one bit: 4 x 4 coefficients of the half-size Haar band, in every method."""
WRONG_AT_MOST = 0.2
"""The share of wrong bits up to which a watermark counts as found."""


@dataclass(frozen=True)
class Mark:
    """A watermark to write.

    Attributes:
        text: the text.
        method: a name in `WATERMARK_METHODS`.
        note: why `method` is not the default method; empty if it is, or if the user chose it.
    """

    text: str
    method: str
    note: str = ""


@dataclass(frozen=True)
class ReadBack:
    """The result of reading a watermark: `wrong_bits` of `bits` differ from the text."""

    text: str
    method: str
    found: bool
    wrong_bits: int
    bits: int


@dataclass(frozen=True)
class Method:
    """A way to write bits into an image and to read them.

    Attributes:
        smallest: the fewest pixels that an image must have.
        write: returns a copy of the image with the bits.
        read: returns this number of bits.
        reads_like: the name of the method with the same `read`; a watermark alone does not tell which of the two wrote
            it. None if there is no such method.
        slow_to_load: True if `read` imports a large library; `search` tries such a method last.
    """

    smallest: int
    write: Callable[[Pixels, Bits], Pixels]
    read: Callable[[Pixels, int], Bits]
    reads_like: str | None = None
    slow_to_load: bool = False


def fits(method: str, height: int, width: int, text: str) -> str | None:
    """Returns why `method` cannot write `text` into an image of this size, or None if it can."""
    pixels, cells, bits = height * width, (height // CELL) * (width // CELL), len(_bits(text))
    smallest = WATERMARK_METHODS[method].smallest
    if pixels < smallest:
        return f"{method} needs {smallest:,} pixels (256x256); {width}x{height} has {pixels:,}"
    if cells < bits:
        return f"{text!r} takes {bits} bits; an image of {width}x{height} holds {cells}, one for each 8x8 pixels"
    return None


def require_text(text: str) -> None:
    """Checks that `text` can be a watermark.

    Raises:
        UsageError: the text is empty, or was not valid UTF-8 on the command line.
    """
    if not text:
        raise UsageError("the text of the watermark is empty", fix="Give at least one character.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the watermark {text!r} is not valid UTF-8: {error.reason}", fix="Give it in UTF-8."
        ) from error


def choose(method: str, default: str, height: int, width: int, text: str) -> Mark:
    """Chooses the watermark for images of a size, before they are generated.

    Args:
        method: a name in `WATERMARK_METHODS`, or "auto": `default` if it fits, else the first method that fits, with a
            note that says so.
        default: the method for the model, `ModelSpec.watermark_method`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        text: the text to write.

    Raises:
        UsageError: the text cannot be a watermark, the method does not exist, or the text does not fit.
    """
    require_text(text)
    if method != "auto" and method not in WATERMARK_METHODS:
        raise UsageError(
            f"unknown watermark method {method!r}", fix=f"Choose one of auto, {', '.join(WATERMARK_METHODS)}."
        )
    first = default if method == "auto" else method
    problem = fits(first, height, width, text)
    if problem is None:
        return Mark(text, first)
    others = [name for name in WATERMARK_METHODS if fits(name, height, width, text) is None]
    if method == "auto" and others:
        return Mark(text, others[0], note=f"{problem}; the watermark is written with {others[0]} instead")
    advice = f"--watermark-method {others[0]}" if others else "a larger image, a shorter text with --watermark"
    raise UsageError(f"the watermark does not fit: {problem}", fix=f"Use {advice}, or --no-watermark.")


def write(image: Pixels, mark: Mark) -> Pixels:
    """Returns a copy of the image with the watermark, of the same shape.

    Raises:
        ValueError: the watermark does not fit; this does not happen for a `Mark` from `choose`.
        ModelError: OpenCV cannot be loaded.
    """
    if problem := fits(mark.method, image.shape[0], image.shape[1], mark.text):
        raise ValueError(problem)
    method: Method = WATERMARK_METHODS[mark.method]
    return method.write(image, _bits(mark.text))


def check(image: Pixels, mark: Mark) -> ReadBack:
    """Reads a finished image and counts the bits that differ from the watermark.

    Raises:
        ValueError: the watermark does not fit into an image of this size.
        ModelError: OpenCV cannot be loaded.
    """
    if problem := fits(mark.method, image.shape[0], image.shape[1], mark.text):
        raise ValueError(problem)
    method: Method = WATERMARK_METHODS[mark.method]
    expected = _bits(mark.text)
    wrong = int((method.read(image, len(expected)) != expected).sum())
    found = wrong <= WRONG_AT_MOST * len(expected)
    return ReadBack(mark.text, mark.method, found, wrong, len(expected))


def search(image: Pixels, text: str, likely: str = "") -> ReadBack | None:
    """Reads the image with each method until `text` is found.

    Of two methods that read alike, only one is tried: the likely one, else the one that the other reads like.

    Args:
        image: a finished image.
        text: the text to look for.
        likely: the method that the image's record names, which is tried first.

    Returns:
        The reading that found the text, else the one with the fewest wrong bits; None if the image is too small for the
        text.
    """
    names = [name for name in WATERMARK_METHODS if fits(name, image.shape[0], image.shape[1], text) is None]
    for name in list(names):
        alike = WATERMARK_METHODS[name].reads_like
        if alike in names:
            names.remove(alike if name == likely else name)
    readings = []
    for name in sorted(names, key=lambda name: (name != likely, WATERMARK_METHODS[name].slow_to_load)):
        readings.append(check(image, Mark(text, name)))
        if readings[-1].found:
            return readings[-1]
    return min(readings, key=lambda back: back.wrong_bits, default=None)


def require_library() -> None:
    """Loads OpenCV, so that a missing system library is reported before any image is generated.

    Raises:
        ModelError: OpenCV cannot be loaded.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "OpenCV, which is needed to write watermarks, cannot be loaded",
            why=f"{error}.",
            fix="Install the system library it names (libGL.so.1: the package libgl1), or opencv-python-headless in "
            "place of opencv-python, or generate with --no-watermark.",
        ) from error


def _bits(text: str) -> Bits:
    return np.unpackbits(np.frombuffer(text.encode(), dtype=np.uint8))


def _encoder(name: str) -> Callable[[Pixels, Bits], Pixels]:
    """Returns a function that writes with invisible-watermark, called as in the original script."""

    def write(image: Pixels, bits: Bits) -> Pixels:
        require_library()
        from imwatermark import WatermarkEncoder

        encoder = WatermarkEncoder()
        encoder.set_watermark("bytes", np.packbits(bits).tobytes())
        marked = encoder.encode(np.ascontiguousarray(image[..., ::-1]), name)
        return np.ascontiguousarray(marked[..., ::-1])

    return write


def _read_dct(image: Pixels, length: int) -> Bits:
    require_library()
    from imwatermark import WatermarkDecoder

    bits = WatermarkDecoder("bits", length).decode(np.ascontiguousarray(image[..., ::-1]), "dwtDct")
    return np.asarray(bits, dtype=np.uint8)


STEP = 36.0
"""The scale of invisible-watermark: a cell's strength modulo 36 is below 18 for a 0, above for a 1."""


def _blue(image: Pixels) -> NDArray[np.float64]:
    """Returns the U channel of YUV, (height, width), centred on 128, not rounded."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.asarray(128 + 0.492 * (blue - (0.299 * red + 0.587 * green + 0.114 * blue)))


def _cells(blue: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the low band of the Haar transform of U by cell: (rows, columns, 4, 4)."""
    rows, columns = blue.shape[0] // CELL, blue.shape[1] // CELL
    pairs = blue[: rows * CELL, : columns * CELL].reshape(rows, 4, 2, columns, 4, 2)
    low: NDArray[np.float64] = pairs.sum(axis=(2, 5), dtype=np.float64) / 2
    return low.swapaxes(1, 2)


def _read_cells(image: Pixels) -> NDArray[np.bool_]:
    """Reads the bit of each cell, (rows, columns), from its strength: the largest singular value of its coefficients.

    U is computed by OpenCV, which rounds Y first, so that it differs from the exact value by up to 0.75. The library
    computes singular values after a cosine transform, which does not change them.
    """
    require_library()
    import cv2

    blue = cv2.cvtColor(image, cv2.COLOR_RGB2YUV)[..., 1]
    strength = np.linalg.svd(_cells(blue), compute_uv=False)[..., 0]
    return np.asarray(strength % STEP > STEP / 2)


def _shift_blue(image: Pixels, shift: NDArray[np.float64]) -> Pixels:
    """Adds `shift` (rows, columns, 8, 8) to the U channel; V stays the same, and Y too unless a colour is clipped.

    A pixel with a colour outside the range is made darker or lighter by the same amount in all three colours, which
    changes neither U nor V. This keeps the watermark readable on pure white and pure black.
    """
    rows, columns = shift.shape[:2]
    height, width = rows * CELL, columns * CELL
    plane = shift.swapaxes(1, 2).reshape(height, width)
    shifted = image.astype(np.float64)
    shifted[:height, :width, 2] += 2.032 * plane
    shifted[:height, :width, 1] -= 0.395 * plane
    shifted -= np.maximum(shifted.max(axis=-1, keepdims=True) - 255, 0)
    shifted += np.maximum(-shifted.min(axis=-1, keepdims=True), 0)
    return shifted.clip(0, 255).round().astype(np.uint8)


def _write_robust(image: Pixels, bits: Bits) -> Pixels:
    """Writes the watermark of dwtDctSvd with smaller changes to the image, and without loss from clipping.

    Differences from the library: each cell gets the nearest strength that reads as its bit, colours are rounded instead
    of truncated, the horizontal and vertical details of U are not swapped, and colours at the ends of the range are
    shifted instead of clipped (see `_shift_blue`).
    """
    left, values, right = np.linalg.svd(_cells(_blue(image)))
    strength = values[..., 0] / STEP
    direction = left[..., :, :1] * right[..., :1, :]  # of the strength, in the cell's coefficients
    direction = (direction / 2).repeat(2, axis=-1).repeat(2, axis=-2)  # in the cell's pixels
    wanted = np.resize(bits, strength.shape)
    middle = 0.25 + 0.5 * wanted
    steps = np.round(strength - middle)

    def marked() -> Pixels:
        return _shift_blue(image, ((steps + middle - strength) * STEP)[..., None, None] * direction)

    # A saturated colour can change in one direction only: if the nearest strength is out of reach, use the other one.
    wrong = _read_cells(marked()) != wanted
    steps += wrong * np.sign(strength - middle - steps)
    return marked()


def _read_svd(image: Pixels, length: int) -> Bits:
    # The library's decoder rejects images under 65,536 pixels and imports torch.
    ones = _read_cells(image).ravel()
    bit = np.arange(ones.size) % length
    share = np.bincount(bit, weights=ones) / np.bincount(bit)
    return (share * 255 > 127).astype(np.uint8)  # as in the library, a tie is a 1


DWT_DCT = Method(smallest=256 * 256, write=_encoder("dwtDct"), read=_read_dct, slow_to_load=True)
DWT_DCT_SVD = Method(smallest=256 * 256, write=_encoder("dwtDctSvd"), read=_read_svd)
ROBUST = Method(smallest=0, write=_write_robust, read=_read_svd, reads_like="dwtDctSvd")


class WatermarkStage:
    """Writes the watermark into files, and reads it back. See `sdcli.stages.Stage`."""

    name = "watermark"
    works_on: Literal["file"] = "file"

    def __init__(self, context: StageContext) -> None:
        self._settings = context.settings
        self._default = context.spec.watermark_method
        self._as_saved = context.as_saved
        self._marks: dict[tuple[int, int], Mark] = {}

    def mark(self, height: int, width: int) -> Mark | None:
        """The watermark of an image of this size, in pixels; None with --no-watermark.

        Raises:
            UsageError: the text does not fit.
        """
        settings = self._settings
        if settings.no_watermark:
            return None
        if (height, width) not in self._marks:
            self._marks[height, width] = choose(
                settings.watermark_method, self._default, height, width, settings.watermark
            )
        return self._marks[height, width]

    def check(self, height: int, width: int) -> str:
        mark = self.mark(height, width)
        if mark is None:
            return ""
        require_library()
        return mark.note

    def prepare(self, device: str) -> str:
        return ""

    def load(self) -> None:
        """Nothing: the libraries load with the first image."""

    def apply(self, images: Sequence[Pixels]) -> list[Outcome]:
        return [self._outcome(image) for image in images]

    def _outcome(self, image: Pixels) -> Outcome:
        mark = self.mark(*image.shape[:2])
        if mark is None:
            return Outcome(image)
        marked = write(image, mark)
        read = check(self._as_saved(marked), mark)
        note = (
            ""
            if read.found
            else f"has a watermark that cannot be read back: {read.wrong_bits} of {read.bits} bits are wrong"
        )
        return Outcome(marked, WatermarkRecord(**asdict(read)), note)


stage = WatermarkStage
