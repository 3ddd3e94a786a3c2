"""Invisible watermarks: written into finished images, and read back from them.

A mark is a text; its UTF-8 bits repeat over the image, one bit to a cell of 8 x 8 pixels, in the U (blue) channel of
YUV. The methods `dwtDct` and `dwtDctSvd` are invisible-watermark's, byte for byte as the original script uses them.
`robust` writes the mark of `dwtDctSvd` with less damage; what it writes is read by invisible-watermark's own decoder.

A mark counts as found when at most a fifth of its bits read wrong. Random bits pass for the 136 of `StableDiffusionV1`
once in about 10^12. A text of three letters or fewer proves little, nor one of almost only zero bits ("@@@@"), since a
flat image reads as zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcli.errors import ModelError, UsageError

Pixels = NDArray[np.uint8]
"""A finished image: (height, width, 3), RGB, 0 to 255."""
Bits = NDArray[np.uint8]
"""(bits,), each 0 or 1, the highest bit of each byte first."""

CELL = 8
"""Side in pixels of the cell that carries one bit: 4 x 4 coefficients of the half-size Haar band, in every method."""
WRONG_AT_MOST = 0.2
"""The share of wrong bits up to which a mark counts as found."""


@dataclass(frozen=True)
class Mark:
    """A mark to be written: the text and one of `METHODS`; `note` says why it is not the method that was expected."""

    text: str
    method: str
    note: str = ""


@dataclass(frozen=True)
class ReadBack:
    """What was read where a mark should be: `wrong_bits` of `bits` differ from the text."""

    text: str
    method: str
    found: bool
    wrong_bits: int
    bits: int


@dataclass(frozen=True)
class Method:
    """A way to write bits into images of at least `smallest` pixels, and to read them."""

    smallest: int
    write: Callable[[Pixels, Bits], Pixels]
    read: Callable[[Pixels, int], Bits]


def fits(method: str, height: int, width: int, text: str) -> str | None:
    """What stops `text` from going into an image of this size by this method, in words; None if nothing does."""
    pixels, cells, bits = height * width, (height // CELL) * (width // CELL), len(_bits(text))
    smallest = METHODS[method].smallest
    if pixels < smallest:
        return f"{method} needs {smallest:,} pixels (256x256); {width}x{height} has {pixels:,}"
    if cells < bits:
        return f"{text!r} takes {bits} bits; an image of {width}x{height} holds {cells}, one for each 8x8 pixels"
    return None


def require_text(text: str) -> None:
    """Refuses what is no text for a mark.

    Raises:
        UsageError: it is empty, or was not UTF-8 on the command line.
    """
    if not text:
        raise UsageError("the watermark's text is empty", fix="Give it letters.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the watermark {text!r} is not text: {error.reason}", fix="Give it in UTF-8.") from error


def choose(method: str, default: str, height: int, width: int, text: str) -> Mark:
    """The mark for an image of this size, without looking at the image.

    Args:
        method: one of `METHODS`, or "auto": the default where it fits, else `robust`, with a note that says so.
        default: the method that suits the model, `ModelSpec.watermark_method`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        text: what to write.

    Raises:
        UsageError: the text or the method is none, or does not fit.
    """
    require_text(text)
    if method != "auto" and method not in METHODS:
        raise UsageError(f"there is no watermark method {method!r}", fix=f"Choose one of auto, {', '.join(METHODS)}.")
    first = default if method == "auto" else method
    problem = fits(first, height, width, text)
    if problem is None:
        return Mark(text, first)
    if method == "auto" and fits("robust", height, width, text) is None:
        return Mark(text, "robust", note=f"{problem}: marked by robust instead")
    others = [name for name in METHODS if fits(name, height, width, text) is None]
    advice = f"--watermark-method {others[0]}" if others else "a larger image, a shorter text with --watermark"
    raise UsageError(f"the watermark does not fit: {problem}", fix=f"Use {advice}, or --no-watermark.")


def write(image: Pixels, mark: Mark) -> Pixels:
    """A marked copy of the image, of the same shape.

    Raises:
        ValueError: the mark does not fit; `choose` never makes such a mark.
        ModelError: the libraries cannot be loaded.
    """
    if problem := fits(mark.method, image.shape[0], image.shape[1], mark.text):
        raise ValueError(problem)
    return METHODS[mark.method].write(image, _bits(mark.text))


def check(image: Pixels, mark: Mark) -> ReadBack:
    """How well the mark reads back from a finished image that should carry it.

    Raises:
        ValueError: the mark does not fit into such an image.
        ModelError: the libraries cannot be loaded.
    """
    if problem := fits(mark.method, image.shape[0], image.shape[1], mark.text):
        raise ValueError(problem)
    expected = _bits(mark.text)
    wrong = int((METHODS[mark.method].read(image, len(expected)) != expected).sum())
    found = wrong <= WRONG_AT_MOST * len(expected)
    return ReadBack(mark.text, mark.method, found, wrong, len(expected))


def search(image: Pixels, text: str, likely: str = "") -> ReadBack | None:
    """The first method by which `text` is found, else the best reading; None if the image is too small to carry it.

    `robust` reads as `dwtDctSvd` does, and so is named only where `dwtDctSvd` cannot have written, or where it is
    `likely`: the method that the image's record names.
    """
    names = [name for name in METHODS if fits(name, image.shape[0], image.shape[1], text) is None]
    if "dwtDctSvd" in names:
        names.remove("dwtDctSvd" if likely == "robust" else "robust")
    readings = []
    for name in sorted(names, key=lambda name: (name != likely, name == "dwtDct")):  # dwtDct takes seconds to load
        readings.append(check(image, Mark(text, name)))
        if readings[-1].found:
            return readings[-1]
    return min(readings, key=lambda back: back.wrong_bits, default=None)


def require_library() -> None:
    """Loads OpenCV, which needs parts of the system, before any work depends on it.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "OpenCV, which watermarks are written with, cannot be loaded",
            why=f"{error}.",
            fix="Install the system library it names (libGL.so.1: the package libgl1), or opencv-python-headless in "
            "place of opencv-python, or draw with --no-watermark.",
        ) from error


def _bits(text: str) -> Bits:
    return np.unpackbits(np.frombuffer(text.encode(), dtype=np.uint8))


def _encoder(name: str) -> Callable[[Pixels, Bits], Pixels]:
    """How invisible-watermark writes, called as the original script calls it."""

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
"""invisible-watermark's scale: a cell's strength modulo 36 is below 18 for a 0, above for a 1."""


def _blue(image: Pixels) -> NDArray[np.float64]:
    """The U channel of YUV, (height, width), around 128, not rounded."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.asarray(128 + 0.492 * (blue - (0.299 * red + 0.587 * green + 0.114 * blue)))


def _cells(blue: NDArray[Any]) -> NDArray[np.float64]:
    """The low band of U's Haar transform, cut into cells: (rows, columns, 4, 4)."""
    rows, columns = blue.shape[0] // CELL, blue.shape[1] // CELL
    pairs = blue[: rows * CELL, : columns * CELL].reshape(rows, 4, 2, columns, 4, 2)
    low: NDArray[np.float64] = pairs.sum(axis=(2, 5), dtype=np.float64) / 2
    return low.swapaxes(1, 2)


def _read_cells(image: Pixels) -> NDArray[np.bool_]:
    """What each cell says, (rows, columns). Its strength is the largest singular value of its coefficients.

    U is OpenCV's, which rounds Y before it and so is up to 0.75 away from the exact one. The library takes singular
    values after a cosine transform, which does not change them.
    """
    require_library()
    import cv2

    blue = cv2.cvtColor(image, cv2.COLOR_RGB2YUV)[..., 1]
    strength = np.linalg.svd(_cells(blue), compute_uv=False)[..., 0]
    return np.asarray(strength % STEP > STEP / 2)


def _shift_blue(image: Pixels, shift: NDArray[np.float64]) -> Pixels:
    """The image with `shift` (rows, columns, 8, 8) added to its U channel, V unchanged, Y where there is room.

    Where a colour would leave the range, the whole pixel is made darker or lighter by just as much, which U and V do
    not see. That is what lets a mark live on pure white and pure black.
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
    """The mark of dwtDctSvd, kinder to the image and not lost to clipping.

    Unlike the library, each cell goes to the nearest strength that reads as its bit, colours are rounded and not cut
    off, the details of U stay in place (the library swaps the horizontal and vertical ones), and room is made at the
    ends of the range.
    """
    left, values, right = np.linalg.svd(_cells(_blue(image)))
    strength = values[..., 0] / STEP
    direction = left[..., :, :1] * right[..., :1, :]  # of the strength, in a cell's coefficients
    direction = (direction / 2).repeat(2, axis=-1).repeat(2, axis=-2)  # in its pixels
    wanted = np.resize(bits, strength.shape)
    middle = 0.25 + 0.5 * wanted
    steps = np.round(strength - middle)

    def marked() -> Pixels:
        return _shift_blue(image, ((steps + middle - strength) * STEP)[..., None, None] * direction)

    # A saturated colour can be moved one way only: where the nearer strength was out of reach, take the other.
    missed = _read_cells(marked()) != wanted
    steps += missed * np.sign(strength - middle - steps)
    return marked()


def _read_svd(image: Pixels, length: int) -> Bits:
    # Not left to the library, which refuses images under 65,536 pixels and loads torch.
    ones = _read_cells(image).ravel()
    bit = np.arange(ones.size) % length
    share = np.bincount(bit, weights=ones) / np.bincount(bit)
    return (share * 255 > 127).astype(np.uint8)  # the library's rule: a tie is a 1


METHODS: dict[str, Method] = {
    "dwtDct": Method(smallest=256 * 256, write=_encoder("dwtDct"), read=_read_dct),
    "dwtDctSvd": Method(smallest=256 * 256, write=_encoder("dwtDctSvd"), read=_read_svd),
    "robust": Method(smallest=0, write=_write_robust, read=_read_svd),
}
