"""Tokenizers and shipped vocabularies: a mistake here changes images without an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sdcli.errors import ModelError
from sdcli.models import families, tokenizer

CLIP, BERT = families.get("sd1"), families.get("ldm")


def test_clip_tokens() -> None:
    clip = tokenizer.load(CLIP, CLIP.vocabulary, 77)
    ids = [49406, 320, 8853, 539, 550, 18376, 6765, 320, 4558, 49407]
    assert clip("a photograph of an astronaut riding a horse").input_ids == ids
    padded = clip("", padding="max_length", truncation=True).input_ids
    assert clip.model_max_length == 77 and padded == [49406] + [49407] * 76


def test_bert_tokens() -> None:
    bert = tokenizer.load(BERT, BERT.vocabulary, 77)
    assert bert("A red Apple").input_ids == [101, 1037, 2417, 6207, 102]
    padded = bert("", padding="max_length", truncation=True).input_ids
    assert bert.model_max_length == 77 and padded == [101, 102] + [0] * 75


def test_a_folder_without_a_vocabulary_uses_the_shipped_one(tmp_path: Path) -> None:
    assert tokenizer.load(CLIP, tmp_path, 77)("a red apple").input_ids == [49406, 320, 736, 3055, 49407]
    assert tokenizer.load(BERT, tmp_path / "none", 20).model_max_length == 20


def test_a_folder_with_a_vocabulary_uses_it(tmp_path: Path) -> None:
    shutil.copytree(CLIP.vocabulary, tmp_path, dirs_exist_ok=True)
    words = json.loads((tmp_path / "vocab.json").read_text())
    words["red</w>"], words["apple</w>"] = words["apple</w>"], words["red</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    assert tokenizer.load(CLIP, tmp_path, 77)("a red apple").input_ids == [49406, 320, 3055, 736, 49407]


def test_a_broken_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ModelError, match=r"the vocabulary in .* cannot be read"):
        tokenizer.load(CLIP, tmp_path, 77)


def test_a_vocabulary_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ModelError, match="Every word is unknown"):
        tokenizer.load(BERT, tmp_path, 77)
