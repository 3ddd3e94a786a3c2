"""What a user may mean by an unknown name: one that is nearly the same, or a flag of another tool."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.78
"""Similarity from which a name is near: `stpes` is to `steps`. At the usual 0.6 `lora` is to `format`."""
_LONGEST = 100
"""Characters of a name that is compared."""

_NO_IMAGE = "Image to image is not supported yet: sdcli generates images from text only."
_LORA = "Here it is --lora FILE:WEIGHT."
_EMBEDDING = "Here it is --embedding FILE, or a folder."
_NO_CONTROL = "ControlNet and IP-Adapter are not supported yet."
_VAE = "Here it is --vae FILE, or a folder."
_NO_UPSCALE = "Upscaling is not supported yet; --H and --W set the size."
_NO_FACES = "Restoring of faces is not supported yet."
_NO_PARTS = "A model is loaded whole: --ckpt takes a checkpoint, --model a diffusers folder or a Hugging Face model id."
_NO_VARIATION = "Variation seeds are not supported yet."
_NO_TILING = "Images that repeat as tiles are not supported yet."
_NO_SERVER = "sdcli has no web interface."
_ATTENTION = "It is not needed: PyTorch's own attention is used."
_MEMORY = "It is not needed: if memory is short, smaller batches are generated and the VAE decodes in tiles."
_CHECKER = "Here it is --safety-checker off; --on-unsafe says what happens to an unsafe image."
_PRECISION = "Here it is --precision: autocast for 16 bits where they are fast, full for 32 bits."
_DEVICE = "Here it is --device: cpu, cuda or mps."
_SIZE = "Here it is --W and --H, in pixels."
_PLACE = "Here it is --outdir FOLDER, or -o FILE for one image."
_MODEL = "Here it is --ckpt FILE for a checkpoint, --model for a diffusers folder or a Hugging Face model id."
_ORIGINAL, _CROP = "Here it is --original-size WxH.", "Here it is --crop TOP,LEFT."
_THREADS = "The environment variable OMP_NUM_THREADS=4 sets the number of threads."
_TALK = "Progress is always shown; --quiet turns it off, --debug shows where an error was raised."
_STYLE = "There are no styles: describe the style in the prompt."

ELSEWHERE = {
    # Images as input.
    "init_img": _NO_IMAGE, "init_image": _NO_IMAGE, "init_image_path": _NO_IMAGE, "image": _NO_IMAGE,
    "image_path": _NO_IMAGE, "input_image": _NO_IMAGE, "input": _NO_IMAGE, "strength": _NO_IMAGE,
    "image_strength": _NO_IMAGE, "init_image_strength": _NO_IMAGE, "denoising_strength": _NO_IMAGE,
    "denoise": _NO_IMAGE, "img2img": _NO_IMAGE, "i": _NO_IMAGE, "I": _NO_IMAGE, "ref_image": _NO_IMAGE,
    "mask": "Inpainting is not supported yet.", "init_mask": "Inpainting is not supported yet.",
    "mask_path": "Inpainting is not supported yet.", "inpaint": "Inpainting is not supported yet.",
    # Parts of models.
    "lora_scale": _LORA, "lora_scales": _LORA, "lora_apply_mode": _LORA, "lora_style": _LORA,
    "hypernetwork": "Hypernetworks are not supported yet.",
    "embedding_path": _EMBEDDING,
    "controlnet": _NO_CONTROL, "control_net": _NO_CONTROL, "control_image": _NO_CONTROL,
    "control_strength": _NO_CONTROL, "controlnet_image_path": _NO_CONTROL, "controlnet_strength": _NO_CONTROL,
    "ip_adapter": _NO_CONTROL,
    "vae_dir": _VAE, "vae_decoder": _VAE,
    "refiner": "Refiners are not supported yet.", "refiner_model": "Refiners are not supported yet.",
    "diffusion_model": _NO_PARTS, "unet": _NO_PARTS, "unet_name": _NO_PARTS, "clip_l": _NO_PARTS,
    "clip_g": _NO_PARTS, "clip_name": _NO_PARTS, "t5xxl": _NO_PARTS, "text_encoder": _NO_PARTS, "llm": _NO_PARTS,
    "model_path": _MODEL, "model_name": _MODEL, "models_path": _MODEL, "base_model": _MODEL, "m": _MODEL,
    "weights": _MODEL, "sd_model": _MODEL, "variant": "--revision chooses a branch, tag or commit of a model.",
    # Sampling.
    "karras": "Here it is --schedule karras.", "use_karras_sigmas": "Here it is --schedule karras.",
    "timestep_spacing": "Here it is --schedule: leading, linspace or trailing.", "A": "Here it is --sampler NAME.",
    "euler_a": "Here it is --sampler euler_a.", "ddim": "Here it is --sampler ddim.",
    "dpm": "Here it is --sampler dpm_solver.",
    "s": "Here it is --steps N for the number of steps, --seed N for the seed.", "S": "Here it is --seed N.",
    "C": "Here it is --scale X for the guidance scale.", "random": "Here it is --seed random.",
    "random_seed": "Here it is --seed random.", "rescale_cfg": "Here it is --guidance-rescale X.",
    "cfg_rescale_multiplier": "Here it is --guidance-rescale X.",
    "subseed": _NO_VARIATION, "subseed_strength": _NO_VARIATION, "variation_amount": _NO_VARIATION,
    "with_variations": _NO_VARIATION, "variations": _NO_VARIATION, "v": _TALK, "V": _NO_VARIATION,
    "perlin": "Perlin noise is not supported yet.", "threshold": "Thresholds of latents are not supported yet.",
    # Size and number.
    "original_width": _ORIGINAL, "original_height": _ORIGINAL, "ow": _ORIGINAL, "oh": _ORIGINAL,
    "crop_top": _CROP, "crop_left": _CROP, "sdxl_crop_top": _CROP, "sdxl_crop_left": _CROP,
    "target_size": "The size of the image is the target size.",
    "negative_original_size": "--original-size counts for the negative prompt, too.",
    "prompt_2": "Both text encoders read the prompt.",
    "negative_prompt_2": "Both text encoders read --negative-prompt.",
    "size": _SIZE, "resolution": _SIZE, "aspect_ratio": _SIZE, "dimensions": _SIZE, "image_size": _SIZE,
    "b": "Here it is -n N for the number of images, --batch-size N for a batch.",
    "batch": "Here it is -n N for the number of images, --batch-size N for a batch.",
    "g": "A grid is always saved with several images; --skip_grid turns it off.",
    "grid": "A grid is always saved with several images; --skip_grid turns it off.",
    "hires": _NO_UPSCALE, "hires_fix": _NO_UPSCALE, "hrf": _NO_UPSCALE, "enable_hr": _NO_UPSCALE,
    "hr_scale": _NO_UPSCALE, "hr_upscaler": _NO_UPSCALE, "upscale": _NO_UPSCALE, "upscaler": _NO_UPSCALE,
    "upscale_model": _NO_UPSCALE, "U": _NO_UPSCALE, "esrgan": _NO_UPSCALE, "realesrgan": _NO_UPSCALE,
    "gfpgan": _NO_FACES, "codeformer": _NO_FACES, "facetool": _NO_FACES, "restore_faces": _NO_FACES, "G": _NO_FACES,
    "tiling": _NO_TILING, "seamless": _NO_TILING, "tile": _NO_TILING,
    # Output.
    "output_path": _PLACE, "out": _PLACE, "outpath": _PLACE, "save": _PLACE, "save_path": _PLACE,
    "outdir_txt2img_samples": "Here it is --outdir FOLDER.", "filename": "Here it is -o FILE or --output-name NAME.",
    "metadata": "Every image contains its settings; sdcli inspect shows them.",
    # Device, precision, memory.
    "cpu": _DEVICE, "gpu": _DEVICE, "cuda": _DEVICE, "mps": _DEVICE, "use_cpu": _DEVICE, "gpu_id": _DEVICE,
    "half": _PRECISION, "no_half": _PRECISION, "fp16": _PRECISION, "fp32": _PRECISION, "bf16": _PRECISION,
    "float16": _PRECISION, "float32": _PRECISION, "bfloat16": _PRECISION, "full_precision": _PRECISION,
    "dtype": _PRECISION, "no_half_vae": _PRECISION, "force_fp16": _PRECISION, "force_fp32": _PRECISION,
    "quantize": "Quantized weights are not supported yet.", "q": "Quantized weights are not supported yet.",
    "type": "Quantized weights are not supported yet.", "threads": _THREADS, "t": _THREADS,
    "compile": "Compiled models are not supported yet.", "xformers": _ATTENTION,
    "enable_xformers_memory_efficient_attention": _ATTENTION, "opt_sdp_attention": _ATTENTION,
    "opt_split_attention": _ATTENTION, "diffusion_fa": _ATTENTION, "flash_attention": _ATTENTION,
    "use_pytorch_cross_attention": _ATTENTION, "medvram": _MEMORY, "lowvram": _MEMORY, "highvram": _MEMORY,
    "novram": _MEMORY, "low_vram": _MEMORY, "low_ram": _MEMORY, "always_low_vram": _MEMORY,
    "attention_slicing": _MEMORY, "enable_attention_slicing": _MEMORY, "enable_model_cpu_offload": _MEMORY,
    "cpu_offload": _MEMORY, "offload_to_cpu": _MEMORY, "vae_tiling": _MEMORY, "vae_on_cpu": _MEMORY,
    "clip_on_cpu": _MEMORY,
    # Safety.
    "nsfw": _CHECKER, "nsfw_checker": _CHECKER, "no_nsfw_checker": _CHECKER, "disable_nsfw_checker": _CHECKER,
    "no_safety_checker": _CHECKER, "disable_safety_checker": _CHECKER, "safety": _CHECKER, "skip_safety": _CHECKER,
    "safe": _CHECKER, "disable_safe_unpickle": "Checkpoints never run code here.",
    "safe_mode": _CHECKER,
    # The rest.
    "style": _STYLE, "styles": _STYLE, "preset": _STYLE,
    "token": "The environment variable HF_TOKEN holds the token.",
    "hf_token": "The environment variable HF_TOKEN holds the token.",
    "auth_token": "The environment variable HF_TOKEN holds the token.",
    "verbose": _TALK, "loglevel": _TALK, "listen": _NO_SERVER, "port": _NO_SERVER, "share": _NO_SERVER,
    "web": _NO_SERVER, "gui": _NO_SERVER, "api": _NO_SERVER, "server": _NO_SERVER,
    "interactive": "sdcli txt2img --from-file - reads prompts as they are typed.",
}  # fmt: skip
"""Names of flags of other tools that sdcli does not have, with what to use instead, or that there is nothing yet.
Underscores stand for dashes. The tools: the original txt2img.py and its forks, diffusers' scripts, the web UI of
AUTOMATIC1111, ComfyUI, InvokeAI, Fooocus, stable-diffusion.cpp and mflux. A flag that means the same as one of sdcli is
an alias of it, see `Option.aliases`."""


def spelling(name: str) -> str:
    """A flag or a name in its usual spelling: without dashes before it, with underscores for dashes in it."""
    return name.lstrip("-").replace("-", "_")


def near(name: str, known: Iterable[str], most: int = 2) -> list[str]:
    """The known names that begin with this one; if there is none, those that are nearly the same."""
    if not 1 < len(_plain(name)) <= _LONGEST:
        return []
    names = list(known)
    typed = _plain(name)
    if found := [each for each in names if _plain(each).startswith(typed)]:
        return found[:most]
    # A name that is known in several spellings is suggested once.
    plain = {_plain(each): each for each in reversed(names)}
    return [plain[each] for each in difflib.get_close_matches(typed, plain, n=most, cutoff=_CUTOFF)]


def did_you_mean(names: Iterable[str]) -> str:
    """Names as a question; empty if there are none."""
    text = " or ".join(names)
    return f"Did you mean {text}?" if text else ""


def elsewhere(name: str) -> str:
    """What to use here instead of another tool's flag or setting, or that there is nothing yet; empty if unknown."""
    plain = spelling(name)
    # Letters are flags of one dash, and capital ones are others.
    if len(plain) == 1:
        return ELSEWHERE.get(plain, "") if name.startswith("-") and not name.startswith("--") else ""
    return ELSEWHERE.get(plain.lower(), "")


def _plain(name: str) -> str:
    return spelling(name).lower()
