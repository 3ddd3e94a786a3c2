"""What tensors do not show of a checkpoint: how its UNet predicts, and that it was made for a few steps.

Files say it in several ways, and some only in their names. Whatever follows from one of them is told, because it may
be wrong, with the flag that says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sdcli.models.checkpoint_file import Shapes
from sdcli.models.renaming import UNET

if TYPE_CHECKING:
    from sdcli.models.families import Family

Prediction = Literal["eps", "v", "x0"]

WORDS: Mapping[Prediction, str] = {"eps": "epsilon", "v": "v-prediction", "x0": "the sample"}
_PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v", "v-prediction": "v", "vpred": "v", "sample": "x0",
}  # fmt: skip
_SPREAD_TENSOR = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SPREAD = 0.09
"""ComfyUI's limit (`comfy/supported_models.py`): this tensor varies more in models of Stable Diffusion 2 with
v-prediction. Nothing else in their files tells the two apart."""
_V_IN_NAME = re.compile(r"(?<![a-z])v[-_ ]?pred", re.IGNORECASE)
_SIZE = re.compile(r"(\d{2,5})x(\d{2,5})")


class FewSteps(NamedTuple):
    """A way of training for a few steps.

    Attributes:
        label: its name.
        steps: if the file does not say how many.
        sampler: the sampler that it needs; empty if any of one evaluation per step is right.
    """

    label: str
    steps: int
    sampler: str = ""


# By a word in the file's name or in the title in its metadata.
FEW_STEPS: Mapping[str, FewSteps] = {
    "lcm": FewSteps("LCM", 4, "lcm"),
    "dmd2": FewSteps("DMD2", 4, "lcm"),
    "dmd": FewSteps("DMD", 4, "lcm"),
    "lightning": FewSteps("Lightning", 4),
    "hyper": FewSteps("Hyper-SD", 8),
    "turbo": FewSteps("Turbo", 4),
}
# "hyper" is a part of other names, so one of these follows it, or nothing.
_AFTER_HYPER = re.compile(r"sd|sdxl|xl|\d+|steps?|v|fp|bf|pruned|baked|vae")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_TURBO = re.compile(r"sd[-_]?xl[-_]?turbo", re.IGNORECASE)
"""The name of the first model of this kind, which generates 512 pixels; its offspring have the size of XL."""
_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?", re.IGNORECASE)


@dataclass(frozen=True)
class Hints:
    """What a file says about itself.

    Attributes:
        prediction: what the UNet predicts; None if nothing says it.
        because: how this is known.
        uncertain: whether it is only likely.
        zero_snr: whether the noise schedule ends without any signal.
        few_steps: the way of training for a few steps, if any.
        steps: the number of steps for it.
        size: height and width of images, if the metadata has it.
    """

    prediction: Prediction | None = None
    because: str = ""
    uncertain: bool = False
    zero_snr: bool = False
    few_steps: FewSteps | None = None
    steps: int = 0
    size: tuple[int, int] | None = None

    def notes(self, name: str, family: Family, *, trailing: bool = False) -> Iterator[str]:
        """What to tell the user, and the flags that say otherwise.

        Args:
            name: the checkpoint's file name.
            family: the model's.
            trailing: whether the noise schedule is another one for that reason.
        """
        if self.prediction and (self.prediction != "eps" or self.uncertain):
            others = [config for each, config in family.configs.items() if each != self.prediction]
            yield (
                f"the model {name} is taken to predict {WORDS[self.prediction]}, {self.because}"
                + (f"; if images are noise, pass --config {others[0]}" if others else "")
            )
        if self.zero_snr:
            yield f"the noise schedule of {name} has a zero terminal signal-to-noise ratio, by its tensor ztsnr"
        if self.few_steps:
            yield (
                f"the model {name} is made for a few steps ({self.few_steps.label}, by its name): the defaults are "
                f"--steps {self.steps} and --scale 1"
                + (", with the timesteps of --schedule trailing" if trailing else "")
            )


def read(
    path: Path, shapes: Shapes, metadata: Mapping[str, str], spread: Callable[[str], float | None], *, second: bool
) -> Hints:
    """The hints of a checkpoint.

    Args:
        path: the file.
        shapes: of its tensors, by their original names.
        metadata: the texts of a safetensors file.
        spread: the standard deviation of a tensor by its original name; None if there is no such tensor.
        second: whether it is a Stable Diffusion 2.
    """
    prediction, because = _prediction(path, shapes, metadata)
    uncertain = False
    if prediction is None and second and (found := spread(_SPREAD_TENSOR)) is not None:
        prediction, uncertain = "v" if found > _SPREAD else "eps", True
        because = "by the values of one of its tensors, which is not certain"
    elif prediction is None and second:
        prediction, uncertain, because = "eps", True, "because nothing in it says what"
    few, steps = few_steps(path.stem, metadata.get("modelspec.title", "")) or (None, 0)
    if few is not None and few.label == "Lightning" and steps == 1 and re.search(r"x0", path.stem, re.IGNORECASE):
        prediction, because = "x0", "by its name"
    size = _SIZE.fullmatch("512x512" if _TURBO.match(path.stem) else metadata.get("modelspec.resolution", "").strip())
    return Hints(
        prediction=prediction,
        because=because,
        uncertain=uncertain,
        zero_snr="ztsnr" in shapes,
        few_steps=few,
        steps=steps,
        size=(int(size[2]), int(size[1])) if size else None,
    )


def _prediction(path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> tuple[Prediction | None, str]:
    if "v_pred" in shapes:
        return "v", "by its tensor v_pred"
    named = metadata.get("modelspec.prediction_type", "").strip().lower()
    if named in _PREDICTIONS:
        return _PREDICTIONS[named], "by its metadata"
    if _V_IN_NAME.search(path.stem):
        return "v", "by its name"
    return None, ""


def few_steps(*names: str) -> tuple[FewSteps, int] | None:
    """The way of training for a few steps that a name or a title says, and the number of steps; None if none does."""
    for text in names:
        words = [word.lower() for word in _WORD.findall(text)]
        joined = [*words, *(f"{one}{two}" for one, two in pairwise(words) if two.isdigit())]
        for word, way in FEW_STEPS.items():
            if word not in joined:
                continue
            after = words[words.index(word) + 1] if word == "hyper" and words[-1] != word else ""
            if after and not _AFTER_HYPER.fullmatch(after):
                continue
            named = _STEPS.search(text)
            return way, int(named[1]) if named and int(named[1]) else way.steps
    return None
