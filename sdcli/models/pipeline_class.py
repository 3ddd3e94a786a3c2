"""What the installed diffusers says of the class of a pipeline, read from its source text, so that nothing is imported.

The source text belongs to the installed library. The files of a model never lead to code: they only name a class.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REQUIRED = object()
"""The default of a parameter that has none."""
UNKNOWN = object()
"""The default of a parameter that is not a literal."""
_NEEDED = {"prompt", "height", "width", "num_inference_steps", "output_type"}
_OTHER_INPUTS = re.compile(r"control.*|mask_image|.*video.*|.*frames.*|.*audio.*")
_IMAGES = {"image", "images", "input_images"}


@dataclass(frozen=True)
class PipelineClass:
    """A class of `diffusers.pipelines`.

    Attributes:
        name: its name.
        parameters: the defaults of what `__call__` takes, by name; `REQUIRED` or `UNKNOWN` for some.
        arguments: the names of what the constructor takes.
        sample_size: the side of the latents that it generates by default, if its source says so.
        in_table: whether diffusers lists it among the pipelines of `AutoPipelineForText2Image`.
    """

    name: str
    parameters: Mapping[str, Any]
    arguments: tuple[str, ...]
    sample_size: int | None
    in_table: bool

    @property
    def makes_images_of_text(self) -> bool:
        """Whether a prompt is all that it needs, and images are what it returns."""
        names = self.parameters.keys()
        required = {name for name, value in self.parameters.items() if value is REQUIRED}
        return (
            names >= _NEEDED
            and required <= {"prompt"}
            and self.parameters["output_type"] == "pil"
            and not any(map(_OTHER_INPUTS.fullmatch, names))
            and (self.in_table or names.isdisjoint(_IMAGES))
        )

    def default(self, *names: str) -> Any:
        """The default of the first of these parameters that has one other than None; None if none has."""
        values = (self.parameters.get(name) for name in names)
        return next((value for value in values if value not in (None, REQUIRED, UNKNOWN)), None)


@cache
def find(name: str) -> PipelineClass | None:
    """The class of this name; None if the installed diffusers has no such pipeline."""
    if not name.isidentifier():
        return None
    head = f"\nclass {name}(".encode()
    for path in _sources():
        content = path.read_bytes()
        if head not in content:
            continue
        found = next(node for node in ast.parse(content).body if isinstance(node, ast.ClassDef) and node.name == name)
        methods = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}
        if "__call__" not in methods or "__init__" not in methods:
            return None
        return PipelineClass(
            name,
            dict(_parameters(methods["__call__"])),
            tuple(each for each, _ in _parameters(methods["__init__"])),
            _sample_size(methods["__init__"]),
            name in _table(),
        )
    return None


def names() -> tuple[str, ...]:
    """The names of the pipelines that make images of text, sorted."""
    found = {
        name.decode() for path in _sources() for name in re.findall(rb"^class (\w+Pipeline)\(", path.read_bytes(), re.M)
    }
    return tuple(sorted(name for name in found if (each := find(name)) and each.makes_images_of_text))


@cache
def folder() -> Path:
    """The folder of diffusers' pipelines."""
    spec = find_spec("diffusers")
    assert spec is not None, "it is installed with sdcli"
    assert spec.origin is not None, "it is a regular package"
    return Path(spec.origin).parent / "pipelines"


@cache
def _sources() -> tuple[Path, ...]:
    return tuple(path for path in sorted(folder().rglob("pipeline_*.py")) if "onnx" not in path.name)


@cache
def _table() -> frozenset[str]:
    """The classes that diffusers lists for `AutoPipelineForText2Image`."""
    text = (folder() / "auto_pipeline.py").read_text(encoding="utf-8")
    table = re.search(r"^AUTO_TEXT2IMAGE_PIPELINES_MAPPING = .*?^\)", text, re.MULTILINE | re.DOTALL)
    later = re.findall(r"^\s*AUTO_TEXT2IMAGE_PIPELINES_MAPPING\[.*?\] = (\w+)", text, re.MULTILINE)
    return frozenset([*re.findall(r"\"[\w-]+\", (\w+)\)", table[0] if table else ""), *later])


def _parameters(method: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    """The parameters of a method without `self`, and their defaults."""
    arguments = method.args
    by_place = arguments.args[1:]
    given = arguments.defaults[-len(by_place) :] if by_place else []
    defaults = [None] * (len(by_place) - len(given)) + given
    for argument, value in [
        *zip(by_place, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]:
        yield argument.arg, REQUIRED if value is None else _literal(value)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _sample_size(method: ast.FunctionDef) -> int | None:
    """The number that a constructor assigns to `self.default_sample_size`."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "self.default_sample_size":
            value = _literal(node.value)
            return value if isinstance(value, int) else None
    return None
