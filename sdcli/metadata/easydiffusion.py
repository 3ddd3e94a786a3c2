"""Reads Easy Diffusion's metadata: one PNG text for each value, or all of them as JSON in UserComment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.values import NO_RNG, OTHER_IMAGE, file_name, harmless, objects, others, sampling

TOOL = "Easy Diffusion"
# The names of values and their titles, which it writes if it also writes text files.
TITLES = {
    "prompt": "Prompt",
    "negative_prompt": "Negative Prompt",
    "seed": "Seed",
    "num_inference_steps": "Steps",
    "sampler_name": "Sampler",
    "guidance_scale": "Guidance Scale",
    "width": "Width",
    "height": "Height",
    "use_stable_diffusion_model": "Stable Diffusion model",
}
MORE = {
    "clip_skip": "Clip Skip", "use_vae_model": "VAE model", "use_controlnet_model": "ControlNet model",
    "control_filter_to_apply": "ControlNet Filter", "prompt_strength": "Prompt Strength",
    "use_lora_model": "LoRA model", "lora_alpha": "LoRA Strength", "use_hypernetwork_model": "Hypernetwork model",
    "hypernetwork_strength": "Hypernetwork Strength", "use_embeddings_model": "Embedding models",
    "tiling": "Seamless Tiling", "use_face_correction": "Use Face Correction", "use_upscale": "Use Upscaling",
    "upscale_amount": "Upscale By", "latent_upscaler_steps": "Latent Upscaler Steps",
}  # fmt: skip

# The samplers that it runs with this schedule.
KARRAS = ("dpmpp_2s_a", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from Easy Diffusion's metadata; returns None if the file has none."""
    for values in (texts, *objects(texts)):
        for names in ({name: name for name in TITLES | MORE}, TITLES | MORE):
            if names["use_stable_diffusion_model"] in values:
                return _read({name: values[title] for name, title in names.items() if title in values})
    return None


def _read(values: dict[str, Any]) -> Provenance:
    notes = [NO_RNG]
    name = values.get("sampler_name")
    other = {name: value for name, value in others(values, TITLES).items() if value != "False"}
    if "prompt_strength" in other:
        notes.append(OTHER_IMAGE)
    return Provenance(
        TOOL,
        "",
        known(
            prompt=values.get("prompt"),
            negative_prompt=values.get("negative_prompt"),
            seed=values.get("seed"),
            steps=values.get("num_inference_steps"),
            **sampling(name, "karras" if name in KARRAS else None),
            scale=values.get("guidance_scale"),
            width=values.get("width"),
            height=values.get("height"),
            model=file_name(values.get("use_stable_diffusion_model")),
        ),
        other,
        tuple(notes),
        harmless(other, (), {"clip_skip": ("0.0", "1.0")}),
    )
