"""Models that a pipeline of diffusers generates: what their configuration files say, before weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdcli.errors import ModelError, UsageError
from sdcli.models import families, find
from sdcli.models.model import ModelRequest
from sdcli.models.sources import pipeline
from sdcli.models.sources.folder import FolderModel
from sdcli.models.sources.pipeline import PipelineFolder
from sdcli.settings import Settings, default, names

KL = {"latent_channels": 16, "block_out_channels": [8, 8, 8, 8]}
FLUX = {
    "_class_name": "FluxPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder_2": ["transformers", "T5EncoderModel"], "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "image_encoder": [None, None], "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
FLUX_FILES = {"transformer": {"in_channels": 64, "patch_size": 1, "guidance_embeds": True}, "vae": KL}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def write(folder: Path, index: dict[str, Any], files: dict[str, dict[str, Any]]) -> Path:
    """A folder with an index, and the files of the parts that it names; each with one weight, if it is a model."""
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    for part, entry in index.items():
        if not isinstance(entry, list) or entry[0] is None:
            continue
        (folder / part).mkdir()
        if part.startswith(("scheduler", "tokenizer")):
            (folder / part / f"{part}_config.json").write_text("{}")
            continue
        (folder / part / "config.json").write_text(json.dumps(files.get(part, {})))
        save_file({"weight": torch.ones(2, 3)}, folder / part / "model.safetensors")
    return folder


def flux(folder: Path, index: dict[str, Any] | None = None, **transformer: Any) -> PipelineFolder:
    content = FLUX | (index or {})
    files = FLUX_FILES | {"transformer": FLUX_FILES["transformer"] | transformer}
    source = find(ModelRequest(model=str(write(folder, content, files))))
    assert isinstance(source, PipelineFolder)
    return source


def test_flux(folder: Path) -> None:
    spec = flux(folder).spec
    assert (spec.name, spec.family, spec.default_sampler) == ("model", "diffusers", "auto")
    assert (spec.latent_channels, spec.downscale, spec.size_multiple) == (16, 8, 16), "latents are packed 2 x 2"
    assert (spec.default_height, spec.default_width) == (1024, 1024)
    assert (spec.default_steps, spec.default_scale) == (28, 3.5)
    assert spec.pipeline is not None
    assert (spec.pipeline.scale, spec.pipeline.takes_negative_prompt) == ("guidance_scale", False)


def test_a_distilled_flux_has_no_scale(folder: Path) -> None:
    spec = flux(folder, guidance_embeds=False).spec
    assert spec.pipeline is not None and spec.pipeline.scale == "" and spec.default_scale == 1


@pytest.mark.parametrize(
    ("kind", "transformer", "vae", "expected"),
    [
        ("StableDiffusion3Pipeline", {"in_channels": 16, "patch_size": 2, "sample_size": 128}, KL,
         (8, 16, 1024, 28, 7.0, "guidance_scale", True)),
        ("PixArtAlphaPipeline", {"in_channels": 4, "patch_size": 2, "sample_size": 64},
         {"latent_channels": 4, "block_out_channels": [8, 8, 8, 8]}, (8, 16, 512, 20, 4.5, "guidance_scale", True)),
        ("SanaPipeline", {"in_channels": 32, "patch_size": 1, "sample_size": 32},
         {"latent_channels": 32, "encoder_block_out_channels": [8] * 6},
         (32, 32, 1024, 20, 4.5, "guidance_scale", True)),
        ("QwenImagePipeline", {"in_channels": 64, "patch_size": 2},
         {"z_dim": 16, "temperal_downsample": [False, True, True]}, (8, 16, 1024, 50, 4.0, "true_cfg_scale", True)),
    ],
)  # fmt: skip
def test_sizes_and_defaults(
    folder: Path, kind: str, transformer: dict[str, Any], vae: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    index = {
        "_class_name": kind, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "Transformer"], "vae": ["diffusers", "VAE"],
    }  # fmt: skip
    spec = find(ModelRequest(model=str(write(folder, index, {"transformer": transformer, "vae": vae})))).spec
    taken = spec.pipeline
    assert taken is not None
    found = (spec.downscale, spec.size_multiple, spec.default_height, spec.default_steps, spec.default_scale)
    assert (*found, taken.scale, taken.takes_negative_prompt) == expected


def test_the_weights_and_their_hash(folder: Path) -> None:
    source = flux(folder)
    assert set(source.parts) == {"text_encoder", "text_encoder_2", "transformer", "vae"}
    assert source.here() and source.weights() == 4 * 4 * 6
    before = source.hash()
    save_file({"weight": torch.zeros(2, 3)}, folder / "vae" / "model.safetensors")
    assert PipelineFolder.read(folder, name="model").hash() != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_data_type_of_the_files(folder: Path, dtype: torch.dtype) -> None:
    source = flux(folder)
    save_file({"weight": torch.ones(99, 99, dtype=dtype)}, folder / "transformer" / "model.safetensors")
    assert source._dtype() == dtype


def test_parts_that_are_null_are_none(folder: Path) -> None:
    source = flux(folder)
    assert source.values == {"image_encoder": None}
    assert "image_encoder" not in source.classes


def test_checks_and_watermarks_of_the_model_are_not_used(folder: Path) -> None:
    content = {
        "_class_name": "IFPipeline", "requires_safety_checker": True, "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": ["deepfloyd_if", "IFSafetyChecker"], "watermarker": ["deepfloyd_if", "IFWatermarker"],
        "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }  # fmt: skip
    files = {"unet": {"in_channels": 3, "sample_size": 64, "block_out_channels": [8, 8, 8, 8]}}
    source = find(ModelRequest(model=str(write(folder, content, files))))
    assert isinstance(source, PipelineFolder)
    assert source.values == {"safety_checker": None, "watermarker": None, "requires_safety_checker": False}
    assert (source.spec.downscale, source.spec.size_multiple, source.spec.default_height) == (1, 8, 64)
    assert not source.spec.has_safety_checker


class TestCodeOfTheModel:
    """Code that comes with a model is never run."""

    def refused(self, folder: Path, **index: Any) -> ModelError:
        write(folder, FLUX | index, FLUX_FILES)
        (folder / "pipeline.py").write_text("raise SystemExit('the code of the model runs')")
        with pytest.raises(ModelError, match="needs code") as error:
            find(ModelRequest(model=str(folder)))
        return error.value

    def test_a_pipeline(self, folder: Path) -> None:
        assert "pipeline.MyPipeline" in self.refused(folder, _class_name=["pipeline", "MyPipeline"]).what

    @pytest.mark.parametrize(
        "place", [["my_module", "MyModel"], ["os", "system"], ["..", "x"], ["flux/../..", "x"], ["diffusers", "a.b"]]
    )
    def test_a_part(self, folder: Path, place: list[str]) -> None:
        error = self.refused(folder, transformer=place)
        assert f"its transformer is {place[1]} of {place[0]}" in error.what

    @pytest.mark.parametrize("place", [["diffusers", "NoSuchModel"], ["transformers", "NoSuchModel"], ["flux", "No"]])
    def test_a_class_that_the_libraries_do_not_have(self, folder: Path, place: list[str]) -> None:
        source = flux(folder, {"text_encoder": place})
        with pytest.raises(ModelError, match="has no "):
            source.load(torch.device("cpu"), lambda part: pytest.fail(f"{part} is read"))


class TestIncomplete:
    def test_a_folder_is_missing(self, folder: Path) -> None:
        write(folder, FLUX, FLUX_FILES)
        for file in (folder / "vae").iterdir():
            file.unlink()
        with pytest.raises(ModelError, match="has no folder vae"):
            find(ModelRequest(model=str(folder)))

    def test_weights_are_missing(self, folder: Path) -> None:
        write(folder, FLUX, FLUX_FILES)
        (folder / "transformer" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="the folder transformer has no weights"):
            find(ModelRequest(model=str(folder)))

    def test_a_scheduler_is_not_valid(self, folder: Path) -> None:
        write(folder, FLUX, FLUX_FILES)
        (folder / "scheduler" / "scheduler_config.json").write_text("[]")
        with pytest.raises(ModelError, match="does not contain a JSON object"):
            find(ModelRequest(model=str(folder)))

    @pytest.mark.parametrize("fields", [{"num_layers": 10**6}, {"vision": {"depth": 2000}}, {"blocks": [2, 5000]}])
    def test_more_layers_than_any_model_has(self, folder: Path, fields: dict[str, Any]) -> None:
        write(folder, FLUX, FLUX_FILES | {"text_encoder_2": fields})
        with pytest.raises(ModelError, match="out of range"):
            find(ModelRequest(model=str(folder)))

    @pytest.mark.parametrize("value", [0, -1, "many", 10**9, [[]]])
    def test_a_configuration_is_not_valid(self, folder: Path, value: Any) -> None:
        with pytest.raises(ModelError, match="in_channels"):
            flux(folder, in_channels=value)


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
        {"_class_name": "StableDiffusionPAGPipeline"},
        {"_class_name": "NoSuchPipeline", "unet": ["diffusers", "OtherModel"]},
        {"_class_name": "StableDiffusionInpaintPipeline"},
        {},
    ],
)
def test_other_models_are_left_to_the_families(folder: Path, index: dict[str, Any]) -> None:
    own = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    write(folder, own | index, {})
    assert not pipeline.takes(folder)


def test_a_family_of_sdcli_comes_first(small_folder: Path) -> None:
    assert isinstance(find(ModelRequest(model=str(small_folder))), FolderModel)


class TestSettings:
    """What a pipeline does not take is an error by name, before the model loads."""

    OTHER: dict[str, Any] = {  # noqa: RUF012
        "prompt_syntax": "a1111", "long_prompt": "chunk", "clip_skip": 2, "sampler": "euler", "schedule": "karras",
        "sigmas": "3,1", "eta": 0.5, "guidance_rescale": 0.5, "lora": ("a.safetensors",), "embedding": ("a.pt",),
        "vae": "a.safetensors", "negative_prompt": "blurry", "original_size": "512x512", "crop": "0,8",
    }  # fmt: skip
    TAKEN = {"prompt", "steps", "scale", "seed", "rng", "height", "width", "precision"}  # noqa: RUF012

    def test_every_setting_of_an_image_is_tested(self) -> None:
        assert self.OTHER.keys() | self.TAKEN == {*names("image")}
        assert all(value != default(name) for name, value in self.OTHER.items())

    @pytest.mark.parametrize("name", OTHER)
    def test_it_is_refused(self, folder: Path, name: str) -> None:
        spec = flux(folder).spec
        with pytest.raises(UsageError, match="does not work with the model model") as error:
            families.get(spec.family).require(Settings.of(**{name: self.OTHER[name]}), spec)
        assert error.value.settings == (name,)

    def test_a_scale_that_has_no_effect(self, folder: Path) -> None:
        spec = flux(folder, guidance_embeds=False).spec
        with pytest.raises(UsageError, match=r"--scale 4\.5 does not work"):
            families.get(spec.family).require(Settings.of(scale=4.5), spec)
        families.get(spec.family).require(Settings.of(scale=1.0), spec)  # as the record of an image has it

    def test_defaults_are_said(self, folder: Path) -> None:
        spec = flux(folder).spec
        require = families.get(spec.family).require
        assert require(Settings.of(steps=28), spec) == [
            "by default of FluxPipeline: 28 steps, scale 3.5, 1024 x 1024 pixels"
        ]
        assert require(Settings.of(steps=4, scale=2.0, height=64, width=64), spec) == []
