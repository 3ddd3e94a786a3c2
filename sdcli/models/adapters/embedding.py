"""Textual inversion (Gal et al., 2022): files with the embeddings of a new word, and models that know such words.

In a prompt, a word becomes one character for each of its vectors, from Unicode's area for private use; a copy of the
tokenizer and the table of embeddings know them as tokens. So a word may stand wherever text may stand: weights,
chunks and alternatives see ordinary characters. The model's own tokenizer does not change, and its table comes back.

Layouts: one tensor by any name (diffusers: the token; A1111: `emb_params`), or `string_to_param` (CompVis, A1111); for
Stable Diffusion XL a tensor for each text encoder, `clip_l` and `clip_g`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcli.errors import ModelError
from sdcli.models import checkpoint_file, chunks, recognition
from sdcli.models.adapters.layouts import WIDTHS
from sdcli.models.chunks import Encoded, Runs
from sdcli.models.tokenizer import PromptLength

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.model_spec import ModelSpec
    from sdcli.models.model import Model

FIRST = 0xE000
"""The first character for private use."""
MOST_VECTORS = 0x1900
"""Vectors of all embeddings: there are as many such characters."""
_OF_XL = ("clip_l", "clip_g")
"""The tensors of a file for two text encoders."""
_NO_WORD = ("*", "emb_params", *_OF_XL)
"""Names of tensors that are no words."""


@dataclass(frozen=True)
class EmbeddingFile:
    """The table of contents of a file with the embedding of a word.

    Attributes:
        path: the file.
        tensors: the name of its tensor for each text encoder.
        vectors: how many vectors the word has.
        widths: their width for each text encoder.
        words: what stands for it in prompts: the word that the user gives, or else the file's name and its token.
    """

    path: Path
    tensors: tuple[str, ...]
    vectors: int
    widths: tuple[int, ...]
    words: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, word: str = "") -> EmbeddingFile:
        """Read the names and shapes of a file, without torch.

        Raises:
            ModelNotFound: the file does not exist.
            ModelError: it is damaged, or not a textual inversion.
        """
        shapes = checkpoint_file.shapes(path)
        names = _OF_XL if shapes.keys() == set(_OF_XL) else tuple(shapes)
        each = [shapes[name] if len(shapes[name]) == 2 else (1, *shapes[name]) for name in names]
        alike = all(len(shape) == 2 and all(shape) and shape[0] == each[0][0] for shape in each)
        if not alike or len(names) != (2 if names == _OF_XL else 1):
            shown = ", ".join(list(shapes)[:3]) + (", ..." if len(shapes) > 3 else "")
            seems, fix = recognition.described(shapes, "embedding")
            why = f"It has {len(shapes):,} tensors: {shown}." if shapes else "It has no tensors."
            raise ModelError(
                f"{path} is not a textual inversion",
                why=f"It seems to be {seems}." if seems else why,
                fix=fix or "Pass a file with the embedding of one word; --lora takes LoRAs.",
            )
        own = [name for name in names if name not in _NO_WORD]
        words = (word,) if word else tuple(dict.fromkeys((path.stem, *own)))
        return cls(path, names, each[0][0], tuple(width for _, width in each), words)

    def require_fit(self, spec: ModelSpec) -> None:
        """Check that the vectors have the width of the model's embeddings.

        Raises:
            ModelError: they have another one.
        """
        width = sum(self.widths)
        if spec.text_width and width != spec.text_width:
            kind = WIDTHS.get(width)
            raise ModelError(
                f"the embedding {self.path} does not fit the model {spec.name}",
                why=f"Its vectors have the width {width}, those of the model {spec.text_width}."
                + (f" It was made for {kind}." if kind else ""),
                fix="Pass an embedding that was made for this model.",
            )

    def is_in(self, text: str) -> bool:
        """Whether a text has one of the words."""
        return any(_pattern([word]).search(text) for word in self.words)

    def tables(self) -> list[torch.Tensor]:
        """The vectors for each text encoder, (vectors, width), float32.

        Raises:
            ModelError: they are not finite numbers.
        """
        read = checkpoint_file.read_tensors(self.path)
        found = [read[name].float().reshape(self.vectors, -1) for name in self.tensors]
        if not all(table.isfinite().all() for table in found):
            raise ModelError(f"the embedding {self.path} has values that are not finite", fix="Download it again.")
        return found


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


class Words:
    """The words of some embeddings, as characters that a tokenizer and a table of embeddings know.

    Args:
        files: their embeddings; for a word that several have, the first counts.
    """

    def __init__(self, files: Sequence[EmbeddingFile]) -> None:
        if sum(file.vectors for file in files) > MOST_VECTORS:
            raise ModelError(
                f"the embeddings have more than {MOST_VECTORS:,} vectors", fix="Pass fewer of them at once."
            )
        self.files = files
        self._characters: dict[str, str] = {}
        self._words: dict[str, str] = {}
        at = FIRST
        for file in files:
            characters = "".join(map(chr, range(at, at + file.vectors)))
            at += file.vectors
            self._words[characters] = file.words[0]
            for word in file.words:
                self._characters.setdefault(word.casefold(), characters)

    @cached_property
    def _known(self) -> re.Pattern[str]:
        return _pattern(list(self._characters))

    def read(self, text: str) -> str:
        """A text with the characters in place of the words."""
        if not self.files:
            return text
        return self._known.sub(lambda found: self._characters[found[0].casefold()], text)

    def shown(self, text: str) -> str:
        """A text with the words in place of the characters, of which the first may be missing."""
        for characters, word in self._words.items():
            for start in range(len(characters)):
                text = text.replace(characters[start:], word if start == 0 else "")
        return text

    def job(self, job: Job) -> Job:
        """A job with the texts that the text encoder gets."""
        if not self.files:
            return job
        prompt, negative = self.read(job.encoded), self.read(job.negative_prompt)
        return job.model_copy(update={"read_as": prompt, "negative_prompt": negative})

    def measure(self, tokenizer: Any, jobs: Sequence[Job], *, negative: bool = False) -> list[PromptLength]:
        """As `chunks.measure`, for a tokenizer that knows the characters."""
        read = chunks.measure(tokenizer, [self.job(job) for job in jobs], negative=negative)
        return [replace(length, cut=self.shown(length.cut)) for length in read]

    def encoded(self, tokenizer: Any, job: Job) -> list[Encoded]:
        """As `chunks.encoded`, for a tokenizer that knows the characters."""

        def shown(runs: Runs) -> Runs:
            return tuple((self.shown(text), weight) for text, weight in runs)

        found = chunks.encoded(tokenizer, self.job(job))
        return [replace(each, chunks=tuple(map(shown, each.chunks))) for each in found]

    def tokenizer(self, tokenizer: Any) -> Any:
        """A tokenizer that knows the characters."""
        from tokenizers import AddedToken

        if not self.files:
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)
        # Not normalized: the tokenizer would change the characters before it looks for them.
        tokenizer.add_tokens([AddedToken(each, normalized=False) for word in self._words for each in word])
        return tokenizer

    def model(self, model: Model) -> tuple[Model, list[tuple[str, torch.Tensor]]]:
        """A model whose tokenizers know the characters, and what its text encoders need then.

        Returns:
            The model; and for each text encoder the name of its table of embeddings among its parameters, and the table
            that replaces it.

        Raises:
            ModelError: the model takes no embeddings, or others.
        """
        if not all(hasattr(encoder, "get_input_embeddings") for _, encoder in model.text_encoders):
            raise ModelError(f"the model {model.spec.name} takes no embeddings", fix="Pass no --embedding.")
        for file in self.files:
            if len(file.tensors) != len(model.text_encoders):
                raise ModelError(
                    f"the embedding {file.path} does not fit the model {model.spec.name}",
                    why=f"It is for {len(file.tensors)} text encoders, and the model has {len(model.text_encoders)}.",
                )
        tokenizers = [self.tokenizer(tokenizer) for tokenizer, _ in model.text_encoders]
        read = [file.tables() for file in self.files]
        tables = [
            self._table(model, number, tokenizer, [each[number] for each in read])
            for number, tokenizer in enumerate(tokenizers)
        ]
        return replace(model, **dict(zip(("tokenizer", "tokenizer_2"), tokenizers, strict=False))), tables

    def _table(
        self, model: Model, number: int, tokenizer: Any, vectors: Sequence[torch.Tensor]
    ) -> tuple[str, torch.Tensor]:
        """The name of the table of a text encoder, and the table with further rows for the characters."""
        import torch

        _, encoder = model.text_encoders[number]
        weight = encoder.get_input_embeddings().weight
        name = next(str(name) for name, each in encoder.named_parameters() if each is weight)
        ids = tokenizer.convert_tokens_to_ids([character for each in self._words for character in each])
        table = torch.zeros(max(*ids, len(weight) - 1) + 1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        table[: len(weight)] = weight
        try:
            table[ids] = torch.cat(list(vectors)).to(weight)
        except RuntimeError as error:  # another width
            raise ModelError(
                f"the embedding {self.files[0].path} does not fit the model {model.spec.name}", why=f"{error}."
            ) from error
        return name, table
