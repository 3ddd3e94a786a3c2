"""Reading how an image was generated from the metadata of sdcli, of other tools, and of damaged files."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdcli.metadata import a1111, provenance, record_in, texts
from sdcli.metadata.provenance import Provenance, kinds, needed
from sdcli.records import ImageRecord, WatermarkRecord
from sdcli.registry import SAMPLERS
from sdcli.sampler_names import SCHEDULES
from tests.jobs import job

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])).map(str.strip)


def found(**read: str) -> Provenance:
    result = provenance(read)
    assert result is not None
    return result


def test_every_needed_setting_has_a_type() -> None:
    assert set(needed()) <= kinds().keys()
    assert set(needed()) == {"prompt", "seed", "steps", "sampler", "scale", "height", "width", "model"}


class TestRecord:
    def test_it_has_priority_over_other_metadata(self) -> None:
        record = ImageRecord(sdcli="9", job=job(prompt="a dog"))
        result = found(sdcli=json.dumps(record.values()), parameters=a1111.write(job()), prompt="{}")
        assert (result.tool, result.version, result.unreadable) == ("sdcli", "9", "")
        assert result.record is not None
        assert result.record.values() == {**record.values(), "schema": 1}
        assert result.settings["prompt"] == "a dog"
        assert result.unknown == []

    @pytest.mark.parametrize("record", ["", "{", "[]", "null", "7", '{"job": 7}', '{"sdcli": "1"}', "[" * 100_000])
    def test_a_damaged_record_is_ignored(self, record: str) -> None:
        assert provenance({"sdcli": record}) is None
        assert found(sdcli=record, parameters=a1111.write(job())).record is None

    def test_a_record_of_a_newer_version_is_read_as_far_as_possible(self) -> None:
        record = {"sdcli": "9", "schema": 99, "job": {**job().model_dump(mode="json"), "lora": "x"}}
        result = found(sdcli=json.dumps(record))
        assert (result.tool, result.version, result.record) == ("sdcli", "9", None)
        assert "sdcli 9 with schema 99" in result.unreadable
        assert result.notes == (f"the record cannot be read: {result.unreadable}",)
        assert result.settings["prompt"] == "a cat"
        assert record_in({"sdcli": json.dumps(record)}) is None

    def test_a_record_without_a_job_is_found(self) -> None:
        """`sdcli watermark --add` writes it."""
        record = ImageRecord.new(watermark=WatermarkRecord(text="mine", method="robust"))
        texts_of_file = {"sdcli": json.dumps(record.values())}
        assert record_in(texts_of_file) == record
        assert provenance(texts_of_file) is None

    def test_values_of_the_wrong_type_are_left_out(self) -> None:
        values = {"prompt": 7, "steps": "many", "seed": True, "scale": float("inf"), "width": 1.5, "height": "64"}
        assert found(sdcli=json.dumps({"job": values})).settings == {"height": 64}


class TestA1111:
    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            (
                {"precision": "autocast"},
                "a cat\nSteps: 20, Sampler: PLMS, CFG scale: 7.5, Seed: 7, Size: 128x64, Model hash: 0123456789, "
                "Model: builtin, RNG: NV, Version: sdcli 9",
            ),
            (
                {"negative_prompt": "dog", "sampler": "ddim", "eta": 0.5, "rng": "cpu", "model": "a, b"},
                "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 128x64, "
                'Model hash: 0123456789, Model: "a, b", Eta: 0.5, Precision: full, RNG: CPU, Version: sdcli 9',
            ),
            (
                {"sampler": "dpmpp_2m_sde", "schedule": "sgm_uniform", "precision": "autocast"},
                "a cat\nSteps: 20, Sampler: DPM++ 2M SDE, Schedule type: SGM Uniform, CFG scale: 7.5, Seed: 7, "
                "Size: 128x64, Model hash: 0123456789, Model: builtin, RNG: NV, Version: sdcli 9",
            ),
        ],
    )
    def test_text_of_a_job(self, changes: dict[str, object], text: str) -> None:
        assert a1111.write(job(**changes), "9") == text

    @given(
        TEXTS,
        TEXTS,
        TEXTS,
        st.integers(0, 2**64 - 1),
        st.sampled_from(list(SAMPLERS)),
        st.sampled_from(list(SCHEDULES)),
    )
    def test_a_written_text_is_read_back(
        self, prompt: str, negative: str, model: str, seed: int, sampler: str, schedule: str
    ) -> None:
        one = job(prompt=prompt, negative_prompt=negative, model=model, seed=seed, sampler=sampler, schedule=schedule)
        result = found(parameters=a1111.write(one, "9"))
        same = ("prompt", "negative_prompt", "model", "seed", "sampler", "steps", "scale", "width", "height", "rng",
                "precision")  # fmt: skip
        assert {name: result.settings[name] for name in same} == one.model_dump(include=set(same))
        assert result.settings.get("schedule", "auto") == schedule
        assert (result.tool, result.version) == ("sdcli", "9")

    def test_a_text_of_the_web_ui(self) -> None:
        result = found(
            parameters="a castle, (dusk:1.2)\nby the sea <lora:mist:0.6>\nNegative prompt: people,\ncars\n"
            "Steps: 28, Sampler: Euler a, Schedule type: Automatic, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, "
            'Model hash: a1b2c3d4e5, Model: coast_v2, Denoising strength: 0.4, Lora hashes: "mist: 0f0f, fog: 1e1e", '
            "Clip skip: 2, Version: v1.9.4"
        )
        assert (result.tool, result.version) == ("AUTOMATIC1111's web UI", "v1.9.4")
        assert result.settings == {
            "prompt": "a castle, (dusk:1.2)\nby the sea <lora:mist:0.6>", "negative_prompt": "people,\ncars",
            "seed": 3141592653, "rng": "cuda", "steps": 28, "sampler": "euler_a", "schedule": "linspace",
            "scale": 6.5, "width": 512, "height": 768, "model": "coast_v2", "model_hash": "a1b2c3d4e5",
            "prompt_syntax": "a1111", "clip_skip": 2,
        }  # fmt: skip
        assert result.other == {"Denoising strength": "0.4", "Lora hashes": "mist: 0f0f, fog: 1e1e"}

    @pytest.mark.parametrize(
        ("written", "own"),
        [
            ("Sampler: DDIM", ("ddim", "leading")),
            ("Sampler: PLMS, Schedule type: Karras", ("plms", "leading")),
            ("Sampler: DPM++ 2M", ("dpmpp_2m", "linspace")),
            ("Sampler: DPM++ 2M, Schedule type: Uniform", ("dpmpp_2m", "linspace")),
            ("Sampler: DPM++ 2M Karras", ("dpmpp_2m", "karras")),
            ("Sampler: DPM++ 2M, Schedule type: Karras", ("dpmpp_2m", "karras")),
            ("Sampler: Restart, Schedule type: KL Optimal", ("Restart", "KL Optimal")),
        ],
    )
    def test_samplers_that_sdcli_has_get_its_name(self, written: str, own: tuple[str, str]) -> None:
        settings = found(parameters=f"x\nSteps: 4, {written}, Seed: 1").settings
        assert (settings["sampler"], settings["schedule"]) == own

    def test_missing_and_invalid_values_are_unknown(self) -> None:
        result = found(parameters="Steps: 20, Seed: ?, Size: 512")
        assert result.settings["prompt"] == ""
        assert result.unknown == ["height", "sampler", "scale", "seed", "model"]

    def test_a_comment_of_a_camera_is_not_a_prompt(self) -> None:
        assert provenance({"UserComment": "Holiday, 1999"}) is None
        assert found(UserComment="a cat\nSteps: 2, Seed: 1").settings["prompt"] == "a cat"

    def test_parameters_of_an_unknown_format_are_kept(self) -> None:
        result = found(parameters='{"a": 1}')
        assert (result.tool, result.settings, result.other) == ("not known", {}, {"parameters": '{"a": 1}'})

    @pytest.mark.parametrize(
        "text", ["Steps" * 200_000, "Steps: 1, " + 'a:"b, ' * 100_000, ":" * 500_000, '"' * 500_000]
    )
    def test_long_invalid_text_is_read_fast(self, text: str) -> None:
        provenance({"parameters": text})


class TestUserComment:
    TEXT = "ein 猫\nSteps: 2, Seed: 1"

    @pytest.mark.parametrize(
        "data",
        [
            b"UNICODE\0" + TEXT.encode("utf-16-be"),
            b"UNICODE\0" + TEXT.encode("utf-16-le"),
            b"\0" * 8 + TEXT.encode(),
            TEXT.encode(),
        ],
    )
    def test_encodings_that_tools_use(self, data: bytes) -> None:
        assert texts.decode_comment(data) == self.TEXT

    def test_ascii(self) -> None:
        assert texts.decode_comment(b"ASCII\0\0\0a cat") == "a cat"

    @pytest.mark.parametrize("data", [b"", b"UNICODE\0\xd8", b"ASCII\0\0\0\xff", b"\xff\xfe\xfd" * 9])
    def test_other_texts_are_read_despite_a_damaged_comment(self, data: bytes) -> None:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = data
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif.tobytes(), xmp=texts.xmp('{"job": {"steps": 3}}'))
        with Image.open(buffer) as image:
            image.load()
            result = provenance(texts.read(image))
        assert result is not None
        assert result.settings == {"steps": 3}


class TestXmp:
    def read(self, xmp: bytes) -> dict[str, str]:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "WEBP", xmp=xmp)
        with Image.open(buffer) as image:
            image.load()
            return texts.read(image)

    def test_a_packet_that_another_program_has_rewritten(self) -> None:
        rewritten = (
            '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description xmlns:q="urn:sdcli" '
            "q:record='{&quot;a&quot;: &quot;&lt;&amp;&quot;}'/></r:RDF>"
        )
        assert self.read(rewritten.encode()) == {"sdcli": '{"a": "<&"}'}

    @pytest.mark.parametrize(
        "xmp",
        [
            b"<a", b"", b"\xff\xfe", b"<a/>",
            b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a xmlns="urn:sdcli"><record>&c;</record></a>',
            b'<a xmlns="urn:sdcli">' + b"<b>" * 50_000,
        ],
    )  # fmt: skip
    def test_damaged_and_malicious_packets_are_ignored(self, xmp: bytes) -> None:
        assert self.read(xmp) == {}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampler(**changes: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "seed": 156680208700286, "steps": 20, "cfg": 8, "sampler_name": "ddim", "scheduler": "normal", "denoise": 1,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
    }  # fmt: skip
    return node("KSampler", **(inputs | changes))


GRAPH: dict[str, Any] = {
    "3": sampler(),
    "4": node("CheckpointLoaderSimple", ckpt_name="sd15\\tide.safetensors"),
    "5": node("EmptyLatentImage", width=512, height=640, batch_size=1),
    "6": node("CLIPTextEncode", text="a lighthouse, 灯台", clip=["4", 1]),
    "7": node("CLIPTextEncode", text="fog", clip=["4", 1]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", filename_prefix="x", images=["8", 0]),
}
SETTINGS = {
    "prompt": "a lighthouse, 灯台", "negative_prompt": "fog", "seed": 156680208700286, "rng": "cpu", "steps": 20,
    "sampler": "ddim", "schedule": "linspace", "scale": 8.0, "width": 512, "height": 640,
    "model": "tide.safetensors",
}  # fmt: skip


class TestComfyUI:
    def test_a_plain_graph(self) -> None:
        result = found(prompt=json.dumps(GRAPH), workflow="{}")
        assert (result.tool, result.settings, result.notes, result.unknown) == ("ComfyUI", SETTINGS, (), [])
        assert result.other == {"scheduler": "normal"}

    def test_a_graph_of_the_editor(self) -> None:
        def box(number: int, kind: str, widgets: list[Any], **inputs: int) -> dict[str, Any]:
            sockets = [{"name": name, "type": "?", "link": link} for name, link in inputs.items()]
            return {"id": number, "type": kind, "widgets_values": widgets, "inputs": sockets}

        workflow = {
            "nodes": [
                box(3, "KSampler", [156680208700286, "randomize", 20, 8, "ddim", "normal", 1],
                    model=1, positive=2, negative=3, latent_image=4),
                box(4, "CheckpointLoaderSimple", ["sd15/tide.safetensors"]),
                box(5, "EmptyLatentImage", [512, 640, 1]),
                box(6, "CLIPTextEncode", ["a lighthouse, 灯台"], clip=5),
                box(7, "CLIPTextEncode", ["fog"], clip=5),
            ],
            "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "C"], [3, 7, 0, 3, 2, "C"], [4, 5, 0, 3, 3, "LATENT"],
                      [5, 4, 1, 6, 0, "CLIP"]],
        }  # fmt: skip
        assert found(workflow=json.dumps(workflow)).settings == SETTINGS

    def test_links_are_followed_through_other_nodes(self) -> None:
        graph = GRAPH | {
            "3": sampler(model=["20", 0], positive=["21", 0], seed=["24", 0], sampler_name="euler", scheduler="karras"),
            "20": node("LoraLoader", lora_name="mist.safetensors", model=["4", 0], clip=["4", 1]),
            "21": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["22", 0]),
            "22": node("CLIPTextEncode", text=["23", 0], clip=["20", 1]),
            "23": node("PrimitiveString", value="at dusk"),
            "24": node("PrimitiveInt", value=5),
        }
        result = found(prompt=json.dumps(graph))
        assert result.settings == SETTINGS | {
            "prompt": "a lighthouse, 灯台, at dusk",
            "seed": 5,
            "sampler": "euler",
            "schedule": "karras",
        }
        assert result.other == {"scheduler": "karras", "loras": ["mist.safetensors"]}

    def test_the_first_of_two_samplers_has_the_settings(self) -> None:
        second = sampler(steps=8, denoise=0.4, latent_image=["11", 0])
        graph = {"10": second, "11": node("LatentUpscale", samples=["3", 0], width=1024, height=1280), **GRAPH}
        result = found(prompt=json.dumps(graph))
        assert result.settings == SETTINGS
        assert "2 samplers" in result.notes[0]

    def test_a_sampler_with_separate_nodes_for_its_settings(self) -> None:
        graph = GRAPH | {
            "3": node("SamplerCustomAdvanced", noise=["30", 0], guider=["31", 0], sampler=["32", 0], sigmas=["33", 0],
                      latent_image=["5", 0]),
            "30": node("RandomNoise", noise_seed=156680208700286),
            "31": node("CFGGuider", cfg=8, model=["4", 0], positive=["6", 0], negative=["7", 0]),
            "32": node("KSamplerSelect", sampler_name="ddim"),
            "33": node("BasicScheduler", scheduler="normal", steps=20, denoise=1, model=["4", 0]),
        }  # fmt: skip
        assert found(prompt=json.dumps(graph)).settings == SETTINGS

    def test_image_to_image_has_no_size(self) -> None:
        graph = GRAPH | {"5": node("VAEEncode", pixels=["40", 0], vae=["4", 2]), "40": node("LoadImage", image="a.png")}
        result = found(prompt=json.dumps(graph))
        assert result.unknown == ["height", "width"]
        assert "another image" in result.notes[0]

    def test_nan_is_accepted(self) -> None:
        text = json.dumps(GRAPH).replace(
            '{"class_type": "SaveImage"', '{"is_changed": [NaN], "class_type": "SaveImage"'
        )
        assert found(prompt=text).settings == SETTINGS

    def test_a_graph_with_cycles(self) -> None:
        graph = GRAPH | {
            "3": sampler(seed=["50", 0], positive=["50", 0], latent_image=["50", 0], model=["3", 0]),
            "50": node("A", seed=["51", 0], latent_image=["51", 0], text=["51", 0]),
            "51": node("B", seed=["50", 0], latent_image=["50", 0], samples=["3", 0], text=["50", 0]),
        }
        assert found(prompt=json.dumps(graph)).tool == "ComfyUI"

    def test_a_graph_without_a_known_sampler(self) -> None:
        result = found(prompt=json.dumps({"1": node("SaveImage", images=["2", 0])}))
        assert (result.tool, result.settings) == ("ComfyUI", {})
        assert result.notes

    json_values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["3", "KSampler"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["3", "class_type", "inputs", "nodes", "links", "id", "type", "widgets_values", "model", "link"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )

    @given(json_values)
    def test_any_json_is_read_without_an_error(self, value: Any) -> None:
        for key in ("prompt", "workflow", "invokeai_metadata", "sd-metadata", "sdcli"):
            provenance({key: json.dumps(value)})


class TestInvokeAI:
    def test_metadata(self) -> None:
        metadata = {
            "app_version": "5.4.0", "generation_mode": "txt2img", "positive_prompt": "a fjord", "negative_prompt": "",
            "width": 512, "height": 448, "seed": 99, "rand_device": "cpu", "cfg_scale": 7.0, "steps": 30,
            "scheduler": "ddim", "model": {"name": "north", "hash": "blake3:00ff", "base": "sd-1"}, "loras": [],
        }  # fmt: skip
        result = found(invokeai_metadata=json.dumps(metadata))
        assert (result.tool, result.version, result.unknown) == ("InvokeAI", "5.4.0", [])
        assert result.settings == {
            "prompt": "a fjord", "negative_prompt": "", "seed": 99, "rng": "cpu", "steps": 30, "sampler": "ddim",
            "scale": 7.0, "width": 512, "height": 448, "model": "north", "model_hash": "blake3:00ff",
        }  # fmt: skip
        assert result.other == {"generation_mode": "txt2img"}
        older = {"model": {"model_name": "north"}, "scheduler": "dpmpp_2m_k", "cfg_rescale_multiplier": 0.7}
        result = found(invokeai_metadata=json.dumps(metadata | older))
        new = {"model": "north", "sampler": "dpmpp_2m", "schedule": "karras", "guidance_rescale": 0.7}
        assert new == {name: result.settings[name] for name in new}
        assert "cfg_rescale_multiplier" not in result.other

    def test_sd_metadata(self) -> None:
        metadata = {
            "model": "stable diffusion", "model_weights": "sd-1.4", "model_hash": "fe4e", "app_version": "v2.1.3",
            "image": {"prompt": [{"prompt": "a [grey] fjord", "weight": 1.0}], "steps": 40, "cfg_scale": 7.5,
                      "seed": 5, "width": 512, "height": 512, "sampler": "plms", "type": "txt2img", "perlin": 0.2},
        }  # fmt: skip
        result = found(**{"sd-metadata": json.dumps(metadata), "Dream": "ignored"})
        assert result.settings == {
            "prompt": "a  fjord", "negative_prompt": "grey", "seed": 5, "steps": 40, "sampler": "plms", "scale": 7.5,
            "width": 512, "height": 512, "model": "sd-1.4", "model_hash": "fe4e",
        }  # fmt: skip
        assert result.other == {"type": "txt2img", "perlin": 0.2}

    def test_numbers_that_are_too_large_are_not_infinite(self) -> None:
        result = found(invokeai_metadata='{"seed":1,"positive_prompt":"a","cfg_scale":1e999,"zz":[1e999,-1e999,1.5]}')
        assert result.settings == {"prompt": "a", "seed": 1}
        assert result.other == {"zz": [None, None, 1.5]}

    @pytest.mark.parametrize(
        "switches",
        ["-s50 -S99 -W512 -H448 -C7.5 -Ak_euler -U2 0.75", "-s 50 -S 99 -W 512 -H 448 -C 7.5 -A k_euler --grid"],
    )
    def test_dream(self, switches: str) -> None:
        result = found(Dream=f'"a fjord, \\"blue\\" [fog]" {switches}')
        assert result.settings == {
            "prompt": 'a fjord, "blue"', "negative_prompt": "fog", "seed": 99, "steps": 50, "sampler": "euler",
            "scale": 7.5, "width": 512, "height": 448,
        }  # fmt: skip
        assert result.unknown == ["model"]

    @pytest.mark.parametrize(
        ("command", "prompt"),
        [
            ("a fjord, blue -s 50 -S 99 -W 512 -H 448 -C 7.5 -A k_euler", "a fjord, blue"),
            ('"a "blue" fjord" -s 50 -S 99 -W 512', 'a "blue" fjord'),
            ('"a fjord -s 3" -s50 -S99', "a fjord -s 3"),
            ("a well-known -made fjord -s 50 -S 99", "a well-known -made fjord"),
            ("a fjord -S99 -s50", "a fjord"),
        ],
    )
    def test_prompts_without_quotes_or_with_quotes_inside(self, command: str, prompt: str) -> None:
        settings = found(Dream=command).settings
        assert (settings["prompt"], settings["steps"], settings["seed"]) == (prompt, 50, 99)

    def test_what_is_not_text_to_image_is_a_note(self) -> None:
        image = {"prompt": [{"prompt": "a", "weight": 1}, {"prompt": "b", "weight": 2}], "seed": 5, "type": "img2img"}
        result = found(**{"sd-metadata": json.dumps({"model_id": "sd-1.5", "image": image})})
        assert (result.settings["prompt"], result.settings["model"], len(result.notes)) == ("a, b", "sd-1.5", 2)
        grid = {"images": [{"steps": 4, "seed": 1}, {"steps": 4, "seed": 2}]}
        result = found(**{"sd-metadata": json.dumps(grid)})
        assert (result.settings, "grid of 2" in result.notes[0]) == ({"steps": 4}, True)
        for damaged in (7, [7], {}, None):
            assert found(**{"sd-metadata": json.dumps({"images": damaged})}).settings == {}
        result = found(invokeai_metadata=json.dumps({"positive_prompt": "a", "generation_mode": "sdxl_img2img"}))
        assert result.notes == ("the image was generated from another image",)

    @pytest.mark.parametrize("command", ["-", '"', "'", '"a" -s', "a -s x '", "[" * 20_000, '"a" ' + "-s" * 20_000])
    def test_damaged_commands_are_read_without_an_error(self, command: str) -> None:
        assert found(Dream=command).tool == "InvokeAI"


def test_a_text_that_is_too_long_is_not_read_and_a_note_says_so() -> None:
    result = found(parameters="a" * 10_000_000 + "\nSteps: 1", prompt=json.dumps(GRAPH))
    assert result.settings == SETTINGS
    assert result.notes == ("the text parameters is not read: it has more than 4,000,000 characters",)
    assert found(Dream="a" * 10_000_000).settings == {}


def test_values_beyond_a_limit_are_counted() -> None:
    result = found(parameters="a cat\nSteps: 1, " + ", ".join(f"Key {number}: 1" for number in range(5_000)))
    assert (len(result.other), result.settings["steps"]) == (1000, 1)
    assert result.notes == ("4,000 other values are not shown, of 5,000",)


def png(**chunks: str) -> bytes:
    info, buffer = PngInfo(), io.BytesIO()
    for key, value in chunks.items():
        info.add_itxt(key, value)
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def test_a_compressed_chunk_that_expands_too_much_is_rejected() -> None:
    """By Pillow's own limit, which `formats.opened` reports."""
    packed = b"parameters\0\0" + zlib.compress(b"x" * 50_000_000)
    chunk = len(packed).to_bytes(4, "big") + b"zTXt" + packed + zlib.crc32(b"zTXt" + packed).to_bytes(4, "big")
    data = png()
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(data[:33] + chunk + data[33:])).load()


def test_texts_of_comfyui_in_exif_of_webp() -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0110] = f"prompt:{json.dumps(GRAPH)}"
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=exif.tobytes())
    with Image.open(buffer) as image:
        image.load()
        assert provenance(texts.read(image)).settings == SETTINGS  # type: ignore[union-attr]
