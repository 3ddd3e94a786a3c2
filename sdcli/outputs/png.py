"""PNG files that say how they were made."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcli.jobs import Job
from sdcli.samplers import SAMPLERS
from sdcli.version import VERSION

RECORD_KEY = "sdcli"
PARAMETERS_KEY = "parameters"


def encode(pixels: NDArray[np.uint8], record: dict[str, Any], parameters: str) -> bytes:
    """A PNG of RGB pixels (height, width, 3) with its record as JSON and as the text form other tools read."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(RECORD_KEY, json.dumps(record, ensure_ascii=False))
    if parameters:
        info.add_itxt(PARAMETERS_KEY, parameters)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def parameters(job: Job, version: str = VERSION) -> str:
    """The job in the form that web UIs write under "parameters" and most tools read."""
    lines = [job.prompt]
    if job.negative_prompt:
        lines.append(f"Negative prompt: {job.negative_prompt}")
    values = {
        "Steps": job.steps,
        "Sampler": SAMPLERS[job.sampler].title,
        "CFG scale": f"{job.scale:g}",
        "Seed": job.seed,
        "Size": f"{job.width}x{job.height}",
        "Model hash": job.model_hash[:10],
        "Model": job.model,
        **({"Eta": f"{job.eta:g}"} if job.eta else {}),
        "RNG": {"cuda": "NV", "cpu": "CPU"}[job.rng],
        "Version": f"sdcli {version}",
    }
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items()))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """Values with a comma or colon are quoted, so that the line can be taken apart again."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ",:\n") else value
