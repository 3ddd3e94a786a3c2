"""What the source text of the installed diffusers says of its pipelines."""

from __future__ import annotations

import inspect
import subprocess
import sys

import diffusers
import pytest

from sdcli.models import pipeline_class
from sdcli.models.pipeline_class import REQUIRED, UNKNOWN


@pytest.mark.parametrize("name", ["FluxPipeline", "PixArtAlphaPipeline", "OmniGenPipeline", "WuerstchenPriorPipeline"])
def test_parameters_are_those_of_the_class(name: str) -> None:
    found = pipeline_class.find(name)
    assert found is not None
    pipeline = getattr(diffusers, name)
    signature = inspect.signature(pipeline.__call__).parameters
    named = [name for name, each in signature.items() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    assert ["self", *found.parameters] == named
    for parameter, value in found.parameters.items():
        if value is not UNKNOWN:
            expected = signature[parameter].default
            assert value == (REQUIRED if expected is inspect.Parameter.empty else expected), parameter
    assert ["self", *found.arguments] == [*inspect.signature(pipeline.__init__).parameters]


@pytest.mark.parametrize(
    "name",
    ["StableDiffusion3Pipeline", "FluxPipeline", "FluxKontextPipeline", "Flux2Pipeline", "PixArtAlphaPipeline",
     "SanaPipeline", "SanaSprintPipeline", "QwenImagePipeline", "Lumina2Pipeline", "KolorsPipeline", "ZImagePipeline",
     "HunyuanDiTPipeline", "CogView4Pipeline", "ChromaPipeline", "IFPipeline", "Kandinsky3Pipeline"],
)  # fmt: skip
def test_a_prompt_is_all_that_it_needs(name: str) -> None:
    found = pipeline_class.find(name)
    assert found is not None and found.makes_images_of_text


@pytest.mark.parametrize(
    "name",
    ["StableDiffusion3Img2ImgPipeline", "FluxFillPipeline", "FluxControlNetPipeline", "FluxControlPipeline",
     "QwenImageEditPipeline", "WanPipeline", "AnimateDiffPipeline", "StableAudioPipeline", "KandinskyPipeline",
     "WuerstchenPriorPipeline", "HeliosPipeline", "StableDiffusionUpscalePipeline", "ShapEPipeline"],
)  # fmt: skip
def test_it_needs_more_than_a_prompt_or_makes_something_else(name: str) -> None:
    found = pipeline_class.find(name)
    assert found is not None and not found.makes_images_of_text


@pytest.mark.parametrize(
    "name", ["", "NoSuchPipeline", "DiffusionPipeline", "Flux.*", "../FluxPipeline", "FluxPipeline("]
)
def test_there_is_no_such_pipeline(name: str) -> None:
    assert pipeline_class.find(name) is None


@pytest.mark.slow
def test_diffusers_table_has_only_pipelines_that_exist() -> None:
    table = diffusers.pipelines.auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    for pipeline in table:
        found = pipeline_class.find(pipeline.__name__)
        assert found is not None and found.in_table


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from sdcli.models import pipeline_class; "
        "assert pipeline_class.find('FluxPipeline').default('num_inference_steps') == 28; "
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
