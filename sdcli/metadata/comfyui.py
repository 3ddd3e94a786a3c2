"""Reads ComfyUI's graph of nodes: `prompt`, as it was executed, or `workflow`, as saved by the editor.

The graph has no node for the image as a whole. The reader starts at a sampler node and follows its links upstream to
the prompts, the checkpoint and the initial latents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, known, own_sampler

TOOL = "ComfyUI"
# Names of a node's widgets by position; a `workflow` has only the values. "" is the widget that changes the seed after
# each run.
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "CLIPTextEncode": ("text",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "UNETLoader": ("unet_name",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
}
LATENTS = ("latent_image", "samples", "latent", "pixels", "image", "images")
# Links of a conditioning node that do not lead to the text of the prompt.
NOT_TEXT = ("clip", "model", "vae", "control_net", "clip_vision", "style_model", *LATENTS)
# The schedules with which ComfyUI's DDIM and DPM++ 2M are the same samplers as sdcli's.
OWN_SCHEDULES = ("normal", "ddim_uniform")

Graph = Mapping[str, "Node"]


class Node:
    """A node of the graph: its class, and for each input either a value or a link to another node."""

    def __init__(self, kind: str, inputs: Mapping[str, Any]) -> None:
        self.kind = kind
        self.links = {name: str(value[0]) for name, value in inputs.items() if _is_link(value)}
        self.values = {name: value for name, value in inputs.items() if not _is_link(value)}

    @property
    def is_sampler(self) -> bool:
        """True if the node denoises latents."""
        return "Sampler" in self.kind and bool({"latent_image", "positive", "guider"} & self.links.keys())


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from the graph; returns None if the file has none."""
    graph = _prompt(read_object(texts.get("prompt", ""))) or _workflow(read_object(texts.get("workflow", "")))
    if not graph:
        return None
    samplers = [node for node in graph.values() if node.is_sampler]
    # The sampler without another one upstream generated the image; the others changed it, for example after upscaling.
    first = [node for node in samplers if not any(other.is_sampler for other in _latents(graph, node))]
    if not samplers:
        return Provenance(TOOL, notes=("the graph has no known sampler node",))
    settings, other = _settings(graph, (first or samplers)[0])
    notes = []
    if len(samplers) > 1:
        notes.append(f"the graph has {len(samplers)} samplers; the settings are those of the first")
    if "width" not in settings:
        notes.append("the initial latents are not empty; the image may have been generated from another image")
    return Provenance(TOOL, "", settings, other, tuple(notes))


def _settings(graph: Graph, sampler: Node) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings with sdcli's names, and other values of interest with ComfyUI's."""

    def value(*names: str) -> Any:
        return _value(graph, sampler, names, [*LATENTS, "model", "positive", "negative", "conditioning"])

    name, schedule = value("sampler_name"), value("scheduler")
    if isinstance(name, str):
        name = own_sampler(name) if schedule in (None, *OWN_SCHEDULES) else f"{name} {schedule}"
    latents = list(_latents(graph, sampler))
    size = next((node.values for node in latents if {"width", "height"} <= node.values.keys()), {})
    # In some graphs, a guider node is between the sampler and the prompts.
    guider = graph.get(sampler.links.get("guider", ""), sampler)
    models = list(_upstream(graph, guider, only=("model",)))
    checkpoint = next(
        (node.values[key] for node in models for key in ("ckpt_name", "unet_name") if key in node.values), ""
    )
    loras = [node.values["lora_name"] for node in models if isinstance(node.values.get("lora_name"), str)]
    settings = known(
        prompt=_text(graph, guider, "positive" if "positive" in guider.links else "conditioning"),
        negative_prompt=_text(graph, guider, "negative"),
        seed=value("seed", "noise_seed"),
        rng="cpu",
        steps=value("steps"),
        sampler=name,
        scale=_value(graph, guider, ("cfg",), NOT_TEXT),
        width=size.get("width"),
        height=size.get("height"),
        model=str(checkpoint).replace("\\", "/").rpartition("/")[2] or None,
    )
    other = {"scheduler": schedule, "denoise": value("denoise"), "loras": loras, "batch_size": size.get("batch_size")}
    return settings, {key: each for key, each in other.items() if each not in (None, [], 1, 1.0)}


def _latents(graph: Graph, sampler: Node) -> Iterator[Node]:
    """Yields the nodes upstream of a sampler's latents, nearest first."""
    return _upstream(graph, sampler, only=LATENTS)


def _text(graph: Graph, node: Node, link: str) -> str | None:
    """Joins all different texts upstream of one link of a node, in order; returns None if there are none."""
    start = graph.get(node.links.get(link, ""))
    if start is None:
        return None
    found: list[str] = []
    for each in [start, *_upstream(graph, start, but=NOT_TEXT)]:
        names = ("text", "text_g", "text_l", "string", "value")
        texts = [text for name in names if isinstance(text := each.values.get(name), str)]
        found += [text for text in texts if text not in found]
    return ", ".join(found) if found else None


def _value(graph: Graph, node: Node, names: Collection[str], but: Collection[str]) -> Any:
    """Returns the first value with one of these names at the node or upstream; a link may lead to a primitive value."""
    for each in [node, *_upstream(graph, node, but=but)]:
        for name in names:
            if name in each.values:
                return each.values[name]
            target = graph.get(each.links.get(name, ""))
            if target is not None and (
                plain := [v for v in target.values.values() if isinstance(v, (str, int, float))]
            ):
                return plain[0]
    return None


def _upstream(
    graph: Graph, node: Node, *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> Iterator[Node]:
    """Yields the nodes upstream of a node, nearest first, each once, since a graph from a file can contain cycles.

    Args:
        graph: all nodes.
        node: where to start.
        only: names of the links to follow; None for all.
        but: names of links not to follow.
    """
    seen = {id(node)}
    queue = [node]
    for each in queue:
        for name, key in each.links.items():
            target = graph.get(key)
            if target is None or id(target) in seen or name in but or (only is not None and name not in only):
                continue
            seen.add(id(target))
            queue.append(target)
            yield target


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))


def _prompt(content: dict[str, Any] | None) -> Graph:
    nodes = {name: node for name, node in (content or {}).items() if isinstance(node, dict)}
    return {
        name: Node(str(node["class_type"]), node["inputs"])
        for name, node in nodes.items()
        if "class_type" in node and isinstance(node.get("inputs"), dict)
    }


def _workflow(content: dict[str, Any] | None) -> Graph:
    """Converts the format of the editor, in which widget values have positions instead of names."""
    lists = {key: value for key, value in (content or {}).items() if isinstance(value, list)}
    links = {link[0]: link[1] for link in lists.get("links", []) if _is_numbered(link)}
    graph = {}
    for node in lists.get("nodes", []):
        if not isinstance(node, dict) or not isinstance(node.get("id"), (str, int)):
            continue
        widgets = node.get("widgets_values")
        names = WIDGETS.get(str(node.get("type")), ())
        inputs: dict[str, Any] = dict(zip(names, widgets if isinstance(widgets, list) else [], strict=False))
        for entry in node["inputs"] if isinstance(node.get("inputs"), list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("link"), (str, int)) and entry["link"] in links:
                inputs[str(entry.get("name"))] = [str(links[entry["link"]]), 0]
        graph[str(node["id"])] = Node(str(node.get("type")), inputs)
    return graph


def _is_numbered(link: Any) -> bool:
    return isinstance(link, list) and len(link) >= 2 and all(isinstance(part, (str, int)) for part in link[:2])
