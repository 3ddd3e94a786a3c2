"""Model families: everything that depends on the kind of text encoder that a model has.

A family is one file in this folder with an object `FAMILY`, and one line in `sdcli.registry.FAMILIES`. The key of that
line is the family's name, which `ModelSpec.family` holds. Families are imported to find a model, before torch is:
their modules import torch, diffusers and transformers inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdcli.registry import FAMILIES
from sdcli.settings import default

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.models.conditioning import Composition, Conditioning
    from sdcli.models.model import Model
    from sdcli.models.original_yaml import OriginalConfig


class Family(Protocol):
    """A kind of model. Subclass it explicitly: some methods have a body that suits most families."""

    label: str
    """Name of the text encoder in messages: "CLIP"."""

    # Models in a folder of diffusers' layout.
    folder_models: str
    """The models of this family that sdcli reads in diffusers' layout, for messages: "Stable Diffusion 1 and 2"."""
    part: str
    """Key of the text encoder in `model_index.json`, which is also the name of its folder: "text_encoder"."""
    text_encoders: tuple[str, ...]
    """Class names of the text encoder in `model_index.json`. They decide which family a folder belongs to."""
    tokenizers: tuple[str, ...]
    """Class names of the tokenizer in `model_index.json`."""

    # Vocabulary.
    vocabulary: Path
    """The folder of the vocabulary that ships with sdcli, for models without one."""
    vocabulary_files: tuple[str, ...]
    """A folder that contains one of these files has a vocabulary."""

    # Checkpoints of the original layout. A family without such checkpoints keeps these defaults.
    checkpoint_models: str = ""
    """The models of this family that sdcli reads in the original layout, for messages: "Stable Diffusion 1"."""
    embedder: str = ""
    """Class name in `cond_stage_config.target` of the YAML configuration: "FrozenCLIPEmbedder"."""
    embedder_params: tuple[str, ...] = ()
    """The fields of `cond_stage_config.params` that this family obeys; configurations with others are refused."""
    tensor_prefixes: tuple[str, ...] = ()
    """Only checkpoints of this family have tensors whose names start with one of these."""
    example_config: str = ""
    """A YAML configuration of this family that ships with sdcli, for messages."""

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The folder with the text encoder's `config.json` or vocabulary, for a checkpoint of the original layout.

        Args:
            config: the checkpoint's YAML configuration.
            config_path: the file that it was read from; paths in it are relative to its folder.

        Raises:
            ModelError: the configuration names a text encoder that is not on this machine.
        """
        raise NotImplementedError

    def text_config(self, config: OriginalConfig, folder: Path) -> Mapping[str, Any]:
        """The fields of the text encoder's `config.json`, for a checkpoint of the original layout.

        Args:
            config: the checkpoint's YAML configuration.
            folder: as `text_folder` returns it.

        Raises:
            ModelError: a file that cannot be read.
        """
        raise NotImplementedError

    def convert_text_encoder(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: OriginalConfig,
        folder: Path,
        *,
        source: str,
        config_name: str,
    ) -> Any:
        """The text encoder of a checkpoint of the original layout, as `Model.text_encoder`, in float32 on the CPU.

        Args:
            tensors: all tensors of the checkpoint, by their original names.
            config: the checkpoint's YAML configuration.
            folder: as `text_folder` returns it.
            source: the checkpoint's name, for errors.
            config_name: the configuration's name, for errors.

        Raises:
            ModelError: tensors are missing, left over or of another shape.
        """
        raise NotImplementedError

    index: Mapping[str, Any] = {}
    """`model_index.json` of a folder that a checkpoint is converted to; empty if it cannot be."""
    text_prefix: str = ""
    """Beginning of the names of the text encoder in such a folder, which transformers leaves out."""

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The text encoder's tensors by their names in the original layout, with the prefix of the part.

        Args:
            tensors: those of a diffusers folder, without `text_prefix`.
        """
        raise NotImplementedError

    def text_encoder_class(self) -> Any:
        """The class whose `from_pretrained` loads the text encoder of a diffusers folder."""
        ...

    def tokenizer_class(self) -> Any:
        """The class of transformers whose `from_pretrained` loads the tokenizer."""
        ...

    def max_length(self, text_config: Mapping[str, Any]) -> int:
        """The number of tokens that the text encoder takes, including those for the beginning and the end.

        Args:
            text_config: the fields of the text encoder's `config.json`.
        """
        return int(text_config.get("max_position_embeddings", 77))

    takes_clip_skip: bool = False
    """Whether `embeddings` takes other layers than the last one."""

    def condition(self, model: Model, jobs: Sequence[Job]) -> Conditioning | tuple[Composition, ...]:
        """The conditioning of a batch. A family whose UNet needs more than embeddings of the prompts replaces this.

        Args:
            model: a loaded model of this family.
            jobs: the batch.

        Returns:
            A `Conditioning` for all, or a `Composition` for each job.
        """
        from sdcli.models.conditioning import Conditioning

        if any(getattr(jobs[0], name) != default(name) for name in ("prompt_syntax", "long_prompt", "clip_skip")):
            from sdcli.models import composing

            return composing.condition(self, model, jobs)
        prompt = self.encode(model, [job.encoded for job in jobs])
        negative = self.encode(model, [job.negative_prompt for job in jobs])
        return Conditioning(prompt, negative)

    def encode(self, model: Model, prompts: Sequence[str]) -> torch.Tensor:
        """The embeddings of prompts as they stand; `embeddings` gives those of chunks of tokens with weights.

        As in the original script, prompts are padded to the full length without an attention mask, and tokens that
        exceed it are cut.

        Args:
            model: a loaded model of this family.
            prompts: one or more; equal prompts are encoded once, each alone.

        Returns:
            (len(prompts), tokens, width), on the model's device.
        """
        import torch

        def encoded(prompt: str) -> torch.Tensor:
            ids = model.tokenizer(
                [prompt],
                truncation=True,
                max_length=model.tokenizer.model_max_length,
                padding="max_length",
                return_tensors="pt",
            )["input_ids"]
            return self.embeddings(model, ids.to(model.device), 1)

        # One at a time: the last digits depend on how many are encoded at once, and a batch may have any prompts.
        unique = {prompt: encoded(prompt) for prompt in dict.fromkeys(prompts)}
        return torch.cat([unique[prompt] for prompt in prompts])

    def embeddings(self, model: Model, ids: torch.Tensor, clip_skip: int) -> torch.Tensor:
        """The embeddings of tokens.

        Args:
            model: a loaded model of this family.
            ids: (batch, tokens), as many tokens as the text encoder takes, on the model's device.
            clip_skip: the layer that gives them, counted from the end; 1 unless `takes_clip_skip`.

        Returns:
            (batch, tokens, width).

        Raises:
            UsageError: the text encoder has no such layer.
        """
        found: torch.Tensor = model.text_encoder(ids)[0]
        return found


def get(name: str) -> Family:
    """The family of this name.

    Raises:
        KeyError: no line of the table has this name.
    """
    family: Family = FAMILIES[name]
    return family


def first(matches: Callable[[Family], bool]) -> str | None:
    """The name of the first family in the table that matches; None if none does."""
    return next((name for name, family in FAMILIES.items() if matches(family)), None)


def each(field: str) -> list[str]:
    """The values of a field of all families, in the table's order, without repetition and without empty ones.

    Args:
        field: a field of `Family` that is a string or a tuple of strings.
    """
    values: list[str] = []
    for family in FAMILIES.values():
        value = getattr(family, field)
        values += [value] if isinstance(value, str) else value
    return [value for value in dict.fromkeys(values) if value]
