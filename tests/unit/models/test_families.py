"""Model families: the table, encoding of prompts, and a new family from one file and one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

from sdcli.errors import ModelError
from sdcli.models import checkpoint_config, checkpoint_file, families, find
from sdcli.models.conditioning import stacked
from sdcli.models.model import ModelRequest
from sdcli.models.renaming import OPEN_CLIP, TEXT
from sdcli.registry import FAMILIES
from tests.jobs import job

if TYPE_CHECKING:
    from tests.conftest import SmallCheckpoint

CPU = torch.device("cpu")
OPEN_CLIP_SHAPES = {
    "token_embedding.weight": (49408, 1024), "positional_embedding": (77, 1024),
    "transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024),
}  # fmt: skip
CLIP_SHAPES = {
    "embeddings.token_embedding.weight": (49408, 768), "embeddings.position_embedding.weight": (77, 768),
    "encoder.layers.0.mlp.fc1.weight": (3072, 768),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FAMILIES if families.get(name).example_config])
def test_every_family_has_its_shipped_files(name: str) -> None:
    family = families.get(name)
    assert any((family.vocabulary / file).is_file() for file in family.vocabulary_files)
    config = checkpoint_config.read(checkpoint_config.find(family.example_config))
    assert checkpoint_config.family_of(config) == name
    folder = family.text_folder(config, checkpoint_config.find(family.example_config))
    shapes = {f"{OPEN_CLIP}{name}": shape for name, shape in OPEN_CLIP_SHAPES.items()}
    shapes |= {f"{TEXT}transformer.text_model.{name}": shape for name, shape in CLIP_SHAPES.items()}
    assert family.max_length(family.text_config(config, folder, shapes)) == 77
    named = [checkpoint_config.read(checkpoint_config.find(each)) for each in family.configs.values()]
    assert [each.model.params.parameterization for each in named] == list(family.configs)
    assert {checkpoint_config.family_of(each) for each in named} <= {name}


@pytest.mark.parametrize("field", ["label", "embedder", "tensor_prefixes"])
def test_families_differ_in_every_field_that_identifies_them(field: str) -> None:
    values = [value for family in FAMILIES.values() if (value := getattr(family, field))]
    count = sum(1 if isinstance(value, str) else len(value) for value in values)
    assert len(families.each(field)) == count


def test_families_differ_in_their_text_encoders() -> None:
    pairs = [(one, bool(family.text_encoders_2)) for family in FAMILIES.values() for one in family.text_encoders]
    assert len(set(pairs)) == len(pairs)


def test_encoding_returns_one_row_per_prompt(small_folder: Path) -> None:
    model = find(ModelRequest(model=str(small_folder))).load(CPU, lambda _: None)
    family = families.get(model.spec.family)
    prompts = ["a red apple", "", "a red apple", "a cat " * 100]
    with torch.inference_mode():
        embeddings, _ = stacked(family.encode(model, prompts))
        assert embeddings.shape == (4, 77, 64)
        assert torch.equal(embeddings[0], embeddings[2]) and not torch.equal(embeddings[0], embeddings[1])
        ids = torch.tensor(model.tokenizer([""], padding="max_length", truncation=True).input_ids)
        torch.testing.assert_close(embeddings[1:2], model.text_encoder(ids)[0])


NEW_FAMILY = """
from dataclasses import replace

from sdcli.models.families.sd1 import StableDiffusion1


class Dummy(StableDiffusion1):
    label = "dummy"
    folder_models = checkpoint_models = "Dummy Diffusion"
    text_encoders = ("DummyTextModel",)
    embedder = "DummyEmbedder"
    tensor_prefixes = ("cond_stage_model.dummy.",)

    def convert_text_encoder(self, tensors, config, folder, *, source, config_name):
        renamed = {name.replace(".dummy.", ".transformer."): tensor for name, tensor in tensors.items()}
        return super().convert_text_encoder(renamed, config, folder, source=source, config_name=config_name)

    def encode(self, model, prompts):
        return [replace(each, embeddings=each.embeddings * 2) for each in super().encode(model, prompts)]


FAMILY = Dummy()
"""


@pytest.fixture
def dummy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new family: one file, one line."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "dummy_family.py").write_text(NEW_FAMILY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setitem(FAMILIES.paths, "dummy", "dummy_family:FAMILY")


def test_a_new_family_reads_its_folders(dummy: None, small_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["dummy", "DummyTextModel"]}))
    model = find(ModelRequest(model=str(folder))).load(CPU, lambda _: None)
    assert model.spec.family == "dummy"
    base = find(ModelRequest(model=str(small_folder))).load(CPU, lambda _: None)
    with torch.inference_mode():
        (encoding,) = families.get("dummy").encode(model, ["a cat"])
        (plain,) = families.get("sd1").encode(base, ["a cat"])
        torch.testing.assert_close(encoding.embeddings, plain.embeddings * 2)
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["dummy", "Other"]}))
    with pytest.raises(ModelError, match="Dummy Diffusion") as raised:
        find(ModelRequest(model=str(folder)))
    assert "DummyTextModel" in raised.value.what


def test_a_new_family_reads_its_checkpoints(dummy: None, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    tensors = checkpoint_file.read_tensors(small_checkpoint.ckpt)
    renamed = {
        name.replace("cond_stage_model.transformer.", "cond_stage_model.dummy."): t for name, t in tensors.items()
    }
    torch.save({"state_dict": renamed}, tmp_path / "m.ckpt")
    content = yaml.safe_load(small_checkpoint.config.read_text())
    content["model"]["params"]["cond_stage_config"]["target"] = "dummy.DummyEmbedder"
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    shutil.copytree(small_checkpoint.config.parent / "clip", tmp_path / "clip")
    source = find(ModelRequest(ckpt=str(tmp_path / "m.ckpt"), config=str(tmp_path / "m.yaml")))
    assert source.spec.family == "dummy"
    model = source.load(CPU, lambda _: None)
    assert model.text_encoder.config.hidden_size == 64 and model.tokenizer.model_max_length == 77
    with pytest.raises(ModelError, match="contains a dummy text encoder, the configuration describes CLIP"):
        find(ModelRequest(ckpt=str(tmp_path / "m.ckpt"), config=str(small_checkpoint.config)))


def test_weights_and_chunks_of_any_family(small_laion_checkpoint: SmallCheckpoint) -> None:
    source = find(ModelRequest(ckpt=str(small_laion_checkpoint.ckpt), config=str(small_laion_checkpoint.config)))
    model = source.load(CPU, lambda _: None)

    def encoded(**settings: object) -> torch.Tensor:
        conditioning = families.get("ldm").condition(model, [job(steps=4, **settings)])
        return conditioning.prompt

    with torch.inference_mode():
        plain = encoded(prompt="a red cat")
        assert torch.equal(encoded(prompt="a red cat", prompt_syntax="a1111"), plain)
        weighted = encoded(prompt="a (red:1.5) cat", prompt_syntax="a1111")
        by_hand = plain.clone()
        by_hand[:, 2] *= 1.5
        torch.testing.assert_close(weighted, by_hand * plain.mean() / by_hand.mean())
        assert encoded(prompt="a red cat, " * 40, long_prompt="chunk").shape == (1, 3 * 77, plain.shape[2])
