"""Shapes that no model has are refused: a file says what it likes."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from originals import release

from sdcli.errors import ModelError
from sdcli.models import architecture, checkpoint_config, conversion, families, recognition, renaming
from sdcli.models.checkpoint_file import Shapes
from sdcli.models.hints import Hints
from sdcli.models.sources.checkpoint import OriginalModel

FAMILIES = ("sd1", "sd2", "sdxl")
READ = re.compile(
    r"input_blocks\.[0-4]\.0|out\.2|attn2\.to_k|middle_block\.1|label_emb|in_layers\.2|emb_layers|proj_in|"
    r"decoder\.(conv|norm)|post_quant|conv1|embedding|resblocks\.0\.|layers\.0\.|text_projection"
)
"""Names of tensors that decide something."""
SHAPES = [(), (0,), (1,), (0, 0), (3, 0, 1, 1), (2**40, 4, 3, 3), (7, 5, 3, 3), (1, 1), (100_001, 2)]


@pytest.fixture(scope="module")
def shapes() -> dict[str, Shapes]:
    return {
        family: renaming.original_names({name: tuple(each.shape) for name, each in release(family).items()})
        for family in FAMILIES
    }


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(), changes=st.integers(1, 40))
def test_any_shapes(shapes: dict[str, Shapes], family: str, seed: int, changes: int) -> None:
    chance = random.Random(seed)
    changed = dict(shapes[family])
    read = [name for name in changed if READ.search(name)]
    for name in chance.sample(read, changes):
        if chance.random() < 0.3:
            del changed[name]
        else:
            changed[name] = chance.choice(SHAPES)
    try:
        recognition.check(Path("m"), changed)
        config = architecture.configuration(Path("m"), family, changed)
        checkpoint_config.check(Path("m"), config)
        spec = checkpoint_config.spec_of(config, "m")
        assert spec.size_multiple > 0 and spec.latent_channels > 0
        conversion.described_unet(config)
        model = OriginalModel(Path("m"), None, config, None, changed, Hints())
        assert families.get(family).max_length(model._text_config()) >= 0
    except ModelError:
        pass
