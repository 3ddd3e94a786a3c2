"""LoRA files of each layout that diffusers reads, against its `load_lora_weights` and `fuse_lora`, which need peft.

`PYTHONPATH=.venv/reference python tests/golden/adapters.py` prints a table of PSNR by layout; with --json, the numbers.

The tensors are random and as large as those of the model's layers, so that the image with a LoRA is another one.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from compare import Pixels, psnr
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from samplers import NEGATIVE, NOISE_SCHEDULES, SCALE, SEED, SIZE, STEPS, SmallModel

from sdcli.models.adapters.embedding import EmbeddingFile, Words
from sdcli.models.adapters.lora import Adapted, LoraFile, Use

Tensors = dict[str, torch.Tensor]
Pairs = Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]
"""The matrices up and down by part ("unet" or "text_encoder") and path of the layer."""

RANK, WEIGHT = 2, 0.7


def pairs(small: SmallModel, *, convolutions: bool) -> Pairs:
    """Random matrices for the attention of both parts, and for the other linear layers and convolutions of the UNet."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for part in ("unet", "text_encoder"):
        for path, module in getattr(small.model, part).named_modules():
            weight = getattr(module, "weight", None)
            attention = path.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "out_proj") or ".attn" in path
            wanted = convolutions or (attention and weight is not None and weight.ndim == 2)
            if weight is None or weight.ndim not in (2, 4) or not wanted or "embed" in path:
                continue
            outputs, inputs, *kernel = weight.shape
            up = torch.randn(outputs, RANK, *[1] * len(kernel), generator=generator)
            down = torch.randn(RANK, inputs, *kernel, generator=generator)
            size = float(weight.std() / (up.flatten(1) @ down.flatten(1)).std())
            found[part, path] = up * size, down
    return found


def diffusers(small: SmallModel) -> Tensors:
    return {
        (
            f"unet.{path}.lora.{side}.weight"
            if part == "unet"
            else f"text_encoder.text_model.{path}.lora_linear_layer.{side}.weight"
        ): tensor
        for (part, path), two in pairs(small, convolutions=False).items()
        for side, tensor in zip(("up", "down"), two, strict=True)
    }


def peft(small: SmallModel) -> Tensors:
    return {
        f"{part}.{'text_model.' * (part != 'unet')}{path}.lora_{side}.weight": tensor
        for (part, path), two in pairs(small, convolutions=True).items()
        if part == "unet" or "self_attn" in path
        for side, tensor in zip("BA", two, strict=True)
    }


def older_diffusers(small: SmallModel) -> Tensors:
    """The names of attention processors, in the UNet alone."""
    return {
        f"unet.{path.rpartition('.attn')[0]}.attn{path.rpartition('.attn')[2][0]}.processor."
        f"{path.rpartition('.attn')[2][2:].removesuffix('.0')}_lora.{side}.weight": tensor
        for (part, path), two in pairs(small, convolutions=False).items()
        if part == "unet"
        for side, tensor in zip(("up", "down"), two, strict=True)
    }


def kohya(small: SmallModel, *, convolutions: bool = False) -> Tensors:
    tensors = {}
    for (part, path), (up, down) in pairs(small, convolutions=convolutions).items():
        root = f"lora_unet_{path}" if part == "unet" else f"lora_te_text_model.{path}"
        root = root.replace(".", "_")
        tensors |= {f"{root}.lora_up.weight": up, f"{root}.lora_down.weight": down}
        tensors[f"{root}.alpha"] = torch.tensor(1.5)
    return tensors


def locon(small: SmallModel) -> Tensors:
    return kohya(small, convolutions=True)


def dora(small: SmallModel) -> Tensors:
    """In peft's names: diffusers ignores the `dora_scale` of kohya's."""
    tensors = {name: tensor for name, tensor in peft(small).items() if name.startswith("unet.")}
    for name, up in list(tensors.items()):
        if name.endswith(".lora_B.weight"):
            magnitude = torch.rand(up.shape[0], generator=torch.Generator().manual_seed(len(name))) + 0.5
            shape = (-1,) if up.ndim == 2 else (1, -1, 1, 1)
            tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = magnitude.reshape(shape)
    return tensors


def with_metadata(small: SmallModel) -> Tensors:
    """As `peft`; the file's metadata has a scale."""
    return peft(small)


LAYOUTS: Mapping[str, Callable[[SmallModel], Tensors]] = {
    "diffusers": diffusers, "diffusers, older": older_diffusers, "peft": peft, "peft, alpha in metadata": with_metadata,
    "kohya": kohya, "LoCon": locon, "DoRA": dora,
}  # fmt: skip


def images(small: SmallModel, layout: str) -> tuple[Pixels, Pixels, Pixels]:
    """The image by sdcli with a LoRA, that by diffusers, and that by sdcli without, each (height, width, 3)."""
    metadata = None
    if layout == "peft, alpha in metadata":
        layers = pairs(small, convolutions=True)
        fields = {
            f"{part}.{name}": value
            for part in ("unet", "text_encoder")
            for name, value in {
                "r": RANK,
                "lora_alpha": 3.0,
                "target_modules": [path for of, path in layers if of == part and (part == "unet" or "attn" in path)],
            }.items()
        }
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(fields)}
    path = small.folder / "style.safetensors"
    save_file({name: each.contiguous() for name, each in LAYOUTS[layout](small).items()}, path, metadata)
    # A LoRA at a strength other than 1 scales the magnitudes of DoRA in diffusers, too, so 0 would change the model.
    weight = 1.0 if layout == "DoRA" else WEIGHT
    without = small.by_sdcli("ddim", "auto")
    adapted = Adapted(small.model)
    adapted.use([Use(LoraFile.read(path), weight, weight)])
    try:
        own = small.by_sdcli("ddim", "auto")
    finally:
        adapted.restore()
    pipeline = small.pipeline
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(lora_scale=weight)
    try:
        theirs = small.by_diffusers("ddim", "auto")
    finally:
        pipeline.unfuse_lora()
        pipeline.unload_lora_weights()
    return own, theirs, without


def with_a_word(small: SmallModel) -> tuple[Pixels, Pixels]:
    """The image of a prompt with the word of a textual inversion by sdcli, and that by diffusers."""
    path = small.folder / "toy.safetensors"
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(5)) / 10
    save_file({"emb_params": vectors}, path)
    words, adapted = Words([EmbeddingFile.read(path)]), Adapted(small.model)
    adapted.use([], words)
    before = small.model
    small.model = adapted.model
    try:
        own = small.by_sdcli("ddim", "auto", prompt=words.read("a photo of a toy, on grass"))
    finally:
        small.model = before
        adapted.restore()
    # A copy: the pipeline's tokenizer and table of embeddings change.
    pipeline = StableDiffusionPipeline.from_pretrained(small.folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_textual_inversion({"toy": vectors}, token="toy_word")
    images = pipeline(
        "a photo of a toy_word, on grass", negative_prompt=NEGATIVE, height=SIZE, width=SIZE, output_type="np",
        generator=torch.Generator("cpu").manual_seed(SEED), num_inference_steps=STEPS, guidance_scale=SCALE,
    ).images  # fmt: skip
    return own, (images[0] * 255).astype(np.uint8)


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        small = SmallModel(Path(folder), NOISE_SCHEDULES["v1"])
        for layout in LAYOUTS:
            own, theirs, without = images(small, layout)
            found[layout] = psnr(own, theirs), psnr(own, without)
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(found))
        return
    print("| layout | PSNR in dB | without the LoRA |\n| --- | --- | --- |")
    for layout, both in found.items():
        print(f"| {layout} | {' | '.join('equal' if math.isinf(each) else f'{each:.0f}' for each in both)} |")


if __name__ == "__main__":
    main()
