"""Reads ComfyUI's graph of nodes: `prompt`, as it was executed, or `workflow`, as saved by the editor.

The graph has no node for the image as a whole. The reader starts at the nodes that save images and follows their links
upstream to the sampler, and from it to the prompts, the checkpoint and the initial latents. A value that does not
follow from the graph for certain, for example a prompt that a node computes at random, is unknown; a note says why.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeGuard

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.values import harmless, sampling
from sdcli.sampler_names import COMFYUI_BETA

TOOL = "ComfyUI"
# Names of a node's widgets by position; a `workflow` has only the values. "" is the widget that changes the seed after
# each run.
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler", "start_at_step",
                         "end_at_step", "return_with_leftover_noise"),
    "FaceDetailer": ("guide_size", "guide_size_for", "max_size", "seed", "", "steps", "cfg", "sampler_name",
                     "scheduler", "denoise"),
    "UltimateSDUpscale": ("upscale_by", "seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "UNETLoader": ("unet_name",),
    "VAELoader": ("vae_name",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "FluxGuidance": ("guidance",),
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
}  # fmt: skip
_CONTEXT = ("base_ctx", "model", "clip", "vae", "positive", "negative", "latent", "images", "seed", "steps",
            "step_refiner", "cfg", "ckpt_name", "sampler", "scheduler")  # fmt: skip
_PIPE = ("model", "clip", "vae", "positive", "negative")
# Nodes whose outputs are their inputs, or those of the node that their first input leads to: names by output.
PASSES: Mapping[str, tuple[str, ...]] = {
    "Context (rgthree)": _CONTEXT[:9],
    "Context Big (rgthree)": _CONTEXT,
    "FromBasicPipe": _PIPE,
    "FromBasicPipe_v2": ("basic_pipe", *_PIPE),
}
# Inputs with several values at once.
PIPES = ("pipe", "basic_pipe", "base_ctx", "sdxl_tuple")
LATENTS = ("latent_image", "samples", "latent", "pixels", "image", "images", *PIPES)
# Inputs with width and height of empty latents.
SIZES = (("width", "height"), ("empty_latent_width", "empty_latent_height"))
CHECKPOINTS = ("ckpt_name", "unet_name", "base_ckpt_name", "model_path")
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
# Other values that the sampler, or a note, contains.
HARMLESS = ("scheduler", "batch_size")
# Further values of nodes for a sampler and its sigmas, and their defaults.
FURTHER: Mapping[str, tuple[Any, ...]] = {
    "eta": (1,), "s_noise": (1,), "r": (0.5,), "order": (4,), "solver_type": ("midpoint",),
    "sigma_max": (14.614642,), "sigma_min": (0.0291675,), "rho": (7, 1), "alpha": (0.6,), "beta": (0.6,),
}  # fmt: skip
# Nodes that compute a text from those in the graph.
_COMPUTED = re.compile(
    r"random|wildcard|dynamic|combinatorial|style|template|replace|generat|llm|gpt|llava|florence|caption|interrogat|"
    r"tagger|translat|regex|format|switch|select|index|split|substring|case|list|(?<!multi)line|load|file|math|expression|eval",
    re.IGNORECASE,
)
# Nodes with a seed from which they compute a number.
_COMPUTES_SEED = re.compile(r"random|math|expression|eval|switch|select|index|list|calc", re.IGNORECASE)
_SHOWS = re.compile(r"show|preview|display|reroute", re.IGNORECASE)
# Nodes that have no effect beside the values that are read from them.
_PLAIN = re.compile(
    r"load|encode|decode|save|preview|reroute|primitive|sampler|guider|zeroout|conditioning(combine|concat)|pipe|"
    r"context|clipsetlastlayer|fluxguidance|bypassed|^easy (presampling|positive|negative)",
    re.IGNORECASE,
)
_JOINS = re.compile(r"concat|join", re.IGNORECASE)
# Inputs that choose among sizes, beside which a width and a height may have no effect.
_CHOOSES_SIZE = re.compile(r"ratio|resolution|preset|dimensions|orientation|swap", re.IGNORECASE)
_SIZE = re.compile(r"(\d{2,5})\s*x\s*(\d{2,5})")
_CHOICE = re.compile(r"(?<!\\)\{[^{}|]*\|[^{}]*\}")
# Comments and tokens of a node that is called "Text Multiline".
_TOKENS = re.compile(r"^[^\S\n]*#|\[\w[^][\n]*\]", re.MULTILINE)
# Limits, beyond which a value is unknown: links from node to node, characters of a text that nodes put together, and
# samplers that may have generated the image; nodes upstream of a sampler in which a value is searched.
_DEEPEST, _LONGEST, _MOST_SAMPLERS, _MOST_NODES = 200, 1_000_000, 20, 1000
# Limits of subgraphs within subgraphs, and of nodes and links in them.
_MOST_NESTED, _MOST_EDITED = 8, 200_000
# Modes of a node in the editor.
_MUTED, _BYPASSED = 2, 4


def sampling_of(name: Any, schedule: Any) -> dict[str, str | None]:
    """Returns the sampler and the schedule of ComfyUI, and of tools that run it, see `sampling`."""
    found = sampling(name, schedule)
    return found | {"schedule": COMFYUI_BETA} if found["schedule"] == "beta" else found


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
        return "Sampler" in self.kind and bool({"latent_image", "positive", "guider", *PIPES} & self.links.keys())

    @property
    def changes(self) -> bool:
        """True if the node denoises parts of an image: FaceDetailer, UltimateSDUpscale and others."""
        given = self.links.keys() | self.values.keys()
        return {"seed", "steps", "cfg"} <= given and bool({"positive", *PIPES} & self.links.keys())

    @property
    def saves(self) -> bool:
        """True if the node saves an image."""
        return "save" in self.kind.casefold() and any(name not in NOT_IMAGE for name in self.links)


Graph = Mapping[str, Node]


def _pass(graph: Graph) -> None:
    """Makes every link lead past the nodes that only pass a value on."""
    known_ends: dict[Link, Link] = {}

    def end(link: Link) -> Link:
        path = []
        while link not in known_ends and (following := _following(graph, link)) is not None:
            known_ends[link] = link  # for a cycle
            path.append(link)
            link = following
        link = known_ends.get(link, link)
        known_ends.update(dict.fromkeys(path, link))
        return link

    for node in graph.values():
        node.links = {name: end(link) for name, link in node.links.items()}


def _following(graph: Graph, link: Link) -> Link | None:
    """Returns the link that an output of a node passes on; None if it does more, or if that is not known."""
    node = graph.get(link.node)
    if node is None:
        return None
    if "Reroute" in node.kind and len(node.links) == 1 and not node.values:
        return next(iter(node.links.values()))
    if node.kind.endswith("Switch") and (chosen := node.links.get(f"input{node.values.get('select')}")):
        return chosen
    names = PASSES.get(node.kind, ())
    name = names[link.slot] if 0 <= link.slot < len(names) else ""
    if not name:
        return None
    if name in node.links:
        return node.links[name]
    source = next((node.links[each] for each in PIPES if each in node.links), None)
    origin = graph.get(source.node) if source else None
    if source is None or origin is None:
        return None
    if outputs := PASSES.get(origin.kind):
        return Link(source.node, outputs.index(name)) if name in outputs else None
    return origin.links.get(name)


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from the graph; returns None if the file has none."""
    graph = _prompt(read_object(texts.get("prompt", "")))
    as_edited = not graph
    if as_edited:
        editor = _workflow(read_object(texts.get("workflow", "")))
        if editor.is_too_large:
            note = f"the workflow is not read: it has more than {_MOST_EDITED:,} nodes and links"
            return Provenance(TOOL, notes=(note,))
        graph = editor.graph()
    if not graph:
        return None
    _pass(graph)
    samplers = [node for node in graph.values() if node.is_sampler]
    notes: list[str] = []
    if not samplers:
        samplers = [node for node in graph.values() if node.changes]
        if not samplers:
            return Provenance(TOOL, notes=("the graph has no known sampler node",))
        kinds = ", ".join(list(dict.fromkeys(node.kind[:80] for node in samplers))[:5])
        notes.append(f"the graph only has nodes that change an image; the settings are those of {kinds}")
    first = _first_samplers(graph, samplers)
    if len(samplers) > 1 and len(first) == 1:
        notes.append(f"the graph has {len(samplers)} samplers; the settings are those of the first of the saved image")
    if len(first) > _MOST_SAMPLERS:
        return Provenance(TOOL, notes=(f"the graph has {len(first)} samplers, so the settings are not known",))
    found = [Reader(graph, node, as_edited=as_edited) for node in first]
    settings, other = found[0].settings, found[0].other
    if len(first) > 1:
        notes.append(f"any of {len(first)} samplers may have generated the image; only their common settings are known")
        settings = {k: value for k, value in settings.items() if all(_has(each.settings, k, value) for each in found)}
        other = {k: value for k, value in other.items() if all(_has(each.other, k, value) for each in found)}
    after = _between(graph, first)
    loaders = [graph.get(node.links["vae"].node) for node in after if "vae" in node.links]
    vae = next((node.values["vae_name"] for node in loaders if node and "vae_name" in node.values), None)
    if vae not in (None, "Baked VAE"):
        other = {**other, "vae": vae}
    if changes := _kinds(after):
        other = {**other, "nodes": [*other.get("nodes", ()), *changes]}
    notes += dict.fromkeys(note for each in found for note in each.notes)
    return Provenance(TOOL, "", settings, other, tuple(notes), harmless(other, HARMLESS))


def _has(values: Mapping[str, Any], key: str, value: Any) -> bool:
    return key in values and values[key] == value


def _first_samplers(graph: Graph, samplers: list[Node]) -> list[Node]:
    """Returns the samplers that generated the saved image without another one before them.

    The other samplers changed the image, for example after upscaling.
    """
    of_image = [node for node in _saved(graph) if node.is_sampler] or samplers
    later = _after(graph, of_image)
    return [node for node in of_image if id(node) not in later] or of_image[:1]


def _saved(graph: Graph) -> list[Node]:
    """Returns the nodes upstream of the saved images."""
    return list(_upstream(graph, [node for node in graph.values() if node.saves], but=NOT_IMAGE))


def _between(graph: Graph, first: list[Node]) -> list[Node]:
    """Returns the nodes between the first samplers and the saved images, without other samplers."""
    later = _after(graph, first)
    return [node for node in _saved(graph) if id(node) in later and not node.is_sampler]


def _after(graph: Graph, nodes: list[Node]) -> set[int]:
    """Returns the ids of the nodes downstream of nodes, along latents and images, up to the next samplers."""
    after: dict[int, list[Node]] = {}
    for node in graph.values():
        for name, link in node.links.items():
            if link.node in graph and (name in LATENTS if node.is_sampler else name not in NOT_IMAGE):
                after.setdefault(id(graph[link.node]), []).append(node)
    later: set[int] = set()
    queue = [*nodes]
    for node in queue:
        for following in after.get(id(node), ()):
            if id(following) not in later:
                later.add(id(following))
                if not following.is_sampler:
                    queue.append(following)
    return later


def _kinds(nodes: Iterable[Node]) -> list[str]:
    """Returns the classes of nodes that have an effect beside the values that are read from them."""
    return list(dict.fromkeys(node.kind for node in nodes if not _PLAIN.search(node.kind)))


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
        self._passed: list[Node] = []
        self._near: dict[int, list[Node]] = {}
        name = self._value(sampler, "sampler_name")
        method = self._target(sampler, "sampler")
        if name is None and method:
            # SamplerEulerAncestral, SamplerDPMPP_2M_SDE and others.
            name = method.kind.removeprefix("Sampler")
        schedule = self._value(sampler, "scheduler")
        sigmas = self._target(sampler, "sigmas")
        if schedule is None and sigmas:
            # KarrasScheduler, AlignYourStepsScheduler and others.
            schedule = sigmas.kind.removesuffix("Scheduler")
        # In some graphs, a guider node is between the sampler and the prompts.
        guiding = self._target(sampler, "guider")
        guider = guiding or self._source(sampler)
        models = list(islice(_upstream(graph, [sampler, guider], only=("model", *PIPES)), _MOST_NODES))
        noise_mode = str(sampler.values.get("noise_mode", ""))
        width, height, batch_size = self._size(sampler)
        seed = self._value(sampler, "seed", "noise_seed")
        if isinstance(seed, int) and seed < 0:
            self._note(f"the seed {seed} stands for a random one")
            seed = None
        self.settings = known(
            prompt=self._prompt(guider, "positive" if self._has(guider, "positive") else "conditioning"),
            negative_prompt=self._prompt(guider, "negative"),
            seed=seed,
            rng="cuda" if noise_mode.startswith("GPU") else "cpu",
            steps=self._value(sampler, "steps"),
            **sampling_of(name, schedule),
            # This guider has no guidance.
            scale=1 if guider.kind == "BasicGuider" else self._value(guiding or sampler, "cfg"),
            width=width or None,
            height=height or None,
            model=self._checkpoint([sampler, guider, *models]),
        )
        clips = list(islice(_upstream(graph, self._passed, only=("clip",)), _MOST_NODES))
        end, steps = sampler.values.get("end_at_step"), self.settings.get("steps")
        other = {
            "scheduler": schedule,
            "denoise": self._value(sampler, "denoise"),
            "start_at_step": sampler.values.get("start_at_step") or None,
            "end_at_step": end if isinstance(end, int) and steps is not None and end < steps else None,
            "guidance": next((node.values["guidance"] for node in self._passed if "guidance" in node.values), None),
            "clip_skip": next(iter(_clip_skips([*clips, sampler, guider, *models])), None),
            "loras": list(dict.fromkeys(_loras([sampler, guider, *models, *clips]))),
            "nodes": _kinds([*models, *self._passed]),
            "batch_size": batch_size,
        }
        if sampler.values.get("add_noise") in ("disable", False):
            self._note(f"the node {sampler.kind} adds no noise")
        if _is(batch_size, (int,)) and batch_size > 1:
            self._note(f"the image is one of a batch of {batch_size}, with one seed")
        for node in filter(None, (method, sigmas)):
            other |= {key: node.values[key] for key in FURTHER if node.values.get(key) not in (None, *FURTHER[key])}
        self.other = {key: each for key, each in other.items() if each not in (None, [], 1, 1.0)}

    def _has(self, node: Node, name: str) -> bool:
        return name in node.links or name in node.values

    def _source(self, sampler: Node) -> Node:
        """Returns the node with the prompts of a sampler: the node itself, or one upstream of a pipe."""
        nodes = [sampler, *islice(_upstream(self.graph, [sampler], only=PIPES), _MOST_NODES)]
        return next((node for node in nodes if self._has(node, "positive")), sampler)

    def _checkpoint(self, nodes: list[Node]) -> str | None:
        found = next(
            (self._plain(node, key, (str,)) for node in nodes for key in CHECKPOINTS if self._has(node, key)), None
        )
        # A node that shows previews has the name in an object.
        name = found.get("content") if isinstance(found, dict) else found
        return str(name or "").replace("\\", "/").rpartition("/")[2] or None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _target(self, node: Node, link: str) -> Node | None:
        return self.graph.get(node.links[link].node) if link in node.links else None

    def _size(self, sampler: Node) -> tuple[Any, Any, Any]:
        """Returns width, height and batch size of the initial latents; None for each that is unknown."""
        latents = list(islice(_upstream(self.graph, [sampler], only=LATENTS), _MOST_NODES))
        found = ((each, names) for each in latents for names in SIZES if all(self._has(each, name) for name in names))
        node, names = next(found, (None, SIZES[0]))
        images = [each for each in latents if "LoadImage" in each.kind or "VAEEncode" in each.kind]
        if node is None or images:
            self._note("the initial latents are not empty; the image may have been generated from another image")
        if node is None:
            return None, None, None
        choice = next((name for name in node.values if _CHOOSES_SIZE.search(name)), None)
        chosen = str(node.values[choice]) if choice else ""
        if size := _SIZE.fullmatch(chosen):
            return int(size[1]), int(size[2]), node.values.get("batch_size")
        if choice and "custom" not in chosen:
            self._note(f"the size depends on {choice} of the node {node.kind}")
            return None, None, None
        numbers = (int, float)
        width, height = (self._plain(node, name, numbers) for name in names)
        if width is None or height is None:
            self._note(f"the size of the node {node.kind} is computed by another node")
        return width, height, self._plain(node, "batch_size", numbers) if "batch_size" in node.values else None

    def _value(self, node: Node, *names: str) -> Any:
        """Returns the value with one of these names at the node, or at the nearest node upstream that has it."""
        no_values = {*LATENTS, "model", "positive", "negative", "conditioning", "clip", "vae"}
        but = no_values.difference(PIPES)
        if id(node) not in self._near:
            self._near[id(node)] = [node, *islice(_upstream(self.graph, [node], but=but), _MOST_NODES)]
        for each in self._near[id(node)]:
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
            seed = values.get(name, values.get("seed")) if name.endswith("seed") else None
            if seed is not None and not _COMPUTES_SEED.search(target.kind):
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
        if isinstance(node.values.get(link), str):
            # A loader with the prompts as texts, at the other end of a pipe.
            given: dict[str, None] = {}
            added = self._add(given, [node.values[link]], node, "negative prompt" if link == "negative" else "prompt")
            return next(iter(given), None) if added else None
        if link not in node.links:
            if link != "negative":
                self._note(f"the node {node.kind} has no known link to the prompt")
            return None
        parts: dict[str, None] = {}
        role = "negative prompt" if link == "negative" else "prompt"
        if not self._conditioning(node.links[link], role, parts, set()) or not parts:
            return None
        texts = [text for text in parts if text]
        if len(texts) > 1:
            self._note(f"the graph combines {len(texts)} texts; the {role} is all of them")
        return ", ".join(texts)

    def _conditioning(self, start: Link, role: str, parts: dict[str, None], seen: set[Link]) -> bool:
        """Adds the texts that lead to a conditioning, in order; returns False if one of them is unknown."""
        # Texts in depth-first order, without recursion: a graph from a file can be a chain of any length.
        stack = [start]
        while stack:
            link = stack.pop()
            if link in seen:
                continue
            seen.add(link)
            if len(seen) > _MOST_NODES:
                self._note(f"more than {_MOST_NODES:,} nodes lead to the {role}, so it is not known")
                return False
            node = self.graph.get(link.node)
            if node is not None:
                self._passed.append(node)
            if node is None:
                self._note(f"the {role} comes from a node that the graph does not contain")
                return False
            if "ZeroOut" in node.kind:
                self._note(f"the {role} or a part of it is zeroed out: it has no text")
                parts[""] = None
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
            # Some nodes make choices when they run, with a seed.
            chooses = self._has_choices or "seed" in node.values or node.kind.startswith("easy ")
            if chooses and (_CHOICE.search(text) or re.search(r"__[\w/*-]+__", text)):
                self._note(f"the {role} is a template, from which choices were made")
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
        if texts and node.kind == "Text Multiline" and _TOKENS.search(texts[0]):
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
            parts.append(part.strip() if node.values.get("clean_whitespace") in ("true", True) else part)
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


def _clip_skips(nodes: Iterable[Node]) -> Iterator[int]:
    for node in nodes:
        for name in ("stop_at_clip_layer", "clip_skip", "base_clip_skip"):
            if isinstance(layer := node.values.get(name), int):
                yield abs(layer)


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


def _is_link(value: Any) -> TypeGuard[list[Any]]:
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


def _workflow(content: dict[str, Any] | None) -> _Editor:
    """Reads the format of the editor, in which widget values have positions instead of names."""
    content = content or {}
    definitions = content.get("definitions")
    inner = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    subgraphs = {each["id"]: each for each in _objects(inner) if isinstance(each.get("id"), str)}
    editor = _Editor(subgraphs)
    editor.add(content, "")
    return editor


_INPUTS, _OUTPUTS = "-10", "-20"
"""Ids of the nodes at which the links of a subgraph begin and end."""


class _Editor:
    """Nodes of the editor, those of subgraphs included, with ids such as "12:3" for node 3 in subgraph 12."""

    def __init__(self, subgraphs: Mapping[str, dict[str, Any]]) -> None:
        self.subgraphs = subgraphs
        self.size = 0
        self.nodes: dict[str, Node] = {}
        # What an output of a node that does nothing, or of a subgraph, is linked to.
        self.passes: dict[Link, Link] = {}

    @property
    def is_too_large(self) -> bool:
        """True if not all nodes and links are read."""
        return self.size > _MOST_EDITED

    def add(
        self, content: Mapping[str, Any], path: str, outer: Mapping[int, Any] | None = None, depth: int = 0
    ) -> None:
        """Adds the nodes of a workflow, or of a subgraph with what its inputs are linked to, by position."""
        self.size += len(_list(content.get("nodes"))) + len(_list(content.get("links")))
        if self.is_too_large:
            return
        outer = outer or {}
        links = {link[0]: link for link in map(_edge, _list(content.get("links"))) if link}
        setters: dict[str, Link] = {}
        getters: list[tuple[str, str]] = []
        for node in _objects(content.get("nodes")):
            number, mode, kind = node.get("id"), node.get("mode"), str(node.get("type"))
            if not isinstance(number, (str, int)) or mode == _MUTED:
                continue
            name = f"{path}{number}"
            sockets = _objects(node.get("inputs"))
            found: dict[str, Any] = {}
            by_position: dict[int, Any] = {}
            for position, socket in enumerate(sockets):
                link = socket.get("link")
                edge = links.get(link) if isinstance(link, (str, int)) else None
                if edge is None:
                    continue
                _, origin, slot, *_ = edge
                # A value that the subgraph takes from outside is None if it is not known.
                by_position[position] = outer.get(slot) if origin == _INPUTS else [f"{path}{origin}", slot]
                found[str(socket.get("name"))] = by_position[position]
            widgets = node.get("widgets_values")
            if mode == _BYPASSED:
                # An output becomes the input at its position, if that has its type, or the first input of its type.
                types = [str(socket.get("type")) for socket in sockets]
                first = {kind: position for position, kind in reversed(list(enumerate(types)))}
                for slot, output in enumerate(_objects(node.get("outputs")) or sockets):
                    wanted = str(output.get("type"))
                    position = slot if types[slot : slot + 1] == [wanted] else first.get(wanted, -1)
                    if _is_link(value := by_position.get(position)):
                        self.passes[Link(name, slot)] = _link(value)
                self.nodes[name] = Node("bypassed", {})
            elif kind in self.subgraphs and depth < _MOST_NESTED:
                self._promote(node, sockets, by_position)
                self.add(self.subgraphs[kind], f"{name}:", by_position, depth + 1)
                if self.is_too_large:
                    return
                for edge in map(_edge, _list(self.subgraphs[kind].get("links"))):
                    if edge and edge[3] == _OUTPUTS:
                        origin, slot = edge[1], edge[2]
                        inside = by_position.get(slot) if origin == _INPUTS else [f"{name}:{origin}", slot]
                        if _is_link(inside):
                            self.passes[Link(name, edge[4])] = _link(inside)
            elif kind in ("SetNode", "GetNode") and isinstance(widgets, list) and widgets:
                if kind == "GetNode":
                    getters.append((name, str(widgets[0])))
                elif _is_link(value := next(iter(by_position.values()), None)):
                    setters[str(widgets[0])] = _link(value)
            else:
                if isinstance(widgets, list):
                    values = dict(zip(WIDGETS.get(kind, ()), widgets, strict=False))
                else:
                    values = dict(widgets) if isinstance(widgets, dict) else {}
                self.nodes[name] = Node(kind, values | found)
        self.passes |= {Link(name, 0): setters[value] for name, value in getters if value in setters}

    def _promote(self, node: Mapping[str, Any], sockets: list[dict[str, Any]], by_position: dict[int, Any]) -> None:
        """Adds the values of the widgets of a subgraph to what its inputs are linked to."""
        widgets = node.get("widgets_values")
        positions = [position for position, socket in enumerate(sockets) if isinstance(socket.get("widget"), dict)]
        if isinstance(widgets, list) and len(widgets) == len(positions):
            for position, value in zip(positions, widgets, strict=True):
                by_position.setdefault(position, value)

    def graph(self) -> Graph:
        """The nodes, with the links that lead through subgraphs and past nodes that do nothing."""
        ends: dict[Link, Link] = {}

        def end(link: Link) -> Link:
            path = []
            while link in self.passes and link not in ends:
                ends[link] = link  # for a cycle
                path.append(link)
                link = self.passes[link]
            link = ends.get(link, link)
            ends.update(dict.fromkeys(path, link))
            return link

        for node in self.nodes.values():
            node.links = {name: end(link) for name, link in node.links.items()}
        return self.nodes


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _edge(link: Any) -> tuple[str | int, str, int, str, int] | None:
    """Returns a link of the editor, a list or an object: its id, origin, output, target and input; None if damaged."""
    if isinstance(link, dict):
        link = [link.get(name) for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    if not isinstance(link, list) or len(link) < 2 or not all(isinstance(part, (str, int)) for part in link[:2]):
        return None
    slot, target, position = [*link[2:5], None, None, None][:3]
    return (
        link[0],
        str(link[1]),
        slot if isinstance(slot, int) else -1,
        str(target),
        position if isinstance(position, int) else -1,
    )
