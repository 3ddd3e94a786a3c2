"""Reading ComfyUI's graphs: what follows from them for certain, and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sdcli.metadata import Provenance, provenance
from tests.unit.metadata.test_metadata import GRAPH, SETTINGS, node, sampler
from tests.unit.metadata.test_texts import DATA, read


def found(graph: dict[str, Any], key: str = "prompt") -> Provenance:
    result = provenance({key: json.dumps(graph)})
    assert result is not None
    return result


def encode(text: Any) -> dict[str, Any]:
    return node("CLIPTextEncode", text=text, clip=["4", 1])


@pytest.mark.parametrize(
    ("name", "prompt", "negative"),
    [
        ("comfyui-controlnet-has-both-prompts.png", "an old boat", "fog"),
        ("comfyui-negative-is-zeroed-out.png", "an old boat", ""),
        ("comfyui-words-are-concatenated.png", "an old boat, on a lake", "fog"),
        ("comfyui-words-in-t5xxl-field.png", "an old boat on a lake", "fog"),
        ("comfyui-size-is-linked.png", "an old boat", "fog"),
    ],
)
def test_files(name: str, prompt: str, negative: str) -> None:
    result = read(DATA / name)
    assert (result.settings.get("prompt"), result.settings.get("negative_prompt")) == (prompt, negative)
    assert (result.settings["width"], result.settings["height"]) == (512, 768)
    assert any("zeroed" in note for note in result.notes) == (not negative)


@pytest.mark.parametrize("kind", ["ControlNetApplyAdvanced", "InpaintModelConditioning", "ACN_AdvancedControlNetApply"])
def test_a_link_follows_the_output_that_it_names(kind: str) -> None:
    both = node(kind, positive=["6", 0], negative=["7", 0], control_net=["x", 0], pixels=["y", 0])
    chain = GRAPH | {"10": both, "11": node(kind, positive=["10", 0], negative=["10", 1])}
    assert found(chain | {"3": sampler(positive=["11", 0], negative=["11", 1])}).settings == SETTINGS
    unknown = found(chain | {"3": sampler(positive=["11", 2], negative=["11", 1])})
    assert unknown.unknown == ["prompt"]
    assert "output 2" in unknown.notes[0]


@pytest.mark.parametrize(
    "computed",
    [
        node("DPRandomGenerator", text="a {red|blue} boat", seed=7),
        node("StringReplace", string="a boat", find="boat", replace="ship"),
        node("Text Switch", text_1="a boat", text_2="a ship"),
        node("Text Concatenate", text_a="a boat", text_b=["99", 0], delimiter=", "),
        node("ShowText|pysssss", text=["50", 0]),
    ],
)
def test_a_computed_text_is_unknown(computed: dict[str, Any]) -> None:
    more = {"6": encode(["51", 0]), "51": computed, "50": node("DPRandomGenerator", text="a {red|blue} boat")}
    result = found(GRAPH | more)
    assert result.unknown == ["prompt"]
    assert result.settings == {key: value for key, value in SETTINGS.items() if key != "prompt"}
    assert "computed by another node" in result.notes[0]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (node("ImpactWildcardProcessor", wildcard_text="a {red|blue} boat", populated_text="a red boat"), "a red boat"),
        (node("PrimitiveStringMultiline", value="a boat"), "a boat"),
        (node("Text Concatenate", text_a="a boat", text_b="", text_c="fog", delimiter=", "), "a boat, fog"),
        (node("JoinStringMulti", string_1="a", string_10="c", string_2="b", delimiter="\\n"), "a\nb\nc"),
        (node("ShowText|pysssss", text=["52", 0]), "a ship"),
        (node("Reroute", **{"": ["52", 0]}), "a ship"),
    ],
)
def test_texts_that_follow_from_the_graph(source: dict[str, Any], text: str) -> None:
    more = {"6": encode(["51", 0]), "51": source, "52": node("easy positive", positive="a ship")}
    result = found(GRAPH | more)
    assert (result.settings["prompt"], result.notes) == (text, ())


@pytest.mark.parametrize("name", ["text", "prompt", "user_prompt", "t5xxl", "bert", "anything"])
def test_the_prompt_has_another_name(name: str) -> None:
    graph = GRAPH | {"6": node("TextEncodeOther", clip=["4", 1], **{name: "a lighthouse, 灯台"})}
    assert found(graph).settings == SETTINGS


def test_combined_conditionings_are_said_so() -> None:
    more = {"3": sampler(positive=["10", 0]), "10": node("ConditioningConcat", a=["6", 0], b=["11", 0])}
    result = found(GRAPH | more | {"11": encode("at dusk")})
    assert result.settings["prompt"] == "a lighthouse, 灯台, at dusk"
    assert "combines 2 texts" in result.notes[0]


def test_a_conditioning_that_is_zeroed_out_has_no_text() -> None:
    zeroed = GRAPH | {"8": node("ConditioningZeroOut", conditioning=["6", 0])}
    of_both = found(zeroed | {"3": sampler(positive=["8", 0], negative=["8", 0])})
    assert (of_both.settings["prompt"], of_both.settings["negative_prompt"]) == ("", "")
    assert [note.partition(" or a part")[0] for note in of_both.notes] == ["the prompt", "the negative prompt"]
    combined = node("ConditioningCombine", conditioning_1=["8", 0], conditioning_2=["7", 0])
    of_a_part = found(zeroed | {"9": combined, "3": sampler(negative=["9", 0])})
    assert of_a_part.settings == SETTINGS
    assert "zeroed out" in of_a_part.notes[0]
    # A cycle contains no text, but is not zeroed out.
    assert "negative_prompt" not in found(GRAPH | {"7": node("ConditioningSetMask", conditioning=["7", 0])}).settings


def test_an_unknown_node_makes_the_prompt_unknown() -> None:
    more = {"3": sampler(positive=["10", 0]), "10": node("Mixes", a=["6", 0], b=["7", 0])}
    result = found(GRAPH | more)
    assert (result.unknown, result.settings["negative_prompt"]) == (["prompt"], "fog")
    assert "Mixes" in result.notes[0]


def test_the_sampler_of_the_saved_image_has_the_settings() -> None:
    other = {
        "1": sampler(seed=1, steps=5, positive=["7", 0]),
        "2": node("PreviewImage", images=["12", 0]),
        "12": node("VAEDecode", samples=["1", 0], vae=["4", 2]),
    }
    result = found(other | GRAPH)
    assert result.settings == SETTINGS
    assert "2 samplers" in result.notes[0]


def test_two_saved_images_leave_what_they_have_in_common() -> None:
    other = {
        "1": sampler(seed=1, steps=5),
        "2": node("SaveImage", images=["12", 0]),
        "12": node("VAEDecode", samples=["1", 0], vae=["4", 2]),
    }
    result = found(other | GRAPH)
    assert result.settings == {key: value for key, value in SETTINGS.items() if key not in ("seed", "steps")}
    assert "any of 2 samplers" in result.notes[0]


@pytest.mark.parametrize(
    ("computed", "seed"),
    [
        (node("PrimitiveInt", value=5), 5),
        (node("Seed (rgthree)", seed=5), 5),
        (node("Reroute", **{"": ["61", 0]}), 5),
        (node("SimpleMath", a=5, b=6), None),
        (node("MathExpression", value=5), None),
    ],
)
def test_a_linked_number_is_known_if_the_node_only_has_that_number(computed: dict[str, Any], seed: int | None) -> None:
    more = {"3": sampler(seed=["60", 0]), "60": computed, "61": node("PrimitiveInt", value=5)}
    result = found(GRAPH | more)
    assert result.settings.get("seed") == seed
    assert bool(result.notes) == (seed is None)


def test_a_size_that_another_input_chooses_is_unknown() -> None:
    more = {"5": node("CR Aspect Ratio", width=512, height=640, aspect_ratio="16:9")}
    result = found(GRAPH | more)
    assert result.unknown == ["height", "width"]
    assert "aspect_ratio" in result.notes[0]


def test_choices_in_the_editor_are_not_made_yet() -> None:
    def box(number: int, kind: str, widgets: list[Any], mode: int = 0, **inputs: int) -> dict[str, Any]:
        sockets = [{"name": name, "link": link} for name, link in inputs.items()]
        return {"id": number, "type": kind, "widgets_values": widgets, "inputs": sockets, "mode": mode}

    nodes = [
        box(2, "KSampler", [9, "fixed", 9, 9, "euler", "normal", 1], mode=2, positive=1),
        box(3, "KSampler", [7, "fixed", 20, 8, "ddim", "normal", 1], positive=1, negative=2),
        box(6, "CLIPTextEncode", ["a {red|blue} boat"]),
        box(7, "CLIPTextEncode", ["fog"]),
        box(8, "ControlNetApplyAdvanced", [1, 0, 1], mode=4, positive=3, negative=4),
    ]
    links = [[1, 8, 0, 3, 0, "C"], [2, 8, 1, 3, 1, "C"], [3, 6, 0, 8, 0, "C"], [4, 7, 0, 8, 1, "C"]]
    result = found({"nodes": nodes, "links": links}, "workflow")
    assert (result.settings.get("prompt"), result.settings["negative_prompt"]) == (None, "fog")
    assert (result.settings["seed"], result.settings["steps"]) == (7, 20)
    assert any("template" in note for note in result.notes)


LOADER = node("Efficient Loader", ckpt_name="tide.safetensors", clip_skip=-2, positive="a boat", negative="fog",
              empty_latent_width=512, empty_latent_height=640, batch_size=1)  # fmt: skip
EASY = {
    "1": node("easy fullLoader", ckpt_name="tide.safetensors", resolution="512 x 640", empty_latent_width=64,
              empty_latent_height=64, positive="a boat", negative="fog", batch_size=1),
    "2": node("easy preSampling", pipe=["1", 0], seed=5, steps=20, cfg=8, sampler_name="ddim", scheduler="normal"),
    "3": node("easy kSampler", pipe=["2", 0]),
    "9": node("SaveImage", images=["3", 1]),
}  # fmt: skip
EFFICIENT = {
    "1": LOADER,
    "2": node("KSampler (Efficient)", seed=5, steps=20, cfg=8, sampler_name="ddim", scheduler="normal",
              model=["1", 0], positive=["1", 1], negative=["1", 2], latent_image=["1", 3]),
    "9": node("SaveImage", images=["2", 5]),
}  # fmt: skip
CONTEXT = GRAPH | {
    "6": encode("a boat"),
    "70": node("Context Big (rgthree)", model=["4", 0], positive=["6", 0], negative=["7", 0], latent=["5", 0],
               seed=["71", 0]),
    "71": node("Seed (rgthree)", seed=5),
    "73": node("Context (rgthree)", base_ctx=["70", 0]),
    "3": sampler(model=["73", 1], positive=["73", 4], negative=["73", 5], latent_image=["73", 6], seed=["73", 8]),
}  # fmt: skip
PIPE = GRAPH | {
    "6": encode("a boat"),
    "70": node("ToBasicPipe", model=["4", 0], positive=["6", 0], negative=["7", 0]),
    "71": node("FromBasicPipe", basic_pipe=["70", 0]),
    "3": sampler(model=["71", 0], positive=["71", 3], negative=["71", 4], seed=5),
}


@pytest.mark.parametrize("graph", [EASY, EFFICIENT, CONTEXT, PIPE])
def test_nodes_with_several_values_on_one_link(graph: dict[str, Any]) -> None:
    assert found(graph).settings == SETTINGS | {"prompt": "a boat", "seed": 5}


@pytest.mark.parametrize("kind", ["FaceDetailer", "UltimateSDUpscale", "DetailerForEach"])
def test_a_graph_that_only_changes_an_image(kind: str) -> None:
    inputs = {name: value for name, value in sampler()["inputs"].items() if name != "latent_image"}
    detailer = node(kind, **inputs, image=["2", 0], vae=["4", 2])
    more = {"2": node("LoadImage", image="x.png"), "3": detailer, "9": node("SaveImage", images=["3", 0])}
    result = found({name: GRAPH[name] for name in ("4", "6", "7")} | more)
    assert result.settings == {key: value for key, value in SETTINGS.items() if key not in ("width", "height")}
    assert f"those of {kind}" in result.notes[0]
    assert "another image" in result.notes[1]
    # Beside a sampler, it is a node that changes the image.
    beside = found(GRAPH | {"9": node("SaveImage", images=["10", 0]), "10": detailer | {
        "inputs": detailer["inputs"] | {"seed": 1, "image": ["8", 0]}}})  # fmt: skip
    assert (beside.settings, beside.other["nodes"]) == (SETTINGS, [kind])


@pytest.mark.parametrize(
    ("sampler_node", "sigmas", "own", "other"),
    [
        (node("KSamplerSelect", sampler_name="dpmpp_2m"), node("KarrasScheduler", steps=20, sigma_max=14.614642,
         sigma_min=0.0291675, rho=7.0), ("dpmpp_2m", "karras"), {"scheduler": "Karras"}),
        (node("SamplerEulerAncestral", eta=1.0, s_noise=1.0), node("BasicScheduler", scheduler="sgm_uniform", steps=20),
         ("euler_a", "sgm_uniform"), {"scheduler": "sgm_uniform"}),
        (node("SamplerDPMPP_2M_SDE", solver_type="heun", eta=0.5, s_noise=1.0, noise_device="gpu"),
         node("ExponentialScheduler", steps=20, sigma_max=10.0, sigma_min=0.0291675), ("dpmpp_2m_sde", "exponential"),
         {"scheduler": "Exponential", "eta": 0.5, "solver_type": "heun", "sigma_max": 10.0}),
        (node("KSamplerSelect", sampler_name="euler"), node("AlignYourStepsScheduler", model_type="SD1", steps=20),
         ("euler", "align_your_steps"), {"scheduler": "AlignYourSteps"}),
        (node("KSamplerSelect", sampler_name="lcm"), node("SDTurboScheduler", steps=20), ("lcm", "SDTurbo"),
         {"scheduler": "SDTurbo"}),
        (node("SamplerDPMAdaptative", order=3), node("BetaSamplingScheduler", steps=20, alpha=0.6, beta=0.6),
         ("DPMAdaptative", "BetaSampling"), {"scheduler": "BetaSampling", "order": 3}),
    ],
)  # fmt: skip
def test_samplers_and_sigmas_of_their_own_nodes(
    sampler_node: dict[str, Any], sigmas: dict[str, Any], own: tuple[str, str], other: dict[str, Any]
) -> None:
    custom = node("SamplerCustom", add_noise=True, noise_seed=156680208700286, cfg=8, model=["4", 0], positive=["6", 0],
                  negative=["7", 0], sampler=["32", 0], sigmas=["33", 0], latent_image=["5", 0])  # fmt: skip
    result = found(GRAPH | {"3": custom, "32": sampler_node, "33": sigmas})
    assert result.settings == SETTINGS | {"sampler": own[0], "schedule": own[1]}
    assert (result.other, result.notes) == (other, ())
    assert "scheduler" in result.harmless


def test_a_workflow_that_is_too_large_is_a_note() -> None:
    result = found({"nodes": [{"id": 1}], "links": [0] * 200_000}, "workflow")
    assert result.settings == {}
    assert "more than 200,000 nodes and links" in result.notes[0]


def test_a_random_seed_is_unknown() -> None:
    for each in (node("Seed (rgthree)", seed=-1), node("Random Number", seed=5, number_type="integer")):
        result = found(CONTEXT | {"71": each})
        assert result.unknown == ["seed"]
        assert result.notes


@pytest.mark.parametrize(
    ("more", "other"),
    [
        ({"9": node("SaveImage", images=["80", 0]), "80": node("FaceDetailer", image=["8", 0], seed=1, steps=2)},
         {"nodes": ["FaceDetailer"]}),
        ({"3": sampler(model=["65", 0]), "65": node("FreeU", model=["4", 0])}, {"nodes": ["FreeU"]}),
        ({"6": node("CLIPTextEncode", text="a lighthouse, 灯台", clip=["60", 0]),
          "60": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["4", 1])}, {"clip_skip": 2}),
        ({"8": node("VAEDecode", samples=["3", 0], vae=["60", 0]), "60": node("VAELoader", vae_name="v.pt")},
         {"vae": "v.pt"}),
        ({"5": node("EmptyLatentImage", width=512, height=640, batch_size=4)}, {"batch_size": 4}),
    ],
)  # fmt: skip
def test_what_a_command_leaves_out(more: dict[str, Any], other: dict[str, Any]) -> None:
    result = found(GRAPH | more)
    assert (result.settings, result.other) == (SETTINGS, {"scheduler": "normal"} | other)


def test_a_subgraph_of_the_editor() -> None:
    def box(number: int, kind: str, widgets: list[Any], **inputs: int) -> dict[str, Any]:
        sockets = [{"name": name, "link": link} for name, link in inputs.items()]
        return {"id": number, "type": kind, "widgets_values": widgets, "inputs": sockets}

    def edge(*ends: int) -> dict[str, int]:
        return dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot"), ends, strict=True))

    def promoted(widgets: list[Any]) -> dict[str, Any]:
        inner = {
            "id": "a-b", "nodes": [box(1, "CLIPTextEncode", ["old"], text=1)],
            "links": [edge(1, -10, 0, 1, 0), edge(2, 1, 0, -20, 0)],
        }  # fmt: skip
        outer = box(6, "a-b", widgets) | {"inputs": [{"name": "text", "widget": {"name": "text"}, "link": None}]}
        nodes = [box(3, "KSampler", [7, "fixed", 20, 8, "ddim", "normal", 1], positive=1), outer]
        return {"nodes": nodes, "links": [[1, 6, 0, 3, 0, "C"]], "definitions": {"subgraphs": [inner]}}

    assert found(promoted(["a boat"]), "workflow").settings["prompt"] == "a boat"
    assert "prompt" in found(promoted([]), "workflow").unknown
    nested = {"id": "a", "nodes": [{"id": number, "type": "a"} for number in range(20)], "links": []}
    too_many = found({"nodes": nested["nodes"], "definitions": {"subgraphs": [nested]}}, "workflow")
    assert "200,000 nodes" in too_many.notes[0]


def chain(length: int) -> dict[str, Any]:
    samplers = {f"s{i}": sampler(latent_image=[f"s{i - 1}" if i else "5", 0]) for i in range(length)}
    return GRAPH | samplers | {"8": node("VAEDecode", samples=[f"s{length - 1}", 0])}


def doubling(length: int) -> dict[str, Any]:
    joined = {f"j{i}": node("StringConcatenate", string_a=[f"j{i + 1}", 0], string_b=[f"j{i + 1}", 0], delimiter="")
              for i in range(length)}  # fmt: skip
    return GRAPH | joined | {"6": encode(["j0", 0]), f"j{length}": node("PrimitiveString", value="ab")}


@pytest.mark.parametrize(
    "graph",
    [
        chain(4000),
        doubling(150),
        doubling(4000),
        GRAPH | {f"s{i}": sampler() for i in range(4000)},
        GRAPH | {"6": encode(["t", 0]), "t": node("Text Multiline", text="[a" * 200_000)},
        GRAPH | {"6": node("CLIPTextEncode", text="{" + "|" * 200_000, seed=1, clip=["4", 1])},
        GRAPH | {f"s{i}": node("SaveImage", images=["8", 0]) for i in range(10_000)},
        GRAPH | {f"p{i}": node("Reroute", value=[f"p{i + 1}", 0]) for i in range(10_000)} | {"6": encode(["p0", 0])},
        GRAPH | {f"c{i}": node("ConditioningCombine", a=[f"c{i + 1}", 0], b=[f"e{i}", 0]) for i in range(4000)}
        | {f"e{i}": encode(f"text {i}") for i in range(4000)} | {"3": sampler(positive=["c0", 0])},
    ],
)  # fmt: skip
def test_large_graphs_take_linear_time(graph: dict[str, Any]) -> None:
    start = time.process_time()
    assert found(graph).tool == "ComfyUI"
    assert time.process_time() - start < 10, "quadratic time takes 30 seconds"
