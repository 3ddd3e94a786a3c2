"""InvokeAI's graphs, and values of its metadata that are not known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sdcli.metadata import Provenance, provenance

NODES: dict[str, dict[str, Any]] = {
    "model": {"type": "main_model_loader", "model": {"name": "north", "hash": "blake3:00ff", "base": "sd-1"}},
    "lora": {"type": "lora_loader", "lora": {"name": "ice"}, "weight": 0.75},
    "text": {"type": "string", "value": "a fjord"},
    "positive": {"type": "compel", "prompt": ""},
    "negative": {"type": "compel", "prompt": "fog"},
    "all": {"type": "collect", "collection": []},
    "noise": {"type": "noise", "seed": 99, "width": 512, "height": 448, "use_cpu": True},
    "denoise": {"type": "denoise_latents", "steps": 30, "cfg_scale": 7.5, "scheduler": "ddim", "denoising_start": 0,
                "denoising_end": 1},
    "image": {"type": "l2i"},
}  # fmt: skip
EDGES = [
    ("model.unet", "lora.unet"), ("lora.unet", "denoise.unet"), ("text.value", "positive.prompt"),
    ("positive.conditioning", "all.item"), ("all.collection", "denoise.positive_conditioning"),
    ("negative.conditioning", "denoise.negative_conditioning"), ("noise.noise", "denoise.noise"),
    ("denoise.latents", "image.latents"),
]  # fmt: skip
SETTINGS = {
    "prompt": "a fjord", "negative_prompt": "fog", "seed": 99, "rng": "cpu", "steps": 30, "sampler": "ddim",
    "scale": 7.5, "width": 512, "height": 448, "model": "north", "model_hash": "blake3:00ff",
}  # fmt: skip


def found(**texts: Any) -> Provenance:
    result = provenance({name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()})
    assert result is not None
    return result


def graph(edges: list[tuple[str, str]] = EDGES, **nodes: dict[str, Any]) -> dict[str, Any]:
    ends = ([dict(zip(("node_id", "field"), end.split("."), strict=True)) for end in edge] for edge in edges)
    given = {name: {"id": name} | values for name, values in (NODES | nodes).items()}
    return {"id": "0", "nodes": given, "edges": [{"source": source, "destination": end} for source, end in ends]}


def test_a_graph_without_metadata() -> None:
    result = found(invokeai_graph=graph())
    assert (result.tool, result.settings, result.notes) == ("InvokeAI", SETTINGS, ())
    assert result.other == {"nodes": ["lora_loader"]}


def test_the_graph_of_the_editor() -> None:
    nodes = [
        {"id": name, "type": "invocation", "data": {"id": name, "type": values["type"], "inputs": {
            key: {"name": key, "value": value} for key, value in values.items() if key != "type"}}}
        for name, values in NODES.items()
    ]  # fmt: skip
    edges = []
    for start, end in EDGES:
        (source, out), (target, to) = start.split("."), end.split(".")
        edges.append({"source": source, "sourceHandle": out, "target": target, "targetHandle": to, "type": "default"})
    edges.append({"source": "text", "target": "positive", "type": "collapsed"})
    assert found(invokeai_workflow={"name": "", "nodes": nodes, "edges": edges}).settings == SETTINGS


def test_the_schedule_and_the_rescaling_in_a_graph() -> None:
    node = NODES["denoise"] | {"scheduler": "kdpm_2_a_k", "cfg_rescale_multiplier": 0.7}
    own = {"sampler": "dpm2_a", "schedule": "karras", "guidance_rescale": 0.7}
    assert found(invokeai_graph=graph(denoise=node)).settings == SETTINGS | own
    assert found(invokeai_graph=graph(denoise=NODES["denoise"] | {"cfg_rescale_multiplier": 0})).settings == SETTINGS


@pytest.mark.parametrize(
    ("content", "unknown", "note"),
    [
        (graph([*EDGES, ("negative.conditioning", "all.item")]), {"prompt"}, "positive prompt"),
        (graph([*EDGES, ("random.value", "noise.seed")], random={"type": "rand_int"}), {"seed"}, "the seed"),
        (graph(noise=NODES["noise"] | {"seed": -1}), {"seed"}, None),
        (graph(denoise=NODES["denoise"] | {"cfg_scale": [7.5, 2]}), {"scale"}, "cfg_scale is a list"),
        (graph([("lora.unet", "lora.unet"), *EDGES[1:]]), {"model", "model_hash"}, None),
        (graph([*EDGES, ("image.image", "denoise.latents")]), set(), "another image"),
        (graph(second={"type": "denoise_latents"}), set(SETTINGS), "2 nodes that denoise"),
        ({"nodes": [7, {"data": 7}], "edges": [7, {}]}, set(SETTINGS), "0 nodes that denoise"),
        ("{", set(SETTINGS), "0 nodes that denoise"),
    ],
)
def test_what_is_not_certain_is_unknown(content: Any, unknown: set[str], note: str | None) -> None:
    result = found(invokeai_graph=content)
    assert result.settings == {name: value for name, value in SETTINGS.items() if name not in unknown}
    assert [note in each for each in result.notes if note] == ([True] if note else [])


def test_a_graph_of_any_length_is_read_at_once() -> None:
    loras = {f"l{number}": {"type": "lora_loader"} for number in range(20_000)}
    chain = [(f"l{number}.unet", f"l{number + 1}.unet") for number in range(19_999)]
    assert found(invokeai_graph=graph([*chain, *EDGES, ("l0.unet", "l0.unet")], **loras)).settings == SETTINGS


def test_one_guidance_scale_for_each_step_is_a_note() -> None:
    result = found(invokeai_metadata={"positive_prompt": "a", "cfg_scale": [7.5, 2], "seed": -1})
    assert result.settings == {"prompt": "a"}
    assert "cfg_scale is a list" in result.notes[0]


def test_an_option_with_several_values() -> None:
    result = found(Dream='"a fjord" -s 50 -S 99 -W 512 -H 448 -tm "a boat" 0.5 -U 2 0.75 --gfpgan 1 -C 7 8')
    assert result.settings == {
        "prompt": "a fjord", "negative_prompt": "", "seed": 99, "steps": 50, "width": 512, "height": 448
    }  # fmt: skip
    assert {name: value for name, value in result.other.items() if name != "Dream"} == {
        "-tm": "a boat 0.5", "-U": "2 0.75", "--gfpgan": "1"
    }  # fmt: skip
    assert "scale" in result.unknown
