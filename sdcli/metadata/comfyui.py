"""ComfyUI's graph of nodes: `prompt` as it ran, or `workflow` as it stood in the editor.

No node is the image. The settings are looked for from a sampler's node against the direction of the links: its
prompts, its checkpoint, the latents that it began with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sdcli.metadata.provenance import Provenance, known, own_sampler, parsed

TOOL = "ComfyUI"
# Values by their place among a node's widgets, which is all that a `workflow` has. The second of a sampler's says what
# becomes of the seed after a run.
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
# From a prompt's conditioning these lead away from its words.
NOT_WORDS = ("clip", "model", "vae", "control_net", "clip_vision", "style_model", *LATENTS)
# ComfyUI's usual schedule of DDIM and DPM++ 2M is the one sdcli has; karras, exponential and others are not.
OWN_SCHEDULES = ("normal", "ddim_uniform")

Graph = Mapping[str, "Node"]


class Node:
    """A node of the graph: its class, its plain values, and its links to other nodes by input."""

    def __init__(self, kind: str, inputs: Mapping[str, Any]) -> None:
        self.kind = kind
        self.links = {name: str(value[0]) for name, value in inputs.items() if _is_link(value)}
        self.values = {name: value for name, value in inputs.items() if not _is_link(value)}

    @property
    def samples(self) -> bool:
        """Whether this is where noise becomes latents."""
        return "Sampler" in self.kind and bool({"latent_image", "positive", "guider"} & self.links.keys())


def read(texts: Mapping[str, str]) -> Provenance | None:
    """What the graph says; None if there is none."""
    graph = _prompt(parsed(texts.get("prompt"))) or _workflow(parsed(texts.get("workflow")))
    if not graph:
        return None
    samplers = [node for node in graph.values() if node.samples]
    # The one that began with empty latents drew the image; others, as after enlarging, went over it.
    first = [node for node in samplers if not any(other.samples for other in _latents(graph, node))]
    if not samplers:
        return Provenance(TOOL, notes=("there is no sampler among the nodes that are known",))
    settings, other = _settings(graph, (first or samplers)[0])
    notes = []
    if len(samplers) > 1:
        notes.append(f"{len(samplers)} samplers were at work; the settings are those of the first")
    if "width" not in settings:
        notes.append("it did not begin with empty latents: perhaps it was drawn over another image")
    return Provenance(TOOL, "", settings, other, tuple(notes))


def _settings(graph: Graph, sampler: Node) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings by sdcli's names, and what else is of interest by ComfyUI's."""

    def value(*names: str) -> Any:
        return _value(graph, sampler, names, [*LATENTS, "model", "positive", "negative", "conditioning"])

    name, schedule = value("sampler_name"), value("scheduler")
    if isinstance(name, str):
        name = own_sampler(name) if schedule in (None, *OWN_SCHEDULES) else f"{name} {schedule}"
    latents = list(_latents(graph, sampler))
    size = next((node.values for node in latents if {"width", "height"} <= node.values.keys()), {})
    # A guider stands between a sampler and its prompts in some graphs.
    guider = graph.get(sampler.links.get("guider", ""), sampler)
    models = list(_upstream(graph, guider, only=("model",)))
    checkpoint = next(
        (node.values[key] for node in models for key in ("ckpt_name", "unet_name") if key in node.values), ""
    )
    loras = [node.values["lora_name"] for node in models if isinstance(node.values.get("lora_name"), str)]
    settings = known(
        prompt=_words(graph, guider, "positive" if "positive" in guider.links else "conditioning"),
        negative_prompt=_words(graph, guider, "negative"),
        seed=value("seed", "noise_seed"),
        rng="cpu",
        steps=value("steps"),
        sampler=name,
        scale=_value(graph, guider, ("cfg",), NOT_WORDS),
        width=size.get("width"),
        height=size.get("height"),
        model=str(checkpoint).replace("\\", "/").rpartition("/")[2] or None,
    )
    other = {"scheduler": schedule, "denoise": value("denoise"), "loras": loras, "batch_size": size.get("batch_size")}
    return settings, {key: each for key, each in other.items() if each not in (None, [], 1, 1.0)}


def _latents(graph: Graph, sampler: Node) -> Iterator[Node]:
    """The nodes that gave a sampler its latents, nearest first."""
    return _upstream(graph, sampler, only=LATENTS)


def _words(graph: Graph, node: Node, link: str) -> str | None:
    """All texts behind one of a node's links, in order, each once; None if there are none."""
    start = graph.get(node.links.get(link, ""))
    if start is None:
        return None
    found: list[str] = []
    for each in [start, *_upstream(graph, start, but=NOT_WORDS)]:
        names = ("text", "text_g", "text_l", "string", "value")
        texts = [text for name in names if isinstance(text := each.values.get(name), str)]
        found += [text for text in texts if text not in found]
    return ", ".join(found) if found else None


def _value(graph: Graph, node: Node, names: Collection[str], but: Collection[str]) -> Any:
    """The first plain value of one of these names, at the node or behind its links; a link may lead to a bare value."""
    for each in [node, *_upstream(graph, node, but=but)]:
        for name in names:
            if name in each.values:
                return each.values[name]
            behind = graph.get(each.links.get(name, ""))
            if behind is not None and (
                plain := [v for v in behind.values.values() if isinstance(v, (str, int, float))]
            ):
                return plain[0]
    return None


def _upstream(
    graph: Graph, node: Node, *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> Iterator[Node]:
    """The nodes behind a node's links, each once, nearest first: a graph from a file may go in circles."""
    seen = {id(node)}
    queue = [node]
    for each in queue:
        for name, target in each.links.items():
            behind = graph.get(target)
            if behind is None or id(behind) in seen or name in but or (only is not None and name not in only):
                continue
            seen.add(id(behind))
            queue.append(behind)
            yield behind


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
    """The editor's form, with values by their place, made into the other."""
    lists = {key: value for key, value in (content or {}).items() if isinstance(value, list)}
    links = {link[0]: link[1] for link in lists.get("links", []) if _plain(link)}
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


def _plain(link: Any) -> bool:
    return isinstance(link, list) and len(link) >= 2 and all(isinstance(part, (str, int)) for part in link[:2])
