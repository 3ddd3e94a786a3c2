"""Reading `parameters` texts, whichever tool wrote them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sdcli.metadata import Provenance, provenance
from tests.unit.metadata.test_texts import DATA, GRAPH, read


def found(text: str, **texts: str) -> Provenance:
    result = provenance({"parameters": text, **texts})
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("end", "tool", "version", "rng"),
    [
        ("", "AUTOMATIC1111's web UI", "", "cuda"),
        ("Version: v1.10.1", "AUTOMATIC1111's web UI", "v1.10.1", "cuda"),
        ("Version: 1.6.0-2-g4afaaf8a", "AUTOMATIC1111's web UI", "1.6.0-2-g4afaaf8a", "cuda"),
        ("RNG: CPU, Version: v1.6.0", "AUTOMATIC1111's web UI", "v1.6.0", "cpu"),
        ("Version: f2.0.1v1.10.1-previous-659-gc055f2d4", "Forge", "f2.0.1v1.10.1-previous-659-gc055f2d4", "cuda"),
        (
            "Version: f1.0.0v2-v1.10.1RC-latest-2502-g630cf49b",
            "reForge",
            "f1.0.0v2-v1.10.1RC-latest-2502-g630cf49b",
            "cuda",
        ),
        ("Version: f0.0.17v1.8.0rc-latest-276-g29be1da7", "Forge", "f0.0.17v1.8.0rc-latest-276-g29be1da7", "cuda"),
        ("RNG: CPU, Version: neo", "Forge Neo", "neo", "cpu"),
        ("Version: neo", "Forge Neo", "neo", None),
        ("RNG: NV, Version: classic", "Forge Classic", "classic", "cuda"),
        ("Version: ComfyUI", "ComfyUI", "", "cpu"),
        ("Version: ComfyUI v0.3.2", "ComfyUI", "v0.3.2", "cpu"),
        ("rng: cpu, Version: stable-diffusion.cpp", "stable-diffusion.cpp", "", "cpu"),
        ("RNG: cuda, Version: sd.cpp", "stable-diffusion.cpp", "", "cuda"),
        ("RNG: std_default, Version: stable-diffusion.cpp", "stable-diffusion.cpp", "", None),
        ("Version: Fooocus v2.5.5", "Fooocus", "v2.5.5", "cpu"),
        ("App: SD.Next, Version: 1a2b3c4, Pipeline: Diffusers", "SD.Next", "1a2b3c4", "cuda"),
        ("Version: Something 3", "not known", "Something 3", None),
        ("Civitai resources: []", "Civitai", "", None),
    ],
)
def test_each_writer_has_its_name_and_its_noise(end: str, tool: str, version: str, rng: str | None) -> None:
    result = found(f"a cat\nSteps: 4, Sampler: DDIM, Seed: 1, {end}".rstrip(", "))
    assert (result.tool, result.version, result.settings.get("rng")) == (tool, version, rng)


@pytest.mark.parametrize(
    ("values", "left_out"),
    [
        ("Clip skip: 1, ENSD: 0, Denoising strength: 1.0, Batch size: 4, Batch pos: 2, VAE: None, Tiling: False", ""),
        ("Eta: 0, Model: m, UNet: x, Parser: y, Version: v1.10", "Eta, UNet, Parser"),
        ("CFG rescale: 0, Batch: 2x1, Index: 1x2, Parser: a1111, Operations: txt2img, App: SD.Next", ""),
        (
            "CFG rescale: 0.7, Operations: txt2img; hires, Model: m, UNet: x, App: SD.Next",
            "Operations, UNet",
        ),
        ("Guidance: 3.500000, Eta: 0.000000, Sampler RNG: cuda, RNG: cuda, Version: stable-diffusion.cpp", ""),
        ("Eta: inf, Model: , Unet: x.gguf, Version: stable-diffusion.cpp", ""),
        ("Eta: 0.500000, RNG: cuda, Sampler RNG: cpu, Version: stable-diffusion.cpp", "Eta, Sampler RNG"),
        ("Module 1: ae, Distilled CFG Scale: 3.5, Version: f2.0.1v1.10.1", "Module 1, Distilled CFG Scale"),
        ('Raw prompt: a, Styles: "[x]", VAE: Default (model), Sharpness: 2, Version: Fooocus v2.5.5', "Sharpness"),
        ("Civitai resources: [], Created Date: 2025, Civitai metadata: {}", ""),
    ],
)
def test_values_without_an_effect_are_no_note(values: str, left_out: str) -> None:
    result = found(f"a cat\nSteps: 4, Sampler: DDIM, CFG scale: 7, Seed: 1, {values}")
    assert ", ".join(name for name in result.other if name not in result.harmless) == left_out


def test_fooocus_writes_the_schedule_twice() -> None:
    line = "Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 5, Scheduler: karras, Version: Fooocus v2.5.5"
    settings = found(f"a cat\n{line}").settings
    assert (settings["sampler"], settings["schedule"]) == ("dpmpp_2m_sde", "karras")


def test_other_texts_of_the_file_show_the_writer() -> None:
    result = found("a cat\nSteps: 4, Sampler: DDIM, Seed: 1", smproj="{}")
    assert (result.tool, result.settings["rng"]) == ("Stability Matrix", "cpu")


LINE = "Steps: 4, Sampler: DDIM, Seed: 1"


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        (f"a cat\n{LINE}", "a cat", ""),
        (f"\n{LINE}", "", ""),
        (LINE, "", ""),
        (f"Negative prompt: dog\n{LINE}", "", "dog"),
        (f'a sign, "Negative prompt: dog"\n{LINE}', 'a sign, "Negative prompt: dog"', ""),
        (f"a cat\nSteps: 20 of a ladder\n{LINE}", "a cat\nSteps: 20 of a ladder", ""),
        (f"a cat, Steps: 20\nNegative prompt: Steps: 3\n{LINE}", "a cat, Steps: 20", "Steps: 3"),
        (f"a cat\n{LINE}\nTemplate: a {{cat|dog}}\nSteps: 9\nSeed: 8", "a cat", ""),
        (f"a cat\nNegative prompt: dog\nNegative prompt: fox\n{LINE}", None, None),
    ],
)
def test_where_the_prompts_end(text: str, prompt: str | None, negative: str | None) -> None:
    result = found(text)
    assert (result.settings.get("prompt"), result.settings.get("negative_prompt")) == (prompt, negative)
    assert (result.settings["steps"], result.settings["seed"]) == (4, 1)
    assert bool(result.notes) == (prompt is None)


@pytest.mark.parametrize(
    ("values", "settings", "note"),
    [
        ("Size: 512\xd7768", {"width": 512, "height": 768}, ""),
        ("Size: 512 x 768", {"width": 512, "height": 768}, ""),
        ("Size-1: 512, Size-2: 768", {"width": 512, "height": 768}, ""),
        ("Size: 512, CFG scale: 7", {"width": 512, "scale": 7.0}, ""),
        ("Size: large", {}, "'large' of Size"),
        ("Seed: -1", {}, "'-1' of Seed"),
        ("Seed: 1,234,567, CFG scale: 7,5", {}, "'1,234,567' of Seed"),
        ("Seed: 1_000", {}, "'1_000' of Seed"),
        ("Seed: 1.000.000", {}, "'1.000.000' of Seed"),
        ("Seed: 18446744073709551615", {"seed": 18446744073709551615}, ""),
        ("Seed: 1, Seed: 2", {}, "several values of seed"),
        ("Seed: 1, Seed: 1", {"seed": 1}, ""),
        ("Model hash: aabbcc, Refine, Seed: 1", {"model_hash": "aabbcc", "seed": 1}, ""),
        ("Model: a, b (c), Seed: 1", {"model": "a, b (c)", "seed": 1}, ""),
        ("Model: , Unet: flux.gguf", {"model": "flux.gguf"}, ""),
        ("Eta: 0.67, Precision: full", {}, ""),
        ("Sampler: DDIM, Eta DDIM: 0.5", {"sampler": "ddim", "schedule": "leading", "eta": 0.5}, ""),
        ("CFG Rescale: 0.7, Seed: 1", {"guidance_rescale": 0.7, "seed": 1}, ""),
        ("CFG Rescale: x, Seed: 1", {"seed": 1}, "'x' of CFG Rescale"),
    ],
)
def test_values_that_are_certain(values: str, settings: dict[str, Any], note: str) -> None:
    result = found(f"a cat\nSteps: 4, {values}, Version: v1.10.1")
    read = {"prompt": "a cat", "negative_prompt": "", "steps": 4, "rng": "cuda"}
    assert result.settings == read | settings
    assert note in "".join(result.notes)
    assert bool(note) == bool(result.notes)


@pytest.mark.parametrize(
    ("values", "other"),
    [
        (r'Hires prompt: "a \"b\",\nc: d"', {"Hires prompt": 'a "b",\nc: d'}),
        (r'Styles: "a\d, b: c"', {"Styles": r"a\d, b: c"}),
        ("Skip layers: [7, 8, 9, ]", {"Skip layers": "[7, 8, 9, ]"}),
        ("TE: a.gguf, TE: b.gguf", {"TE": "a.gguf, b.gguf"}),
        ("Schedule rho: 5, Refine, Operations: txt2img; hires",
         {"Schedule rho": "5", "Refine": "Refine", "Operations": "txt2img; hires"}),
        ('Hashes: {"m":"x: 1, y"}, Civitai resources: [{"modelName":"A, b"}]',
         {"Hashes": '{"m":"x: 1, y"}', "Civitai resources": '[{"modelName":"A, b"}]'}),
    ],
)  # fmt: skip
def test_other_values(values: str, other: dict[str, str]) -> None:
    result = found(f"a cat\nSteps: 4, {values}, Seed: 1")
    assert (result.other, result.settings["seed"]) == (other, 1)


@pytest.mark.parametrize(
    ("values", "sampler", "schedule", "note"),
    [
        ("Sampler: DDIM, Version: ComfyUI", "ddim", None, True),
        ("Sampler: ddim_normal, Version: ComfyUI", "ddim", "linspace", False),
        ("Sampler: dpmpp_2m, Scheduler: karras, Version: ComfyUI", "dpmpp_2m", "karras", False),
        ("Sampler: dpmpp_2m_sde_sgm_uniform, Version: ComfyUI", "dpmpp_2m_sde", "sgm_uniform", False),
        ("Sampler: euler, Scheduler: beta, Version: ComfyUI", "euler", "ComfyUI beta", False),
        ("Sampler: DPM++ 2M, Schedule type: Beta", "dpmpp_2m", "beta", False),
        ("Sampler: DPM++ 2M, Schedule type: Karras", "dpmpp_2m", "karras", False),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpmpp_2m", "karras", False),
        ("Sampler: DPM++ 3M SDE, Schedule type: Automatic", "dpmpp_3m_sde", "exponential", False),
        ("Sampler: Euler, Schedule type: Automatic", "euler", "linspace", False),
        ("Sampler: DPM++ 2S a, Schedule type: Automatic", "DPM++ 2S a", "karras", False),
        ("Sampler: DPM++ 2S a Karras", "DPM++ 2S a", "karras", False),
        ("Sampler: UniPC, Schedule type: Karras, Version: v1.10.1", "unipc", "leading", False),
        ("Sampler: UniPC, Version: SD.Next 1234567", "unipc", None, False),
        ("Sampler: Euler a, Created Date: 2026, Civitai resources: []", "euler_a", None, False),
        ("Sampler: euler_a karras, RNG: cuda, Version: stable-diffusion.cpp", "euler_a", "karras", False),
        ("Sampler: dpm++2m, RNG: cuda, Version: stable-diffusion.cpp", "dpmpp_2m", "linspace", False),
        ("Sampler: DPM++ 2M, Version: sdcli 0.1.0", "dpm_solver", None, True),
        ("Sampler: DPM++ 2M, Schedule type: Simple, Version: sdcli 9", "dpmpp_2m", "trailing", True),
        ("Sampler: dpm++2mv2 gits, RNG: cuda, Version: stable-diffusion.cpp", "dpm++2mv2", "gits", False),
    ],
)
def test_samplers_with_their_schedules(values: str, sampler: str, schedule: str | None, note: bool) -> None:
    result = found(f"a cat\nSteps: 4, {values}")
    assert (result.settings["sampler"], result.settings.get("schedule")) == (sampler, schedule)
    assert bool(result.notes) == note


def test_a_text_without_steps() -> None:
    text = "a cat\nNegative prompt: dog\nCreated Date: 2026-01-04T01:27:21.27Z, Civitai resources: []"
    for name in ("parameters", "UserComment"):
        result = provenance({name: text})
        assert result is not None
        assert (result.tool, result.settings) == ("Civitai", {"prompt": "a cat", "negative_prompt": "dog"})
    assert found("a cat\nSeed: 1, Size: 64x64").tool == "not known"
    assert provenance({"UserComment": "Model: X100, Size: 3000x2000"}) is None


def test_a_text_without_version_beside_a_graph_is_of_comfyui() -> None:
    result = found("a cat\nSteps: 4, Sampler: ddim, Scheduler: normal, Seed: 1", prompt=json.dumps(GRAPH))
    assert (result.tool, result.settings["rng"], result.settings["prompt"]) == ("ComfyUI", "cpu", "a cat")


EXPECTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "webui-pipes-between-values.png": (
        {"prompt": "an old boat", "negative_prompt": "fog", "seed": 1879, "sampler": "euler_a", "width": 768,
         "height": 512, "scale": 7.0, "steps": 25, "model": "some-model", "model_hash": "aabbccdd",
         "clip_skip": 2},
        {"Clip skip": None, "Pipeline": "Original"},
    ),
    "webui-civitai-resources.png": (
        {"prompt": "an old boat", "negative_prompt": "fog", "seed": 1311, "width": 832, "height": 1216},
        {"Clip skip": None, "Created Date": "2026-01-04T01:27:21.27Z", "Civitai metadata": "{}"},
    ),
    "webui-newline-in-quoted-value.png": (
        {"prompt": "an old boat", "negative_prompt": "fog", "model": "some-model"},
        {"Wildcard prompt": "an __age__ boat,\non a lake"},
    ),
    "webui-template-after-last-line.png": (
        {"prompt": "an old boat on a lake", "negative_prompt": "fog", "seed": 12, "model_hash": "aabbccdd"},
        {"Template": "an {old|new} boat on a lake", "Negative Template": "fog"},
    ),
    "webui-ddim-schedule-automatic.png": ({"sampler": "ddim"}, {}),
    "sdcpp-latin1-chunk-of-utf8-and-cpu-noise.png": (
        {"prompt": "an old boat, 舟", "negative_prompt": "fog", "rng": "cpu", "seed": 42, "model": "some-model.ckpt"},
        {"Guidance": "3.500000"},
    ),
    "comfyui-placeholder-parameters-beside-graph.png": (
        {"prompt": "an old boat", "negative_prompt": "fog", "seed": 5, "sampler": "ddim", "scale": 7.0, "rng": "cpu",
         "height": 768},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_files_of_other_tools(name: str) -> None:
    result = read(DATA / name)
    settings, other = EXPECTED[name]
    assert settings == {key: result.settings.get(key) for key in settings}
    assert other == {key: result.other.get(key) for key in other}


def test_keys_have_any_case() -> None:
    result = found("a cat\nNegative Prompt: dog\nsteps: 4, sampler: ddim, CFG Scale: 8.0, SEED: 3, size: 64X128")
    assert result.settings == {
        "prompt": "a cat", "negative_prompt": "dog", "steps": 4, "sampler": "ddim", "schedule": "leading", "scale": 8.0,
        "seed": 3, "rng": "cuda", "width": 64, "height": 128,
    }  # fmt: skip


def test_carriage_returns_end_lines() -> None:
    result = found("a cat,\r\nby the sea\r\nNegative prompt: dog\r\nSteps: 4, Sampler: DDIM\r\n")
    assert (result.settings["prompt"], result.settings["negative_prompt"]) == ("a cat,\nby the sea", "dog")
    assert result.settings["sampler"] == "ddim"


def test_a_value_is_json_without_quotes() -> None:
    value = '{"Seed: 7": ["a, b", {"Steps: 9": "]"}]}'
    result = found(f"a cat\nSteps: 4, Hashes: {value}, Seed: 1")
    assert (result.settings["steps"], result.settings["seed"], result.other) == (4, 1, {"Hashes": value})


@pytest.mark.parametrize("text", ["a cat", "unknown\nSteps: unknown, Version: ComfyUI", "%date%"])
def test_a_text_without_values_does_not_hide_the_graph(text: str) -> None:
    result = found(text, prompt=json.dumps(GRAPH))
    assert (result.tool, result.settings["prompt"], result.settings["steps"]) == ("ComfyUI", "ein 猫", 20)


def test_a_placeholder_is_no_prompt() -> None:
    result = found("unknown\nNegative prompt: unknown\nSteps: 20, Seed: 0, Version: ComfyUI")
    assert "prompt" in result.unknown
    assert "negative_prompt" not in result.settings


@pytest.mark.parametrize(
    "text",
    [
        "Steps" + ":" * 500_000,
        "Steps: 1, " + "a: b, " * 50_000,
        "Steps: 1, " + 'a:["' * 100_000,
        "Steps: 1, a:" + "[" * 500_000,
        "x\n" * 300_000 + "Steps: 1" + "\nA: b" * 100_000,
        "Version: ," * 100_000 + "\nSteps: 1",
        "Steps: 1, a:" + '{",":' * 100_000,
        "Steps: 1, " + 'a:"\\d, ' * 100_000,
        "Seed: 1, Size: 2\n" * 50_000,
        "Steps: 1, Size: " + "1" * 500_000,
    ],
)
def test_long_texts_are_read_fast(text: str) -> None:
    start = time.process_time()
    found(text)
    assert time.process_time() - start < 10, "quadratic time takes 20 seconds"
