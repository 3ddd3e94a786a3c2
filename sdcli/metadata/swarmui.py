"""Reads SwarmUI's JSON, `sui_image_params`, which StableSwarmUI wrote before it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdcli.metadata.comfyui import sampling_of
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.texts import PARAMETERS_KEY
from sdcli.metadata.values import OTHER_IMAGE, fields, file_name, harmless, objects, others, sampling

TOOL = "SwarmUI"
READ = {"prompt", "negativeprompt", "seed", "steps", "cfgscale", "width", "height", "model", "sampler",
        "comfyuisampler", "comfyuischeduler", "autowebuisampler"}  # fmt: skip
# Values that do not change the image, or whose effect is in the others.
HARMLESS = {"swarm_version", "aspectratio", "automaticvae", "nopreviews", "donotsave", "imageformat", "date",
            "generation_time", "used_wildcards"}  # fmt: skip
NEUTRAL = {"images": ("1",), "batchsize": ("1",), "variationseedstrength": ("0.0",)}
# Instructions that remain in a prompt after SwarmUI has made its choices, for example <segment:face> and <break>.
_INSTRUCTION = re.compile(r"<([A-Za-z]{1,40})(?:\[[^][<>]{0,200}\])?(?=[:>])")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from SwarmUI's JSON; returns None if the file has none."""
    for content in objects(texts):
        if isinstance(params := content.get("sui_image_params"), dict):
            return _read(params, fields(content.get("sui_extra_data")), content.get("sui_models"))
    damaged = texts.get(PARAMETERS_KEY, "")
    if damaged.startswith("{") and '"sui_image_params"' in damaged:
        return Provenance(TOOL, notes=("the JSON in `parameters` is damaged",))
    return None


def _read(params: dict[str, Any], extra: dict[str, Any], models: Any) -> Provenance:
    hashes = [
        model.get("hash")
        for model in (models if isinstance(models, list) else [])
        if isinstance(model, dict) and model.get("param") == "model"
    ]
    # Before version 0.6, the names say which program computed the image.
    of_web_ui = params.get("autowebuisampler")
    of_comfyui = (params.get(name, params.get(f"comfyui{name}")) for name in ("sampler", "scheduler"))
    return Provenance(
        TOOL,
        str(params.get("swarm_version", "")),
        known(
            prompt=params.get("prompt"),
            negative_prompt=params.get("negativeprompt"),
            seed=params.get("seed"),
            # Those of ComfyUI, which computes the images.
            rng=None if of_web_ui else "cpu",
            steps=params.get("steps"),
            **(sampling(of_web_ui) if isinstance(of_web_ui, str) else sampling_of(*of_comfyui)),
            scale=params.get("cfgscale"),
            width=params.get("width"),
            height=params.get("height"),
            model=file_name(params.get("model")),
            model_hash=hashes[0] if hashes else None,
        ),
        other := others(params | extra, READ | HARMLESS, NEUTRAL | {"original_prompt": (str(params.get("prompt")),)}),
        tuple(_notes(params)),
        harmless(other, ("scheduler",)),
    )


def _notes(params: dict[str, Any]) -> list[str]:
    notes = []
    for name, key in (("prompt", "prompt"), ("negative prompt", "negativeprompt")):
        text = params.get(key)
        if isinstance(text, str) and (found := sorted(set(_INSTRUCTION.findall(text[:100_000])))):
            notes.append(f"the {name} has instructions of SwarmUI: {', '.join(f'<{each}>' for each in found[:5])}")
    if {"initimage", "initimagecreativity"} & params.keys():
        notes.append(OTHER_IMAGE)
    return notes
