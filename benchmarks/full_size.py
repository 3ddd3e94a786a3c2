"""Measures the memory that loading and using a full-size checkpoint of Stable Diffusion takes.

    python benchmarks/full_size.py FOLDER

Writes a checkpoint of the real size (1,066 million random float32 weights, 4.27 GB) into FOLDER, generates one image of
256 x 256 with `sdcli txt2img`, prints the size of the file and the peak memory as JSON, and deletes the file.
`--format safetensors` writes that format; `--ema` adds averaged weights, which some checkpoints have. `--model xl`
writes Stable Diffusion XL with 3,469 million weights in float16 (6.94 GB), which take 13.9 GB in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 1.3
"""Maximum of the peak memory, relative to what the weights take in float32."""

Shapes = dict[str, tuple[int, ...]]


def affine(name: str, *shape: int) -> Shapes:
    """A weight of this shape and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into)}


def attention(name: str, width: int, context: int) -> Shapes:
    return {
        **linear(f"{name}.to_q", width, width),
        **linear(f"{name}.to_k", width, context),
        **linear(f"{name}.to_v", width, context),
        **affine(f"{name}.to_out.0", width, width),
    }


def transformer(name: str, width: int, context: int, depth: int = 1, kernel: tuple[int, ...] = (1, 1)) -> Shapes:
    shapes = {
        **affine(f"{name}.norm", width),
        **affine(f"{name}.proj_in", width, width, *kernel),
        **affine(f"{name}.proj_out", width, width, *kernel),
    }
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        shapes |= {
            **attention(f"{block}.attn1", width, width),
            **affine(f"{block}.ff.net.0.proj", 8 * width, width),
            **affine(f"{block}.ff.net.2", width, 4 * width),
            **attention(f"{block}.attn2", width, context),
            **affine(f"{block}.norm1", width),
            **affine(f"{block}.norm2", width),
            **affine(f"{block}.norm3", width),
        }
    return shapes


def unet_block(name: str, into: int, out: int, time_width: int) -> Shapes:
    shapes = {
        **affine(f"{name}.in_layers.0", into),
        **affine(f"{name}.in_layers.2", out, into, 3, 3),
        **affine(f"{name}.emb_layers.1", out, time_width),
        **affine(f"{name}.out_layers.0", out),
        **affine(f"{name}.out_layers.3", out, out, 3, 3),
    }
    return shapes if into == out else {**shapes, **affine(f"{name}.skip_connection", out, into, 1, 1)}


def unet(
    width: int = 320,
    mults: tuple[int, ...] = (1, 2, 4, 4),
    depths: tuple[int, ...] = (1, 1, 1, 0),
    middle: int = 1,
    context: int = 768,
    kernel: tuple[int, ...] = (1, 1),
) -> Shapes:
    """Names and shapes of the UNet; `depths` are the transformer blocks of each level."""
    blocks = 2
    root, time_width = "model.diffusion_model", 4 * width
    shapes = {
        **affine(f"{root}.time_embed.0", time_width, width),
        **affine(f"{root}.time_embed.2", time_width, time_width),
        **affine(f"{root}.input_blocks.0.0", width, 4, 3, 3),
    }
    number, channels, skips, last = 1, width, [width], len(mults) - 1
    for level, mult in enumerate(mults):
        for _ in range(blocks):
            block = f"{root}.input_blocks.{number}"
            shapes |= unet_block(f"{block}.0", channels, mult * width, time_width)
            channels = mult * width
            if depths[level]:
                shapes |= transformer(f"{block}.1", channels, context, depths[level], kernel)
            skips.append(channels)
            number += 1
        if level < last:
            shapes |= affine(f"{root}.input_blocks.{number}.0.op", channels, channels, 3, 3)
            skips.append(channels)
            number += 1
    shapes |= unet_block(f"{root}.middle_block.0", channels, channels, time_width)
    shapes |= transformer(f"{root}.middle_block.1", channels, context, middle, kernel)
    shapes |= unet_block(f"{root}.middle_block.2", channels, channels, time_width)
    number = 0
    for level, mult in reversed(list(enumerate(mults))):
        for at in range(blocks + 1):
            block = f"{root}.output_blocks.{number}"
            shapes |= unet_block(f"{block}.0", channels + skips.pop(), mult * width, time_width)
            channels = mult * width
            if depths[level]:
                shapes |= transformer(f"{block}.1", channels, context, depths[level], kernel)
            if level and at == blocks:
                shapes |= affine(f"{block}.{2 if depths[level] else 1}.conv", channels, channels, 3, 3)
            number += 1
    return {**shapes, **affine(f"{root}.out.0", width), **affine(f"{root}.out.2", 4, width, 3, 3)}


def vae_block(name: str, into: int, out: int) -> Shapes:
    shapes = {
        **affine(f"{name}.norm1", into),
        **affine(f"{name}.conv1", out, into, 3, 3),
        **affine(f"{name}.norm2", out),
        **affine(f"{name}.conv2", out, out, 3, 3),
    }
    return shapes if into == out else {**shapes, **affine(f"{name}.nin_shortcut", out, into, 1, 1)}


def vae_middle(name: str, width: int) -> Shapes:
    shapes = {**vae_block(f"{name}.block_1", width, width), **vae_block(f"{name}.block_2", width, width)}
    for part in ("q", "k", "v", "proj_out"):
        shapes |= affine(f"{name}.attn_1.{part}", width, width, 1, 1)
    return {**shapes, **affine(f"{name}.attn_1.norm", width)}


def vae(width: int = 128, mults: tuple[int, ...] = (1, 2, 4, 4), blocks: int = 2) -> Shapes:
    root, last, widest = "first_stage_model", len(mults) - 1, width * mults[-1]
    shapes = affine(f"{root}.encoder.conv_in", width, 3, 3, 3)
    channels = width
    for level, mult in enumerate(mults):
        for at in range(blocks):
            shapes |= vae_block(f"{root}.encoder.down.{level}.block.{at}", channels, mult * width)
            channels = mult * width
        if level < last:
            shapes |= affine(f"{root}.encoder.down.{level}.downsample.conv", channels, channels, 3, 3)
    shapes |= vae_middle(f"{root}.encoder.mid", widest)
    shapes |= affine(f"{root}.encoder.norm_out", widest) | affine(f"{root}.encoder.conv_out", 8, widest, 3, 3)
    shapes |= affine(f"{root}.decoder.conv_in", widest, 4, 3, 3) | vae_middle(f"{root}.decoder.mid", widest)
    for level, mult in reversed(list(enumerate(mults))):
        for at in range(blocks + 1):
            shapes |= vae_block(f"{root}.decoder.up.{level}.block.{at}", channels, mult * width)
            channels = mult * width
        if level:
            shapes |= affine(f"{root}.decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    shapes |= affine(f"{root}.decoder.norm_out", width) | affine(f"{root}.decoder.conv_out", 3, width, 3, 3)
    return {**shapes, **affine(f"{root}.quant_conv", 8, 8, 1, 1), **affine(f"{root}.post_quant_conv", 4, 4, 1, 1)}


def clip(width: int = 768, layers: int = 12, part: str = "cond_stage_model") -> Shapes:
    root = f"{part}.transformer.text_model"
    shapes: Shapes = {
        f"{root}.embeddings.token_embedding.weight": (49408, width),
        f"{root}.embeddings.position_embedding.weight": (77, width),
        f"{root}.embeddings.position_ids": (1, 77),
    }
    for number in range(layers):
        layer = f"{root}.encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= affine(f"{layer}.self_attn.{part}", width, width)
        shapes |= affine(f"{layer}.mlp.fc1", 4 * width, width) | affine(f"{layer}.mlp.fc2", width, 4 * width)
        shapes |= affine(f"{layer}.layer_norm1", width) | affine(f"{layer}.layer_norm2", width)
    return {**shapes, **affine(f"{root}.final_layer_norm", width)}


def open_clip(width: int = 1280, layers: int = 32) -> Shapes:
    root = "conditioner.embedders.1.model"
    shapes: Shapes = {
        f"{root}.token_embedding.weight": (49408, width),
        f"{root}.positional_embedding": (77, width),
        f"{root}.text_projection": (width, width),
        f"{root}.logit_scale": (),
    }
    for number in range(layers):
        layer = f"{root}.transformer.resblocks.{number}"
        shapes |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        shapes |= affine(f"{layer}.attn.out_proj", width, width)
        shapes |= affine(f"{layer}.mlp.c_fc", 4 * width, width) | affine(f"{layer}.mlp.c_proj", width, 4 * width)
        shapes |= affine(f"{layer}.ln_1", width) | affine(f"{layer}.ln_2", width)
    return {**shapes, **affine(f"{root}.ln_final", width)}


def xl() -> Shapes:
    label = "model.diffusion_model.label_emb.0"
    return {
        **unet(mults=(1, 2, 4), depths=(0, 2, 10), middle=10, context=2048, kernel=()),
        **affine(f"{label}.0", 1280, 2816),
        **affine(f"{label}.2", 1280, 1280),
        **vae(),
        **clip(part="conditioner.embedders.0"),
        **open_clip(),
    }


def write(path: Path, *, model: str, ema: bool) -> None:
    """Writes a checkpoint of random weights, scaled like those of an untrained network."""
    import torch

    shapes = xl() if model == "xl" else unet() | vae() | clip()
    dtype = torch.float16 if model == "xl" else torch.float32
    if ema:
        averaged = {
            f"model_ema.{name[6:].replace('.', '')}": shape
            for name, shape in shapes.items()
            if name.startswith("model.diffusion_model.")
        }
        shapes |= averaged
    state = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            state[name] = torch.arange(77)[None]
        elif len(shape) == 1:
            state[name] = torch.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=dtype)
        else:
            state[name] = torch.empty(shape).uniform_(-1, 1).div_(math.sqrt(math.prod(shape[1:]))).to(dtype)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 0}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=("ckpt", "safetensors"), default="ckpt")
    parser.add_argument("--model", choices=("v1", "xl"), default="v1")
    parser.add_argument("--ema", action="store_true")
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    path = args.folder / f"full-size.{args.format}"
    try:
        # In another process, since its memory must not count.
        writer = multiprocessing.get_context("spawn").Process(
            target=write, args=(path,), kwargs={"model": args.model, "ema": args.ema}
        )
        writer.start()
        writer.join()
        size = path.stat().st_size
        start = time.monotonic()
        side = "512" if args.model == "xl" else "256"
        flags = ["--H", side, "--W", side, "--n_samples", "1", "--n_iter", "1", "--skip_grid"]
        flags += ["--safety-checker", "off", "--precision", "full"]
        flags += ["--ddim_steps", str(args.steps), "--outdir", f"{args.folder}/images"]
        run = subprocess.Popen([sys.executable, "-m", "sdcli", "txt2img", "--ckpt", path, *flags])
        _, status, usage = os.wait4(run.pid, 0)
        peak = usage.ru_maxrss * 1024
        weights = size * (2 if args.model == "xl" else 1)
        print(
            json.dumps(
                {
                    "file_bytes": size,
                    "peak_bytes": peak,
                    "peak_of_weights": round(peak / weights, 3),
                    "limit": LIMIT,
                    "seconds": round(time.monotonic() - start, 1),
                    "exit_code": os.waitstatus_to_exitcode(status),
                    "ok": status == 0 and peak < LIMIT * weights,
                }
            )
        )
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
