"""Fixtures: the small golden models in diffusers' layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from tests.conftest import SmallCheckpoint

V1_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
LAION_INDEX: dict[str, Any] = {
    "_class_name": "LDMTextToImagePipeline",
    "bert": ["latent_diffusion", "LDMBertModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vqvae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def _write_folder(folder: Path, small: SmallCheckpoint, index: dict[str, Any]) -> Path:
    """Write the small checkpoint in diffusers' layout, without a vocabulary, so that the shipped one is used."""
    from sdcli.models import find
    from sdcli.models.model import ModelRequest

    model = find(ModelRequest(ckpt=str(small.ckpt), config=str(small.config))).load(torch.device("cpu"), lambda _: None)
    text, vae = ("bert", "vqvae") if "bert" in index else ("text_encoder", "vae")
    for name, part in ((text, model.text_encoder), (vae, model.vae), ("unet", model.unet)):
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: SmallCheckpoint) -> Path:
    """A small Stable Diffusion 1 model in diffusers' layout. Tests that change it must copy it first."""
    return _write_folder(tmp_path_factory.mktemp("folders") / "small", small_checkpoint, V1_INDEX)


@pytest.fixture(scope="session")
def small_laion_folder(tmp_path_factory: pytest.TempPathFactory, small_laion_checkpoint: SmallCheckpoint) -> Path:
    """A small LAION-400M model in diffusers' layout. Tests that change it must copy it first."""
    return _write_folder(tmp_path_factory.mktemp("folders") / "small-laion", small_laion_checkpoint, LAION_INDEX)
