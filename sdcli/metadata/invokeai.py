"""Reads InvokeAI's metadata: `invokeai_metadata` of version 3 and later, `sd-metadata` of 2, `Dream` of older ones.

A graph of nodes that does not save metadata is in `invokeai_graph`, or as the editor has it in `invokeai_workflow`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdcli.json_text import read_object
from sdcli.metadata.provenance import Provenance, known
from sdcli.metadata.values import OTHER_IMAGE, fields, harmless, others, sampling

TOOL = "InvokeAI"
# The options in a Dream command line, with the value attached ("-s50") or as the next argument ("-s 50").
DREAM = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "scale", "A": "sampler"}
LONG = {"steps": "s", "seed": "S", "width": "W", "height": "H", "cfg_scale": "C", "sampler": "A"}
SCALES = "cfg_scale is a list of one value for each step, so the guidance scale is not known"
# Nodes that contain one value, and nodes that have no effect beside the values that are read from them.
VALUES = ("string", "integer", "float")
PLAIN = {*VALUES, "compel", "sdxl_compel_prompt", "noise", "main_model_loader", "sdxl_model_loader", "collect", "l2i",
         "save_image", "core_metadata", "notes", "rand_int", "range_of_size", "iterate", "vae_loader"}  # fmt: skip
NEUTRAL = {"denoising_end": ("1", "1.0")}
# The options that InvokeAI writes first, after a prompt that it does not always quote, and never escapes.
_OPTIONS = re.compile(r"\s-s ?\d+ -S ?-?\d+(?=\s|\Z)")
_OPTION = re.compile(r"\s--?[A-Za-z]")
# Characters of the options in a Dream command line; links from node to node.
_LONGEST, _DEEPEST = 100_000, 200


def read(texts: Mapping[str, str]) -> Provenance | None:
    """Reads the settings from InvokeAI's metadata; returns None if the file has none."""
    if (metadata := read_object(texts.get("invokeai_metadata", ""))) is not None:
        return _metadata(metadata)
    if (metadata := read_object(texts.get("sd-metadata", ""))) is not None:
        return _sd_metadata(metadata)
    if command := texts.get("Dream") or texts.get("dream"):
        return _dream(command)
    graph = texts.get("invokeai_graph") or texts.get("invokeai_workflow")
    return _Graph(read_object(graph) or {}).provenance() if graph else None


def _metadata(metadata: dict[str, Any]) -> Provenance:
    model = fields(metadata.get("model"))
    notes = []
    mode = str(metadata.get("generation_mode", ""))
    if metadata.get("init_image") or "img2img" in mode or "paint" in mode:
        notes.append(OTHER_IMAGE)
    if isinstance(metadata.get("cfg_scale"), list):
        notes.append(SCALES)
    used = ("positive_prompt", "negative_prompt", "seed", "rand_device", "steps", "scheduler", "cfg_scale", "width",
             "height", "model", "app_version", "cfg_rescale_multiplier")  # fmt: skip
    return Provenance(
        TOOL,
        str(metadata.get("app_version", "")),
        known(
            prompt=metadata.get("positive_prompt"),
            negative_prompt=metadata.get("negative_prompt"),
            seed=metadata.get("seed"),
            rng={"cpu": "cpu", "cuda": "cuda"}.get(str(metadata.get("rand_device"))),
            steps=metadata.get("steps"),
            **sampling(metadata.get("scheduler")),
            scale=metadata.get("cfg_scale"),
            guidance_rescale=metadata.get("cfg_rescale_multiplier") or None,
            width=metadata.get("width"),
            height=metadata.get("height"),
            model=model.get("name", model.get("model_name", metadata.get("model"))),
            model_hash=model.get("hash"),
        ),
        other := others(metadata, used),
        tuple(notes),
        harmless(other, ("metadata_version",), {"generation_mode": ("txt2img", "sdxl_txt2img")}),
    )


@dataclass
class _Node:
    """A node: its type, its values by input, and for each linked input the ids of the nodes at the other ends."""

    kind: str
    values: dict[str, Any]
    links: dict[str, list[str]]


class _Graph:
    """Nodes and links, as they were executed or as the editor has them."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.notes: list[str] = []
        self.nodes: dict[str, _Node] = {}
        nodes, edges = content.get("nodes"), content.get("edges")
        for name, node in nodes.items() if isinstance(nodes, dict) else ():
            self.nodes[name] = _Node(str(fields(node).get("type")), fields(node), {})
        for each in nodes if isinstance(nodes, list) else ():
            data = fields(fields(each).get("data"))
            inputs = {name: fields(given).get("value") for name, given in fields(data.get("inputs")).items()}
            self.nodes[str(data.get("id"))] = _Node(str(data.get("type")), inputs, {})
        for edge in map(fields, edges if isinstance(edges, list) else ()):
            source, end = fields(edge.get("source")), fields(edge.get("destination"))
            node = self.nodes.get(str(end.get("node_id", edge.get("target"))))
            if node is not None:
                name = str(end.get("field", edge.get("targetHandle")))
                node.links.setdefault(name, []).append(str(source.get("node_id", edge.get("source"))))

    def provenance(self) -> Provenance:
        found = [node for node in self.nodes.values() if "denoise" in node.kind or node.kind in ("t2l", "l2l")]
        if len(found) != 1:
            note = f"the graph has {len(found)} nodes that denoise latents, so the settings are not known"
            return Provenance(TOOL, notes=(note,))
        (node,) = found
        noise = self._source(node, "noise") or node
        model = fields(self._model(node).get("model"))
        scale = self._value(node, "cfg_scale")
        if isinstance(scale, list):
            self.notes.append(SCALES)
        if "latents" in node.links or node.kind == "l2l":
            self.notes.append(OTHER_IMAGE)
        settings = known(
            prompt=self._prompt(node, "positive"),
            negative_prompt=self._prompt(node, "negative"),
            seed=self._value(noise, "seed"),
            rng={"True": "cpu", "False": "cuda"}.get(str(self._value(noise, "use_cpu"))),
            steps=self._value(node, "steps"),
            **sampling(self._value(node, "scheduler")),
            scale=scale,
            guidance_rescale=self._value(node, "cfg_rescale_multiplier") or None,
            width=self._value(noise, "width"),
            height=self._value(noise, "height"),
            model=model.get("name", model.get("model_name")),
            model_hash=model.get("hash"),
        )
        other = {name: self._value(node, name) for name in ("denoising_start", "denoising_end")}
        # Nodes for which no value is read.
        kinds = dict.fromkeys(each.kind for each in self.nodes.values() if each is not node and each.kind not in PLAIN)
        return Provenance(TOOL, "", settings, others(other | {"nodes": list(kinds)}, (), NEUTRAL), tuple(self.notes))

    def _source(self, node: _Node, name: str) -> _Node | None:
        """Returns the node at the other end of an input, past nodes that collect one item; None if it is not certain.

        A graph from a file can have cycles and chains of any length.
        """
        for _ in range(_DEEPEST):
            sources = node.links.get(name, ())
            source = self.nodes.get(sources[0]) if len(sources) == 1 else None
            if source is None or source.kind != "collect":
                return source
            node, name = source, "item"
        return None

    def _value(self, node: _Node, name: str) -> Any:
        """Returns the value of an input, or of the node that contains it; None if another node computes it."""
        for _ in range(_DEEPEST):
            if name not in node.links:
                return node.values.get(name)
            source = self._source(node, name)
            if source is None or source.kind not in VALUES:
                self.notes.append(f"the {name} of the node {node.kind} is computed by another node")
                return None
            node, name = source, "value"
        return None

    def _prompt(self, node: _Node, side: str) -> Any:
        source = self._source(node, f"{side}_conditioning")
        if source is not None and source.kind in ("compel", "sdxl_compel_prompt"):
            return self._value(source, "prompt")
        self.notes.append(f"no node is known that leads to the {side} prompt alone")
        return None

    def _model(self, node: _Node) -> dict[str, Any]:
        """Returns the values of the node that loads the main model, past adapters."""
        for _ in range(_DEEPEST):
            source = self._source(node, "unet")
            if source is None or isinstance(source.values.get("model"), dict):
                return source.values if source else {}
            node = source
        return {}


def _sd_metadata(metadata: dict[str, Any]) -> Provenance:
    image = fields(metadata.get("image"))
    notes: tuple[str, ...] = ()
    of_grid = metadata.get("images")
    images = [fields(each) for each in of_grid] if isinstance(of_grid, list) else []
    if not image and images:
        notes += (f"the file is a grid of {len(images)} images; only their common settings are known",)
        first, *rest = images
        image = {key: value for key, value in first.items() if all(each.get(key) == value for each in rest)}
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        if len(prompt) > 1:
            notes += (f"the image was generated from a blend of {len(prompt)} prompts; the prompt is all of them",)
        # InvokeAI blends these prompts by their weights, which a single prompt cannot express.
        prompt = ", ".join(str(fields(part).get("prompt", "")) for part in prompt)
    positive, negative = _split(prompt) if isinstance(prompt, str) else (None, None)
    used = ("prompt", "seed", "steps", "sampler", "cfg_scale", "width", "height")
    return Provenance(
        TOOL,
        str(metadata.get("app_version", "")),
        known(
            prompt=positive,
            negative_prompt=negative,
            seed=image.get("seed"),
            steps=image.get("steps"),
            **sampling(image.get("sampler")),
            scale=image.get("cfg_scale"),
            width=image.get("width"),
            height=image.get("height"),
            model=metadata.get("model_weights") or metadata.get("model_id"),
            model_hash=metadata.get("model_hash"),
        ),
        other := others(image, used),
        (*notes, OTHER_IMAGE) if image.get("type") == "img2img" else notes,
        harmless(other, ("type",)),
    )


def _dream(command: str) -> Provenance:
    """Reads a command line, a quoted prompt and options: "a cat [dogs]" -s50 -S 7 -W512 -H512 -C7.5 -Ak_lms."""
    prompt, rest = command, ""
    if options := deque(_OPTIONS.finditer(command), 1):
        prompt, rest = command[: options[0].start()], command[options[0].start() :]
        if len(prompt) > 1 and prompt[0] == prompt[-1] == '"':
            prompt = re.sub(r"\\([\"\\])", r"\1", prompt[1:-1])
    elif command.startswith('"'):
        try:
            prompt, end = json.JSONDecoder().raw_decode(command)
            rest = command[end:]
        except ValueError:
            prompt, _, rest = command[1:].rpartition('"')
    elif option := _OPTION.search(command):
        prompt, rest = command[: option.start()], command[option.start() :]
    notes: tuple[str, ...] = ()
    if len(rest) > _LONGEST:
        notes = (f"options after {_LONGEST:,} characters are not read",)
        rest = rest[:_LONGEST]
    try:
        arguments = shlex.split(rest)
    except ValueError:
        arguments = rest.split()
    # An option is followed by any number of values; the last one of its name has an effect.
    given: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        if option := re.fullmatch(r"-(?:-(\w+)=?|(tm|ft|cf|[A-Za-z]))(.*)", argument, re.DOTALL):
            name = LONG.get(option[1], option[1]) if option[1] else option[2]
            given[name] = [option[3]] if option[3] else []
        elif name:
            given[name].append(argument)
    values = {DREAM[name]: " ".join(given.pop(name)) for name in list(given) if name in DREAM}
    # Variations, other images and upscaling change the image.
    other = {"Dream": command} | {
        f"-{name}" if len(name) < 3 else f"--{name}": " ".join(each) for name, each in given.items()
    }
    positive, negative = _split(prompt)
    given = known(prompt=positive, negative_prompt=negative, **(values | sampling(values.get("sampler"))))
    if {"-I", "--init_img"} & other.keys():
        notes += (OTHER_IMAGE,)
    return Provenance(TOOL, "", given, other, notes, frozenset({"Dream"}))


def _split(prompt: str) -> tuple[str, str]:
    """Splits off the negative prompt, which is in square brackets; returns the prompt and the negative prompt."""
    negative = re.findall(r"\[([^][]*)\]", prompt)
    return re.sub(r"\[[^][]*\]", "", prompt).strip(), ", ".join(negative)
