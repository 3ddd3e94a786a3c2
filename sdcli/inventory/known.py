"""The models that have a name of their own, from `known.json`: where they are, their size and licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).with_name("known.json")


class Known(BaseModel):
    """A model or an adapter on the Hugging Face hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    kind: Literal["model", "LoRA", "embedding", "VAE"]
    hub: str
    """Its repository."""
    file: str = ""
    """Its file; empty for a whole folder of diffusers."""
    save_as: str = Field(default="", alias="as")
    """The name of the file here, if the one on the hub says nothing."""
    bytes: int
    """Its size; approximate for a folder."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    license: str


@cache
def by_name() -> Mapping[str, Known]:
    """All of them, in the order of the file."""
    found = [Known.model_validate(each) for each in json.loads(FILE.read_text(encoding="utf-8"))["models"]]
    return {each.name: each for each in found}
