"""Tokenizers, with the vocabulary of a model's folder or the one that ships with sdcli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcli.errors import ModelError
from sdcli.models.families import Family

MAX_SIZE = 20_000_000
"""Bytes of a file of a tokenizer; the largest known has 4 million."""


def load(family: Family, folder: Path, length: int, *, vocabulary: int | None = None, pad_token: str = "") -> Any:
    """The tokenizer with the vocabulary in `folder`; with the shipped one if the folder has none.

    Args:
        family: the model's family, which decides the classes and names of files.
        folder: with a vocabulary or without; need not exist.
        length: number of tokens that the text encoder takes, stored as `model_max_length`.
        vocabulary: number of tokens that the text encoder knows; None if it is unknown.
        pad_token: the token that fills prompts up; empty: as the vocabulary says.

    Raises:
        ModelError: the vocabulary cannot be read, or is for another tokenizer or text encoder.
    """
    own = any((folder / name).is_file() for name in family.vocabulary_files)
    chosen = folder if own else family.vocabulary
    # Not the class itself: called with the names of files, it ignores them, and every word is unknown.
    try:
        _require_small(chosen)
        loaded = family.tokenizer_class().from_pretrained(chosen, local_files_only=True)
        loaded.model_max_length = length
        if pad_token:
            # As an attribute only: a token that is added to the vocabulary would be found in prompts.
            loaded.pad_token = pad_token
        tokens = loaded("a red apple").input_ids
        # As prompts are encoded and measured: special tokens may be missing, or of the wrong type.
        padded = loaded(
            ["a", ""], truncation=True, max_length=length, padding="max_length", return_offsets_mapping=True
        ).input_ids
        if any(len(ids) != length for ids in padded):
            raise ValueError(f"It does not pad prompts to {length} tokens")
        largest = max(*loaded.get_vocab().values(), *padded[1])
    except Exception as error:  # the libraries raise many types for a broken vocabulary
        raise ModelError(f"the vocabulary in {folder} cannot be read", why=f"{error!r}.") from error
    if len(set(tokens)) < 4:
        raise ModelError(f"the vocabulary in {folder} does not fit its tokenizer", why="Every word is unknown to it.")
    if vocabulary is not None and largest >= vocabulary:
        raise ModelError(
            f"the vocabulary in {folder} does not fit the text encoder"
            if own
            else f"the model is incomplete: {folder} contains no vocabulary",
            why=f"Tokens go up to {largest}{'' if own else ' in the one that sdcli has'}, and the text encoder knows "
            f"{vocabulary}.",
            fix="Download the model again.",
        )
    return loaded


def _require_small(folder: Path) -> None:
    """Raise `ValueError` if a file is larger than any vocabulary."""
    for file in folder.iterdir():
        if file.is_file() and file.stat().st_size > MAX_SIZE:
            raise ValueError(f"{file.name} has more than {MAX_SIZE:,} bytes")


@dataclass(frozen=True)
class PromptLength:
    """How much of a prompt a model reads.

    tokens: number of tokens of the prompt, including those for its beginning and end.
    limit: number of tokens that the model reads.
    cut: the end of the prompt that exceeds the limit, as written; "" if the model reads all.
    chunks: number of chunks that the prompt is encoded in, each with `limit` tokens.
    """

    tokens: int
    limit: int
    cut: str
    chunks: int = 1


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
