"""Another VAE than the model's: AutoencoderKL or TAESD (AutoencoderTiny), in the original layout or in diffusers'.

A file with `config.json` beside it, as in a folder of diffusers, is what that says. The sizes of any other file follow
from the shapes of its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.models import checkpoint_file, json_files, recognition, renaming
from sdcli.models.folder_config import VAEFile

if TYPE_CHECKING:
    from sdcli.model_spec import ModelSpec

CONFIG = "config.json"
KL, TINY = "AutoencoderKL", "AutoencoderTiny"
DEFAULT_SCALE = 0.18215
"""The scaling factor of Stable Diffusion 1 and 2."""
_TAESD_INPUT = "1.weight"
"""The first layer of the decoder in the files of TAESD's author."""


@dataclass(frozen=True)
class VaeSource:
    """A VAE that was found.

    Attributes:
        path: the file with its weights.
        kind: AutoencoderKL or AutoencoderTiny.
        config: as `config.json` of diffusers has it.
        original: whether its tensors have the names of the original layout; of TAESD, it is the decoder alone.
    """

    path: Path
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    original: bool = False

    @classmethod
    def read(cls, path: Path) -> VaeSource:
        """Read the names, shapes and configuration of a file, without torch.

        Raises:
            ModelNotFound: the file does not exist.
            ModelError: it is damaged, or not a VAE that sdcli reads.
        """
        stored = checkpoint_file.shapes(path)
        shapes = renaming.vae_names(stored)
        tiny = shapes.get(_TAESD_INPUT, ())
        original = len(tiny) == 4 or any(name.startswith("decoder.up.") for name in shapes)
        beside = cls.configuration(path)
        if beside is not None and not original:
            config = dict(json_files.read(beside))
            json_files.read_fields(VAEFile, beside)
            kind = str(config.get("_class_name"))
        elif original and tiny:
            kind, config = TINY, {"latent_channels": tiny[1]}
        elif "decoder.layers.0.weight" in shapes:
            kind, config = TINY, {"latent_channels": shapes["decoder.layers.0.weight"][1]}
        else:
            kind, config = KL, _sizes(shapes, original=original)
        if kind not in (KL, TINY) or not config:
            shown = ", ".join(list(stored)[:3])
            seems, fix = (kind, "") if kind not in (KL, TINY) else recognition.described(stored, "vae")
            raise ModelError(
                f"{path} is not a VAE that sdcli reads",
                why=f"It seems to be {seems}." if seems else f"It has the tensors {shown}." if shown else "",
                fix=fix or f"Pass an {KL}, or the decoder of TAESD.",
            )
        return cls(path, kind, config, original)

    @staticmethod
    def configuration(path: Path) -> Path | None:
        """The configuration of diffusers beside a file; None if there is none."""
        beside = path.parent / CONFIG
        return beside if beside.is_file() else None

    def require_fit(self, spec: ModelSpec) -> None:
        """Check that the VAE decodes the latents of the model.

        Raises:
            ModelError: it has other channels, another size or another scale.
        """
        file = VAEFile.model_validate({"scaling_factor": DEFAULT_SCALE, **self.config})
        pairs: list[tuple[str, float, float]] = [("latent channels", file.latent_channels, spec.latent_channels)]
        pairs += [("image pixels for each latent pixel", file.downscale, spec.downscale)]
        if self.kind == KL and "scaling_factor" in self.config and spec.latent_scale not in (0, 1):
            pairs += [("as scale of latents", file.scaling_factor, spec.latent_scale)]
        for what, own, wanted in pairs:
            if own != wanted:
                raise ModelError(
                    f"the VAE {self.path} does not fit the model {spec.name}",
                    why=f"It has {own} {what}, the model has {wanted}.",
                    fix="Pass a VAE that was made for this model.",
                )

    def load(self, spec: ModelSpec) -> Any:
        """The VAE in float32 on the CPU, as `Model.vae`.

        Raises:
            ModelError: its weights are damaged, or do not fit its configuration.
        """
        import diffusers
        import torch

        from sdcli.models import conversion, weights

        tensors = renaming.vae_names(checkpoint_file.read_tensors(self.path))
        config = (
            {"scaling_factor": spec.latent_scale or DEFAULT_SCALE, **self.config} if self.kind == KL else self.config
        )
        with torch.device("meta"):
            model = getattr(diffusers, self.kind).from_config(dict(config))
        name = self.path.name
        if self.original and self.kind == TINY:
            model.encoder = torch.nn.Identity()
            numbered = ((key.partition("."), each) for key, each in tensors.items())
            # The first layer there has no weights and clamps the latents, as diffusers' class does itself.
            renamed = {f"decoder.layers.{int(layer) - 1}.{rest}": each for (layer, _, rest), each in numbered}
            return weights.assign(model, renamed, what="VAE", source=name, config="its shapes")
        if self.original:
            # What only training uses.
            tensors = {key: each for key, each in tensors.items() if not key.startswith(("loss.", "model_ema."))}
            return conversion.assign(model, tensors, conversion.convert_vae, dict(config), "VAE", name, "its shapes")
        expected = {key: each.shape for key, each in model.state_dict().items()}
        renamed = {newer_name(key): each for key, each in tensors.items()}
        # Linear layers were convolutions once.
        tensors = {
            key: each.reshape(expected[key]) if each.ndim == 4 and len(expected.get(key, ())) == 2 else each
            for key, each in renamed.items()
        }
        return weights.assign(model, tensors, what="VAE", source=name, config=CONFIG)


_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the layers of attention in older versions of diffusers, and now."""


def newer_name(name: str) -> str:
    """The name that a tensor has now in diffusers."""
    root, _, end = name.rpartition(".")
    place, _, layer = root.rpartition(".")
    return f"{place}.{_ATTENTION[layer]}.{end}" if layer in _ATTENTION else name


def _sizes(shapes: checkpoint_file.Shapes, *, original: bool) -> dict[str, Any]:
    """The configuration of an AutoencoderKL with these shapes; empty if they are not of one."""
    block = (
        r"decoder\.up\.(\d+)\.block\.(\d+)\.conv1" if original else r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.conv1"
    )
    outputs: dict[int, int] = {}
    resnets = 0
    for name, shape in shapes.items():
        if (found := re.fullmatch(rf"{block}\.weight", name)) and len(shape) == 4:
            outputs[int(found[1])] = shape[0]
            resnets = max(resnets, int(found[2]))
    latents = shapes.get("decoder.conv_in.weight", ())
    if sorted(outputs) != list(range(len(outputs))) or not outputs or len(latents) != 4:
        return {}
    channels = [outputs[number] for number in sorted(outputs, reverse=not original)]
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": resnets,  # the decoder has one more
        "latent_channels": latents[1],
        "sample_size": 256,
    }
