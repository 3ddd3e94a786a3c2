"""Tokenizers, from a folder with a vocabulary or from the vocabularies that ship with sdcli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.models.bert.tokenization_bert import BertTokenizer
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from sdcli.errors import ModelError
from sdcli.models import shipped


def load(kind: Literal["clip", "bert"], folder: Path, length: int) -> Any:
    """The tokenizer in `folder`; with the shipped vocabulary if the folder has none of its own.

    Args:
        kind: which text encoder it is for.
        folder: with `vocab.json` and `merges.txt`, `vocab.txt`, or `tokenizer.json`; need not exist.
        length: how many tokens the text encoder takes, kept as `model_max_length`.

    Raises:
        ModelError: a vocabulary that cannot be read.
    """
    tokenizer: Any
    if kind == "clip":
        tokenizer, vocabularies, ours = CLIPTokenizer, ("vocab.json", "tokenizer.json"), shipped.CLIP
    else:
        tokenizer, vocabularies, ours = BertTokenizer, ("vocab.txt", "tokenizer.json"), shipped.BERT
    own = any((folder / name).is_file() for name in vocabularies)
    # Only from_pretrained reads vocabularies: given to the class by name, files are ignored and every word is unknown.
    try:
        loaded: Any = tokenizer.from_pretrained(folder if own else ours, local_files_only=True)
    except Exception as error:  # the libraries raise what they please for a broken vocabulary
        raise ModelError(f"the vocabulary in {folder} cannot be read", why=f"{error!r}.") from error
    loaded.model_max_length = length
    if len(set(loaded("a red apple").input_ids)) < 4:
        raise ModelError(f"the vocabulary in {folder} does not fit its tokenizer", why="Every word is unknown to it.")
    return loaded


@dataclass(frozen=True)
class Words:
    """A prompt as a model reads it.

    tokens: how many it has, with those for its beginning and end.
    limit: how many the model reads.
    cut: the end of the prompt that does not fit, as it was written; "" where all fits.
    """

    tokens: int
    limit: int
    cut: str


def words(tokenizer: Any, prompts: Sequence[str]) -> list[Words]:
    """How a tokenizer as `load` gives it reads prompts."""
    encoded = tokenizer(list(prompts), return_offsets_mapping=True)
    limit = tokenizer.model_max_length
    read = []
    for prompt, ids, offsets in zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        # The last place is taken by the end token.
        cut = prompt[offsets[limit - 1][0] :].strip() if len(ids) > limit else ""
        read.append(Words(len(ids), limit, cut))
    return read
