"""Tokenizers, with the vocabulary of a model's folder or the one that ships with sdcli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcli.errors import ModelError
from sdcli.models.families import Family


def load(family: Family, folder: Path, length: int) -> Any:
    """The tokenizer with the vocabulary in `folder`; with the shipped one if the folder has none.

    Args:
        family: the model's family, which decides the classes and names of files.
        folder: with a vocabulary or without; need not exist.
        length: number of tokens that the text encoder takes, stored as `model_max_length`.

    Raises:
        ModelError: the vocabulary cannot be read, or is for another tokenizer.
    """
    own = any((folder / name).is_file() for name in family.vocabulary_files)
    # Not the class itself: called with the names of files, it ignores them, and every word is unknown.
    try:
        loaded = family.tokenizer_class().from_pretrained(folder if own else family.vocabulary, local_files_only=True)
    except Exception as error:  # the libraries raise many types for a broken vocabulary
        raise ModelError(f"the vocabulary in {folder} cannot be read", why=f"{error!r}.") from error
    loaded.model_max_length = length
    if len(set(loaded("a red apple").input_ids)) < 4:
        raise ModelError(f"the vocabulary in {folder} does not fit its tokenizer", why="Every word is unknown to it.")
    return loaded


@dataclass(frozen=True)
class PromptLength:
    """How much of a prompt a model reads.

    tokens: number of tokens of the prompt, including those for its beginning and end.
    limit: number of tokens that the model reads.
    cut: the end of the prompt that exceeds the limit, as written; "" if the model reads all.
    """

    tokens: int
    limit: int
    cut: str


def measure(tokenizer: Any, prompts: Sequence[str]) -> list[PromptLength]:
    """The length of each prompt.

    Args:
        tokenizer: as `load` returns it.
        prompts: one or more.
    """
    encoded = tokenizer(list(prompts), return_offsets_mapping=True)
    limit = tokenizer.model_max_length
    lengths = []
    for prompt, ids, offsets in zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        # The last token that the model reads is the one for the end.
        cut = prompt[offsets[limit - 1][0] :].strip() if len(ids) > limit else ""
        lengths.append(PromptLength(len(ids), limit, cut))
    return lengths
