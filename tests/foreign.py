"""Texts and image files after what other tools write."""

from __future__ import annotations

import gzip
import io
import json
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdcli.metadata import Provenance, of_image, texts

NOVELAI: dict[str, Any] = {
    "prompt": "a lighthouse, {storm}", "steps": 28, "height": 1216, "width": 832, "scale": 5.0, "uncond_scale": 1.0,
    "cfg_rescale": 0.0, "seed": 2796862513, "n_samples": 1, "noise_schedule": "karras", "legacy_v3_extend": False,
    "reference_strength_multiple": [], "sampler": "k_euler_ancestral", "controlnet_strength": 1.0,
    "controlnet_model": None, "dynamic_thresholding": False, "dynamic_thresholding_percentile": 0.999,
    "dynamic_thresholding_mimic_scale": 10.0, "sm": False, "sm_dyn": False, "skip_cfg_above_sigma": None,
    "lora_unet_weights": None, "cfg_sched_eligibility": "enable_for_post_summer_samplers", "version": 1,
    "uncond_per_vibe": True, "uc": "fog", "request_type": "PromptGenerateRequest", "signed_hash": "c2ln",
}  # fmt: skip
NOVELAI_TEXTS = {
    "Title": "NovelAI generated image", "Description": "a lighthouse, {storm}", "Software": "NovelAI",
    "Source": "NovelAI Diffusion V4.5 4BDE2A90", "Generation time": "3.1",
}  # fmt: skip
FOOOCUS: dict[str, Any] = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "coast_v8", "base_model_hash": "aeb7e9e689", "clip_skip": 2,
    "full_negative_prompt": ["fog", "unrealistic"], "full_prompt": ["a lighthouse, cinematic still", "a lighthouse"],
    "guidance_scale": 4.0, "lora_combined_1": "offset : 0.1", "loras": [["offset", 0.1, "4852686128"]],
    "metadata_scheme": "fooocus", "negative_prompt": "fog", "performance": "Speed", "prompt": "a lighthouse",
    "prompt_expansion": "a lighthouse, sharp focus", "refiner_model": "None", "refiner_switch": 0.5,
    "resolution": "(1152, 896)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "3350124586",
    "sharpness": 2.0, "steps": 30, "styles": "['Fooocus V2', 'Fooocus Enhance']", "vae": "Default (model)",
    "version": "Fooocus v2.5.5",
}  # fmt: skip
FOOOCUS_LABELS: dict[str, Any] = {
    "Prompt": "a lighthouse", "Negative Prompt": "", "Fooocus V2 Expansion": "", "Styles": "[]",
    "Performance": "Quality", "Steps": 60, "Resolution": "(1024, 768)", "Guidance Scale": 7.0, "Sharpness": 2.0,
    "ADM Guidance": "(1.5, 0.8, 0.3)", "Base Model": "coast.safetensors", "Refiner Model": "None",
    "Refiner Switch": 0.8, "Sampler": "ddim", "Scheduler": "normal", "Seed": 12, "LoRA 1": "offset.safetensors : 0.1",
    "Version": "v2.1.864",
}  # fmt: skip
RUINED_FOOOCUS: dict[str, Any] = {
    "Prompt": "a lighthouse, ", "Negative": "fog, ", "steps": 30, "cfg": 8.5, "width": 1152, "height": 896,
    "seed": 3864674281, "sampler_name": "dpmpp_2m", "scheduler": "karras", "base_model_name": "coast.safetensors",
    "base_model_hash": "be9edd61", "loras": [["48526861", "0.1 - offset.safetensors"]], "start_step": 0,
    "denoise": None, "clip_skip": 1, "software": "RuinedFooocus",
}  # fmt: skip
SWARMUI: dict[str, Any] = {
    "sui_image_params": {
        "prompt": "a red lighthouse, (storm:1.2) <segment:sky> dark", "negativeprompt": "fog", "model": "sd15/coast",
        "images": 1, "seed": 1205218316, "steps": 20, "cfgscale": "7.0", "aspectratio": "3:2", "width": 768,
        "height": 512, "sampler": "ddim", "scheduler": "normal", "loras": ["mist"], "loraweights": ["0.6"],
        "automaticvae": True, "swarm_version": "0.9.5.0",
    },
    "sui_extra_data": {
        "date": "2025-03-01", "original_prompt": "a <random:red|blue> lighthouse, (storm:1.2) <segment:sky> dark",
        "generation_time": "0.02 (prep) and 4.84 (gen) seconds",
    },
    "sui_models": [
        {"name": "mist.safetensors", "param": "loras", "hash": "0x11"},
        {"name": "sd15/coast.safetensors", "param": "model", "hash": "0x6f00"},
    ],
}  # fmt: skip
DRAW_THINGS: dict[str, Any] = {
    "c": "a lighthouse", "uc": "fog", "model": "sd_v1.5_f16.ckpt", "profile": {"duration": 2.5, "timings": []},
    "sampler": "DPM++ 2M Karras", "scale": 7.5, "seed": 2441935286, "seed_mode": "Scale Alike", "shift": 1,
    "size": "512x768", "steps": 28, "strength": 1, "lora": [{"model": "mist.ckpt", "weight": 0.6}], "mask_blur": 1.5,
    "v2": {"guidanceScale": 7.5, "clipSkip": 2, "loras": [{"file": "mist.ckpt", "weight": 0.6}]},
}  # fmt: skip
DRAW_THINGS_TEXT = (
    "a lighthouse\n-fog\nSteps: 28, Sampler: DPM++ 2M Karras, Guidance Scale: 7.5, Seed: 2441935286, Size: 512x768, "
    "Model: sd_v1.5_f16.ckpt, Strength: 1.0, Seed Mode: Scale Alike, Shift: 1.0"
)
EASY_DIFFUSION: dict[str, Any] = {
    "prompt": "a lighthouse", "negative_prompt": "fog", "seed": 4188, "use_stable_diffusion_model": "C:\\models\\coast",
    "clip_skip": False, "use_vae_model": "vae-ft-mse", "sampler_name": "ddim", "width": 512, "height": 768,
    "num_inference_steps": 25, "guidance_scale": 7.5, "use_lora_model": None, "tiling": None,
}  # fmt: skip
PARAMETERS = (
    "a lighthouse\nNegative prompt: fog\n"
    "Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 5, Size: 512x768, Model: coast, Version: v1.9.4"
)


def png(image: Image.Image | None = None, /, **chunks: str) -> bytes:
    """A PNG file with these text chunks."""
    info = PngInfo()
    for name, text in chunks.items():
        info.add_itxt(name.replace("_time", " time"), text)
    return saved(image or Image.new("RGB", (8, 8)), "PNG", pnginfo=info)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def with_comment(text: str, format: str = "JPEG") -> bytes:
    """A file with a text in UserComment."""
    return saved(Image.new("RGB", (8, 8)), format, exif=texts.exif("", text))


def draw_things_xmp(description: str = DRAW_THINGS_TEXT, comment: str = "") -> str:
    """The XMP packet of Draw Things."""
    item = '<rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt>'.format
    comments = f"<exif:UserComment>{item(escape(comment, quote=False))}</exif:UserComment>" if comment else ""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/">'
        f"<dc:description>{item(escape(description).replace(chr(10), '&#xA;'))}</dc:description>"
        f"<xmp:CreatorTool>Draw Things</xmp:CreatorTool>{comments}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def stealth(
    text: str | bytes, channels: str = "A", *, compressed: bool = True, size: tuple[int, int] = (64, 64)
) -> Image.Image:
    """An image with a text in its pixels, column by column; `bytes` are written as they are, as compressed ones."""
    data = text if isinstance(text, bytes) else gzip.compress(text.encode()) if compressed else text.encode()
    signature = f"stealth_{'png' if channels == 'A' else 'rgb'}{'comp' if compressed else 'info'}"
    bits = np.unpackbits(np.frombuffer(signature.encode() + (len(data) * 8).to_bytes(4, "big") + data, np.uint8))
    width, height = size
    pixels = np.full((width, height, 4), 255, dtype=np.uint8)
    area = (pixels[..., 3:] if channels == "A" else pixels[..., :3]).reshape(-1)
    area[: len(bits)] = 254 | bits
    if channels == "A":
        pixels[..., 3] = area.reshape(width, height)
    else:
        pixels[..., :3] = area.reshape(width, height, 3)
    return Image.fromarray(pixels.swapaxes(0, 1).copy())


def read(data: bytes) -> Provenance | None:
    """How the image of a file was generated."""
    with Image.open(io.BytesIO(data)) as image:
        return of_image(image)


def found(data: bytes) -> Provenance:
    """How the image of a file was generated; the file must say so."""
    result = read(data)
    assert result is not None
    return result


FILES: dict[str, bytes] = {
    "novelai.png": png(**NOVELAI_TEXTS, Comment=json.dumps(NOVELAI)),
    "fooocus.png": png(parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"),
    "swarmui.png": png(parameters=json.dumps(SWARMUI, indent=2)),
    "drawthings.png": png(**{"XML:com.adobe.xmp": draw_things_xmp(comment=json.dumps(DRAW_THINGS))}),
    "easydiffusion.png": png(**{name: str(value) for name, value in EASY_DIFFUSION.items()}),
    "stealth.png": png(stealth(json.dumps(NOVELAI_TEXTS | {"Comment": json.dumps(NOVELAI)}), size=(128, 128))),
}
"""One file of each tool."""
