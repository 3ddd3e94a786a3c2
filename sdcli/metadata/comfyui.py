"""Reads ComfyUI's graph of nodes: `prompt`, as it was executed, or `workflow`, as saved by the editor.

The graph has no node for the image as a whole. The reader starts at the nodes that save images and follows their links
upstream to the sampler, and from it to the prompts, the checkpoint and the initial latents. A value that does not
follow from the graph for certain, for example a prompt that a node computes at random, is unknown; a note says why.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, known
from sdcli.settings import own_sampler

TOOL = "ComfyUI"
# Names of a node's widgets by position; a `workflow` has only the values. "" is the widget that changes the seed after
# each run.
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "UNETLoader": ("unet_name",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "PrimitiveNode": ("value", ""),
    "PrimitiveInt": ("value", ""),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
}
LATENTS = ("latent_image", "samples", "latent", "pixels", "image", "images")
# Links that lead to neither an image nor latents.
NOT_IMAGE = ("clip", "model", "vae", "positive", "negative", "conditioning", "control_net", "clip_vision",
             "style_model", "guider", "noise", "sampler", "sigmas", "mask", "text", "prompt", "seed", "steps",
             "cfg")  # fmt: skip
# Links of a conditioning node that do not lead to the text of the prompt.
NOT_TEXT = ("clip", "model", "vae", "control_net", "clip_vision", "clip_vision_output", "style_model", "mask", *LATENTS)
# Inputs of a text encoder that are parts of the prompt.
TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "mt5xl", "bert", "llama", "qwen25_7b", "prompt",
         "text_prompt", "user_prompt", "positive_prompt", "tags", "string", "value")  # fmt: skip
# Inputs of a node that puts texts together: the parts start with one of these names.
PARTS = ("string", "text")
# The schedules with which ComfyUI's DDIM and DPM++ 2M are the same samplers as sdcli's.
OWN_SCHEDULES = ("normal", "ddim_uniform")
# Nodes that compute a text from those in the graph.
_COMPUTED = re.compile(
    r"random|wildcard|dynamic|combinatorial|style|template|replace|generat|llm|gpt|llava|florence|caption|interrogat|"
    r"tagger|translat|regex|format|switch|select|index|split|substring|case|list|(?<!multi)line|load|file|math|expression|eval",
    re.IGNORECASE,
)
_SHOWS = re.compile(r"show|preview|display|reroute", re.IGNORECASE)
_JOINS = re.compile(r"concat|join", re.IGNORECASE)
# Inputs that choose among sizes, beside which a width and a height may have no effect.
_CHOOSES_SIZE = re.compile(r"ratio|resolution|preset|dimensions|orientation|swap", re.IGNORECASE)
_CHOICE = re.compile(r"(?<!\\)\{[^{}]*\|[^{}]*\}")
# Limits, beyond which a value is unknown: links from node to node, characters of a text that nodes put together, and
# samplers that may have generated the image.
_DEEPEST, _LONGEST, _MOST_SAMPLERS = 200, 1_000_000, 100
# Modes of a node in the editor.
_MUTED, _BYPASSED = 2, 4


class Link(NamedTuple):
    """The other end of a link: a node, and which of its outputs."""

    node: str
    slot: int


class Node:
    """A node of the graph: its class, and for each input either a value or a link to another node."""

    def __init__(self, kind: str, inputs: Mapping[str, Any]) -> None:
        self.kind = kind
        self.links = {name: _link(value) for name, value in inputs.items() if _is_link(value)}
        self.values = {name: value for name, value in inputs.items() if not _is_link(value)}

    @property
    def is_sampler(self) -> bool:
        """True if the node denoises latents."""
        return "Sampler" in self.kind and bool({"latent_image", "positive", "guider"} & self.links.keys())

    @property
    def saves(self) -> bool:
        """True if the node saves an image."""
        return "save" in self.kind.casefold() and any(name not in NOT_IMAGE for name in self.links)


Graph = Mapping[str, Node]


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from the graph; returns None if the file has none."""
    graph = _prompt(read_object(texts.get("prompt", "")))
    as_edited = not graph
    graph = graph or _workflow(read_object(texts.get("workflow", "")))
    if not graph:
        return None
    samplers = [node for node in graph.values() if node.is_sampler]
    if not samplers:
        return Provenance(TOOL, notes=("the graph has no known sampler node",))
    first = _first_samplers(graph, samplers)
    notes: list[str] = []
    if len(samplers) > 1:
        notes.append(f"the graph has {len(samplers)} samplers; the settings are those of the first of the saved image")
    if len(first) > _MOST_SAMPLERS:
        return Provenance(TOOL, notes=(f"the graph has {len(first)} samplers, so the settings are not known",))
    found = [Reader(graph, node, as_edited=as_edited) for node in first]
    settings, other = found[0].settings, found[0].other
    if len(first) > 1:
        notes = [f"any of {len(first)} samplers may have generated the image; only their common settings are known"]
        settings = {k: value for k, value in settings.items() if all(_has(each.settings, k, value) for each in found)}
        other = {k: value for k, value in other.items() if all(_has(each.other, k, value) for each in found)}
    notes += dict.fromkeys(note for each in found for note in each.notes)
    return Provenance(TOOL, "", settings, other, tuple(notes))


def _has(values: Mapping[str, Any], key: str, value: Any) -> bool:
    return key in values and values[key] == value


def _first_samplers(graph: Graph, samplers: list[Node]) -> list[Node]:
    """Returns the samplers that generated the saved image without another one before them.

    The other samplers changed the image, for example after upscaling.
    """
    saved = list(_upstream(graph, [node for node in graph.values() if node.saves], but=NOT_IMAGE))
    of_image = [node for node in saved if node.is_sampler] or samplers
    # Downstream of a sampler, along latents and images.
    after: dict[int, list[Node]] = {}
    for node in graph.values():
        for name, link in node.links.items():
            if link.node in graph and (name in LATENTS if node.is_sampler else name not in NOT_IMAGE):
                after.setdefault(id(graph[link.node]), []).append(node)
    later: set[int] = set()
    queue = [*of_image]
    for node in queue:
        for following in after.get(id(node), ()):
            if id(following) not in later:
                later.add(id(following))
                if not following.is_sampler:
                    queue.append(following)
    return [node for node in of_image if id(node) not in later] or of_image[:1]


class Reader:
    """The values that lead to one sampler.

    Attributes:
        settings: with the names of sdcli.
        other: other values of interest, with the names of ComfyUI.
        notes: what is not certain.
    """

    def __init__(self, graph: Graph, sampler: Node, *, as_edited: bool) -> None:
        self.graph = graph
        self.notes: list[str] = []
        self._strings: dict[Link, str | None] = {}
        # The editor makes the choices of "{red|blue}" when it starts a run.
        self._has_choices = as_edited
        name = self._value(sampler, "sampler_name")
        schedule = self._value(sampler, "scheduler")
        if isinstance(name, str):
            name = own_sampler(name) if schedule in (None, *OWN_SCHEDULES) else f"{name} {schedule}"
        # In some graphs, a guider node is between the sampler and the prompts.
        guider = self._target(sampler, "guider") or sampler
        models = list(_upstream(graph, [guider], only=("model",)))
        checkpoint = next(
            (
                self._plain(node, key, (str,))
                for node in [guider, *models]
                for key in ("ckpt_name", "unet_name", "base_ckpt_name")
                if key in node.values or key in node.links
            ),
            None,
        )
        noise_mode = str(sampler.values.get("noise_mode", ""))
        width, height, batch_size = self._size(sampler)
        self.settings = known(
            prompt=self._prompt(guider, "positive" if "positive" in guider.links else "conditioning"),
            negative_prompt=self._prompt(guider, "negative"),
            seed=self._value(sampler, "seed", "noise_seed"),
            rng="cuda" if noise_mode.startswith("GPU") else "cpu",
            steps=self._value(sampler, "steps"),
            sampler=name,
            scale=self._value(guider, "cfg"),
            width=width,
            height=height,
            model=str(checkpoint or "").replace("\\", "/").rpartition("/")[2] or None,
        )
        other = {
            "scheduler": schedule,
            "denoise": self._value(sampler, "denoise"),
            "loras": list(_loras(models)),
            "batch_size": batch_size,
        }
        self.other = {key: each for key, each in other.items() if each not in (None, [], 1, 1.0)}

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _target(self, node: Node, link: str) -> Node | None:
        return self.graph.get(node.links[link].node) if link in node.links else None

    def _size(self, sampler: Node) -> tuple[Any, Any, Any]:
        """Returns width, height and batch size of the initial latents; None for each that is unknown."""
        latents = list(_upstream(self.graph, [sampler], only=LATENTS))
        node = next((each for each in latents if {"width", "height"} <= each.values.keys() | each.links.keys()), None)
        images = [each for each in latents if "LoadImage" in each.kind or "VAEEncode" in each.kind]
        if node is None or images:
            self._note("the initial latents are not empty; the image may have been generated from another image")
        if node is None:
            return None, None, None
        if choice := next((name for name in node.values if _CHOOSES_SIZE.search(name)), None):
            self._note(f"the size depends on {choice} of the node {node.kind}")
            return None, None, None
        numbers = (int, float)
        width, height = self._plain(node, "width", numbers), self._plain(node, "height", numbers)
        if width is None or height is None:
            self._note(f"the size of the node {node.kind} is computed by another node")
        return width, height, self._plain(node, "batch_size", numbers) if "batch_size" in node.values else None

    def _value(self, node: Node, *names: str) -> Any:
        """Returns the value with one of these names at the node, or at the nearest node upstream that has it."""
        but = (*LATENTS, "model", "positive", "negative", "conditioning", "clip", "vae")
        for each in [node, *_upstream(self.graph, [node], but=but)]:
            for name in names:
                if name in each.values:
                    return each.values[name]
                if name in each.links:
                    value = self._plain(each, name, (int, float, str))
                    if value is None:
                        self._note(f"the {name} of the node {each.kind} is computed by another node")
                    return value
        return None

    def _plain(self, node: Node, name: str, types: tuple[type, ...]) -> Any:
        """Returns the value of an input, through links to nodes that only contain a value; None if it is computed."""
        for _ in range(_DEEPEST):
            if name in node.values:
                return node.values[name]
            link = node.links.get(name)
            target = self.graph.get(link.node) if link else None
            if target is None:
                return None
            values = {key: each for key, each in target.values.items() if _is(each, types)}
            if name.endswith("seed") and (seed := values.get(name, values.get("seed"))) is not None:
                return seed
            if values and not _COMPUTED.search(target.kind) and not any(map(_CHOOSES_SIZE.search, target.values)):
                if len(values) == 1 and not target.links:
                    return next(iter(values.values()))
                same = [key for key in (name, name.removeprefix("noise_"), "value") if key in values]
                return values[same[0]] if same else None
            if values or len(target.links) != 1:
                return None
            node, name = target, next(iter(target.links))
        return None

    def _prompt(self, node: Node, link: str) -> str | None:
        """Returns the text at one link of a node; None if there is none, or it does not follow from the graph."""
        if link not in node.links:
            if link != "negative":
                self._note(f"the node {node.kind} has no known link to the prompt")
            return None
        parts: dict[str, None] = {}
        role = "negative prompt" if link == "negative" else "prompt"
        known_parts = self._conditioning(node.links[link], role, parts, set())
        if not known_parts or not parts:
            return None
        if len(parts) > 1:
            self._note(f"the graph combines {len(parts)} texts; the {role} is all of them")
        return ", ".join(parts)

    def _conditioning(self, start: Link, role: str, parts: dict[str, None], seen: set[Link]) -> bool:
        """Adds the texts that lead to a conditioning, in order; returns False if one of them is unknown."""
        # Texts in depth-first order, without recursion: a graph from a file can be a chain of any length.
        stack = [start]
        while stack:
            link = stack.pop()
            if link in seen:
                continue
            seen.add(link)
            node = self.graph.get(link.node)
            if node is None:
                self._note(f"the {role} comes from a node that the graph does not contain")
                return False
            if "ZeroOut" in node.kind:
                self._note(f"the {role} or a part of it is zeroed out: it has no text")
                continue
            both = {"positive", "negative"}
            if both <= node.links.keys() | node.values.keys():
                side = _side(node, link.slot)
                if side is None:
                    self._note(f"output {link.slot} of the node {node.kind} is not known, and so is the {role}")
                    return False
                if side in node.links and not isinstance(self._target_text(node, side), str):
                    stack.append(node.links[side])
                elif not self._add(parts, [self._text(node, side)], node, role):
                    return False
                continue
            names = [name for name in TEXTS if isinstance(node.values.get(name), str) or name in node.links]
            populated = node.values.get("populated_text")
            if isinstance(populated, str):
                # The text of a template, as it was executed.
                parts[populated] = None
                continue
            if names and self._is_text(node, names):
                if any(name.startswith("conditioning") for name in node.links):
                    self._note(f"the node {node.kind} adds a text to another one, so the {role} is not known")
                    return False
                if not self._add(parts, [self._text(node, name) for name in names], node, role):
                    return False
                continue
            following = [each for name, each in node.links.items() if name not in NOT_TEXT]
            if not following:
                texts = [name for name, value in node.values.items() if isinstance(value, str)]
                if len(texts) != 1 or not self._add(parts, [self._text(node, texts[0])], node, role):
                    self._note(f"the node {node.kind} is not known, and so is the {role}")
                    return False
                continue
            if len(following) > 1 and not node.kind.startswith("Conditioning"):
                self._note(f"the node {node.kind} is not known, and so is the {role}")
                return False
            stack += reversed(following)
        return True

    def _target_text(self, node: Node, name: str) -> str | None:
        """Returns the text of a node that is linked directly, if it only contains a text."""
        target = self._target(node, name)
        if target is None or "clip" in target.links or "conditioning" in target.links:
            return None
        return self._string(node.links[name])

    def _is_text(self, node: Node, names: list[str]) -> bool:
        """Returns whether the node encodes texts, and does not only pass a conditioning on."""
        return (
            "clip" in node.links
            or "ncode" in node.kind
            or any(isinstance(node.values.get(name), str) for name in names)
            or not any(name not in (*NOT_TEXT, *names) for name in node.links)
        )

    def _add(self, parts: dict[str, None], texts: list[str | None], node: Node, role: str) -> bool:
        """Adds the different texts of one node; returns False if one of them is unknown."""
        if any(text is None for text in texts):
            self._note(f"the {role} of the node {node.kind} is computed by another node")
            return False
        # Encoders with several texts often have the same text, or a short form of it, in each.
        given = [text for text in dict.fromkeys(texts) if text is not None]
        kept = [text for text in given if not any(text in other for other in given if other != text)]
        for text in kept or given:
            if self._has_choices and _CHOICE.search(text):
                self._note(f"the {role} is a template, from which the editor made choices")
                return False
            parts[text] = None
        return True

    def _text(self, node: Node, name: str) -> str | None:
        value = node.values.get(name)
        if isinstance(value, str):
            return value
        return self._string(node.links[name]) if name in node.links else None

    def _string(self, link: Link, depth: int = 0) -> str | None:
        """Returns a text that other nodes put together; None if they compute it in another way."""
        if link not in self._strings:
            # None for a cycle.
            self._strings[link] = None
            self._strings[link] = self._string_of(self.graph.get(link.node), depth)
        return self._strings[link]

    def _string_of(self, node: Node | None, depth: int) -> str | None:
        if node is None or depth > _DEEPEST:
            return None
        if isinstance(populated := node.values.get("populated_text"), str):
            return populated
        if _JOINS.search(node.kind):
            return self._joined(node, depth)
        if _SHOWS.search(node.kind) and len(node.links) == 1:
            return self._string(next(iter(node.links.values())), depth + 1)
        texts = [value for value in node.values.values() if isinstance(value, str)]
        if _COMPUTED.search(node.kind) or len(texts) + len(node.links) != 1:
            return None
        return texts[0] if texts else self._string(next(iter(node.links.values())), depth + 1)

    def _joined(self, node: Node, depth: int) -> str | None:
        delimiters = [name for name in ("delimiter", "separator") if isinstance(node.values.get(name), str)]
        names = [name for name in (*node.values, *node.links) if name.casefold().startswith(PARTS)]
        if len(delimiters) != 1 or not names:
            return None
        parts: list[str] = []
        for name in sorted(names, key=_in_order):
            part = self._string(node.links[name], depth + 1) if name in node.links else node.values[name]
            if not isinstance(part, str):
                return None
            parts.append(part)
        # The nodes of extensions leave out empty texts.
        if node.kind != "StringConcatenate":
            parts = [part for part in parts if part]
        delimiter = str(node.values[delimiters[0]]).replace("\\n", "\n")
        return delimiter.join(parts) if sum(len(part) + len(delimiter) for part in parts) <= _LONGEST else None


def _in_order(name: str) -> tuple[str, int]:
    """Returns a key that sorts text_2 before text_10."""
    digits = re.search(r"\d{1,9}\Z", name)
    return (name[: digits.start()], int(digits[0])) if digits else (name, 0)


def _side(node: Node, slot: int) -> str | None:
    """Returns which of a node's two conditionings an output continues; None if that is unknown."""
    sides = {0: "positive", 1: "negative"}
    if "Efficient" in node.kind or node.kind.startswith("Eff"):
        sides = {1: "positive", 2: "negative"}
    elif node.is_sampler or "pipe" in node.kind.casefold():
        sides = {}
    return sides.get(slot)


def _loras(models: Iterable[Node]) -> Iterator[str]:
    for node in models:
        name = node.values.get("lora_name")
        if isinstance(name, str) and name != "None":
            yield name
        for value in node.values.values():
            if isinstance(value, dict) and value.get("on") and isinstance(value.get("lora"), str):
                yield value["lora"]


def _is(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _upstream(
    graph: Graph, nodes: Collection[Node], *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> Iterator[Node]:
    """Yields the nodes upstream of nodes, nearest first, each once, since a graph from a file can contain cycles.

    Args:
        graph: all nodes.
        nodes: where to start.
        only: names of the links to follow; None for all.
        but: names of links not to follow.
    """
    seen = {id(node) for node in nodes}
    queue = list(nodes)
    for each in queue:
        for name, link in each.links.items():
            target = graph.get(link.node)
            if target is None or id(target) in seen or name in but or (only is not None and name not in only):
                continue
            seen.add(id(target))
            queue.append(target)
            yield target


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))


def _link(value: list[Any]) -> Link:
    return Link(str(value[0]), value[1] if isinstance(value[1], int) else -1)


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
    links = {
        link[0]: [str(link[1]), link[2] if len(link) > 2 else -1]
        for link in lists.get("links", [])
        if _is_numbered(link)
    }
    graph = {}
    for node in lists.get("nodes", []):
        if not isinstance(node, dict) or not isinstance(node.get("id"), (str, int)):
            continue
        mode = node.get("mode")
        if mode == _MUTED:
            continue
        kind = str(node.get("type"))
        widgets = node.get("widgets_values")
        inputs: dict[str, Any] = {}
        if mode != _BYPASSED:
            if isinstance(widgets, list):
                inputs = dict(zip(WIDGETS.get(kind, ()), widgets, strict=False))
            elif isinstance(widgets, dict):
                inputs = dict(widgets)
        for entry in node["inputs"] if isinstance(node.get("inputs"), list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("link"), (str, int)) and entry["link"] in links:
                inputs[str(entry.get("name"))] = links[entry["link"]]
        graph[str(node["id"])] = Node("bypassed" if mode == _BYPASSED else kind, inputs)
    return graph


def _is_numbered(link: Any) -> bool:
    return isinstance(link, list) and len(link) >= 2 and all(isinstance(part, (str, int)) for part in link[:2])
