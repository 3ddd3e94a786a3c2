"""Tokenizers, from a folder with a vocabulary or from the vocabularies that ship with sdcli."""

from __future__ import annotations

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
