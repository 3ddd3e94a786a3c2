"""Reduces CLIP's tokenizer to the tokens of the captions and the most common other ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from transformers.models.clip.tokenization_clip import CLIPTokenizer

COMMON = 4000
"""Number of CLIP's merges that are always kept. They are ordered by frequency, so most words that no caption has are
still one token and not a sequence of letters."""

CONFIG = "tokenizer_config.json"


def write_smaller(clip: Path, words: Iterable[str], folder: Path) -> None:
    """Writes a tokenizer that tokenizes texts of these words like CLIP's, with a smaller vocabulary.

    Byte pair encoding applies the first merge of its list that matches. It gives the same result as long as the list
    contains all merges that lead to the tokens of the words, in the same order.

    Args:
        clip: folder with CLIP's `vocab.json`, `merges.txt` and `tokenizer_config.json`.
        folder: folder for the same three files; created if it does not exist.
    """
    numbers: dict[str, int] = json.loads((clip / "vocab.json").read_text("utf-8"))
    head, *lines = (clip / "merges.txt").read_text("utf-8").splitlines()
    # CLIP's merges.txt has more merges than its vocabulary.
    pairs = {line.replace(" ", ""): line for line in lines if line.replace(" ", "") in numbers}
    full = CLIPTokenizer.from_pretrained(clip, local_files_only=True)
    kept = set(list(pairs)[:COMMON])
    rows = full(sorted(set(words)), add_special_tokens=False)["input_ids"]
    waiting = full.convert_ids_to_tokens(sorted({token for row in rows for token in row}))
    waiting += kept
    while waiting:
        token = waiting.pop()
        if token in pairs:
            kept.add(token)
            waiting += [part for part in pairs[token].split() if part in pairs and part not in kept]
    merges = [line for token, line in pairs.items() if token in kept]
    vocabulary = [
        token for token in sorted(numbers, key=lambda token: numbers[token]) if token not in pairs or token in kept
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join([head, *merges]) + "\n", "utf-8")
    shutil.copyfile(clip / CONFIG, folder / CONFIG)
