"""Files with embeddings in every layout, and models that know their words."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdcli.errors import ModelError
from sdcli.models import families
from sdcli.models.adapters.embedding import EmbeddingFile, Words
from sdcli.models.adapters.lora import Adapted
from sdcli.models.conditioning import stacked
from sdcli.models.model import Model
from sdcli.models.shipped import VOCABULARIES
from tests.jobs import job
from tests.unit.pipeline.toy_model import SPEC

VECTORS = torch.arange(32.0).reshape(2, 16) / 10


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    config = CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    tokenizer = CLIPTokenizer.from_pretrained(VOCABULARIES / "clip")
    spec = SPEC.model_copy(update={"text_width": 16})
    unet = nn.Linear(1, 1)
    unet.config = CLIPTextConfig()  # type: ignore[assignment]
    return Model(spec, tokenizer, CLIPTextModel(config).eval(), unet, None, torch.device("cpu"))


def _parameters() -> Any:
    parameters = nn.ParameterDict()
    parameters["*"] = nn.Parameter(VECTORS)
    return parameters


FILES = {
    "a1111.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "x", "step": 100},
    "parameter.pt": {"string_to_param": OrderedDict({"*": nn.Parameter(VECTORS)})},
    "compvis.pt": {"string_to_param": _parameters()},
    "learned_embeds.bin": {"<cat-toy>": VECTORS},
    "one.bin": {"<cat-toy>": VECTORS[0]},
    "single.safetensors": {"emb_params": VECTORS},
}


@pytest.mark.parametrize("name", FILES)
def test_layouts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save: Any = save_file if path.suffix == ".safetensors" else torch.save
    save(FILES[name], path)
    file = EmbeddingFile.read(path)
    expected = VECTORS[:1] if name == "one.bin" else VECTORS
    assert len(file.tables()) == 1 and torch.equal(file.tables()[0], expected)
    assert (file.vectors, *file.widths) == expected.shape
    assert file.words == ((path.stem, "<cat-toy>") if path.suffix == ".bin" else (path.stem,))
    assert EmbeddingFile.read(path, "toy").words == ("toy",)


def _file(folder: Path, name: str = "toy", vectors: torch.Tensor = VECTORS) -> EmbeddingFile:
    save_file({"emb_params": vectors}, folder / f"{name}.safetensors")
    return EmbeddingFile.read(folder / f"{name}.safetensors")


def test_a_word_has_its_vectors_in_the_prompt_and_the_model_is_as_before_after_it(model: Model, tmp_path: Path) -> None:
    family = families.get("sd1")
    prompts = ["a toy on grass", "a Toy, (toy:1.2) toys"]
    before, _ = stacked(family.encode(model, prompts))
    table = model.text_encoder.get_input_embeddings().weight.clone()
    words = Words([_file(tmp_path)])
    adapted = Adapted(model)
    adapted.use([], words)
    read = [words.read(prompt) for prompt in prompts]
    ids = adapted.model.tokenizer(read)["input_ids"]
    rows = model.text_encoder.get_input_embeddings().weight
    assert torch.equal(rows[ids[0]][2:4], VECTORS)
    assert ids[1].count(ids[0][2]) == 2, "as part of another word it is text"
    plain = model.tokenizer("a cat on grass")["input_ids"]
    assert [ids[0][:2], ids[0][4:]] == [plain[:2], plain[3:]]
    encoded, _ = stacked(family.encode(adapted.model, read))
    assert not torch.allclose(encoded[0], before[0], atol=1e-3)
    adapted.use([])
    assert torch.equal(model.text_encoder.get_input_embeddings().weight, table)
    assert adapted.model is model
    assert torch.equal(stacked(family.encode(model, prompts))[0], before)


def test_texts_of_a_job_and_what_is_shown_of_them(tmp_path: Path) -> None:
    words = Words([_file(tmp_path), _file(tmp_path, "toy box", torch.ones(1, 16))])
    one = words.job(job(prompt="a toy", negative_prompt="toy box", read_as=None))
    assert one.prompt == "a toy"
    assert one.encoded == "a \ue000\ue001"
    assert one.negative_prompt == "\ue002"
    assert words.shown("\ue001 in a \ue002, \ue000\ue001") == " in a toy box, toy"


def test_files_that_are_none_are_refused(model: Model, tmp_path: Path) -> None:
    for tensors, expected in (
        ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(2, 1280)}, "is not a textual inversion"),
        ({"a": torch.ones(1, 4), "b": torch.ones(1, 4)}, "is not a textual inversion"),
        ({"a": torch.ones(1, 4, 4)}, "is not a textual inversion"),
    ):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(ModelError, match=expected):
            EmbeddingFile.read(tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="does not fit the model m") as error:
        _file(tmp_path, "wide", torch.ones(1, 768)).require_fit(model.spec)
    assert "made for Stable Diffusion 1" in error.value.why
    with pytest.raises(ModelError, match="not finite"):
        _file(tmp_path, "nan", torch.full((1, 16), torch.nan)).tables()


def test_an_embedding_for_two_text_encoders(model: Model, tmp_path: Path) -> None:
    save_file({"clip_g": torch.ones(2, 1280), "clip_l": torch.zeros(2, 768)}, tmp_path / "x.safetensors")
    file = EmbeddingFile.read(tmp_path / "x.safetensors")
    assert (file.vectors, file.widths, file.words) == (2, (768, 1280), ("x",))
    assert [table.mean() for table in file.tables()] == [0, 1]
    file.require_fit(SPEC.model_copy(update={"text_width": 2048}))
    with pytest.raises(ModelError, match="does not fit the model m") as error:
        file.require_fit(SPEC.model_copy(update={"text_width": 768}))
    assert "made for Stable Diffusion XL" in error.value.why
    with pytest.raises(ModelError, match="does not fit the model m") as error:
        Words([file]).model(model)
    assert "It is for 2 text encoders, and the model has 1" in error.value.why
