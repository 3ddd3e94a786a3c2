"""Model families: everything that depends on the kind of text encoder that a model has.

A family is one file in this folder with an object `FAMILY`, and one line in `sdcli.registry.FAMILIES`. The key of that
line is the family's name, which `ModelSpec.family` holds. Families are imported to find a model, before torch is:
their modules import torch, diffusers and transformers inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdcli.errors import UsageError
from sdcli.registry import FAMILIES
from sdcli.settings import default, flag

if TYPE_CHECKING:
    import torch

    from sdcli.jobs import Job
    from sdcli.model_spec import ModelSpec
    from sdcli.models.checkpoint_file import Shapes
    from sdcli.models.conditioning import Composition, Conditioning, Encoding
    from sdcli.models.model import Model
    from sdcli.models.original_yaml import OriginalConfig
    from sdcli.settings import Settings


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
    text_encoders_2: tuple[str, ...] = ()
    """The same for `text_encoder_2`; empty for a family with one text encoder."""
    tokenizers: tuple[str, ...]
    """Class names of the tokenizer in `model_index.json`."""
    pipelines: tuple[str, ...] = ()
    """Class names of diffusers' pipelines for models of this family."""

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
    layers: tuple[str, ...] = ("last",)
    """The values of `cond_stage_config.params.layer` that this family obeys."""
    tensor_prefixes: tuple[str, ...] = ()
    """Only checkpoints of this family have tensors whose names start with one of these."""
    example_config: str = ""
    """A YAML configuration of this family that ships with sdcli, for messages."""
    configs: Mapping[str, str] = {}
    """Those of this family that ship with sdcli, by what the UNet predicts: "eps" or "v"."""
    pad_tokens: tuple[str, str] = ("", "")
    """The tokens that fill prompts up, of the first and the second text encoder; empty: as the vocabulary says."""
    latent_scale: float = 0.18215
    """`scale_factor` of checkpoints without a YAML configuration."""

    def text_params(self, shapes: Shapes) -> Mapping[str, Any]:
        """`cond_stage_config.params` of a checkpoint without a YAML configuration.

        Args:
            shapes: of its tensors, by their original names.

        Raises:
            LookupError: a tensor is missing.
        """
        return {}

    def default_side(self, config: OriginalConfig) -> int:
        """Height and width of images of a checkpoint: 512, as in the original script, whatever the YAML has."""
        return 512

    def text_folder(self, config: OriginalConfig, config_path: Path) -> Path:
        """The folder with the text encoder's `config.json` or vocabulary, for a checkpoint of the original layout.

        Args:
            config: the checkpoint's YAML configuration.
            config_path: the file that it was read from; paths in it are relative to its folder.

        Raises:
            ModelError: the configuration names a text encoder that is not on this machine.
        """
        raise NotImplementedError

    def text_config(self, config: OriginalConfig, folder: Path | None, shapes: Shapes) -> Mapping[str, Any]:
        """The fields of the text encoder's `config.json`, for a checkpoint of the original layout.

        Args:
            config: the checkpoint's configuration.
            folder: as `text_folder` returns it; None for a checkpoint without a YAML configuration.
            shapes: of its tensors, by their original names.

        Raises:
            ModelError: a file that cannot be read.
            LookupError: a tensor is missing.
        """
        raise NotImplementedError

    def text_layers(self, config: OriginalConfig, text_config: Mapping[str, Any]) -> int:
        """The number of layers that the text encoder of a checkpoint has here: those up to the one that is used.

        Args:
            config: the checkpoint's configuration.
            text_config: as `text_config` returns it.
        """
        return int(text_config.get("num_hidden_layers", 12))

    def convert_text_encoder(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: OriginalConfig,
        text_config: Mapping[str, Any],
        *,
        source: str,
        config_name: str,
    ) -> Any:
        """The text encoder of a checkpoint of the original layout, as `Model.text_encoder`, in float32 on the CPU.

        Args:
            tensors: all tensors of the checkpoint, by their original names.
            config: the checkpoint's configuration.
            text_config: as `text_config` returns it.
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

    activation: str = ""
    """`hidden_act` of the text encoder in checkpoints of this family: it tells families whose folders are alike."""

    def original_text_encoder(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The text encoder's tensors by their names in the original layout, with the prefix of the part.

        Args:
            tensors: those of a diffusers folder, without `text_prefix`.
        """
        raise NotImplementedError

    def original_text_encoder_2(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The same for the second text encoder; empty for a family with one."""
        return {}

    def convert_text_encoder_2(
        self, tensors: Mapping[str, torch.Tensor], config: OriginalConfig, *, source: str, config_name: str
    ) -> Any:
        """The second text encoder, as `Model.text_encoder_2`; None for a family with one.

        Args and errors are those of `convert_text_encoder`.
        """
        return None

    def why_not(self, config: OriginalConfig) -> str:
        """Why a configuration with this family's text encoder is not supported; empty if it is."""
        text = config.model.params.cond_stage_config.params
        if text.layer not in self.layers:
            return (
                f"It sets the layer of {config.embedder} to {text.layer}, and sdcli supports {', '.join(self.layers)}."
            )
        unet = config.model.params.unet_config.params
        if unet.num_classes is not None and not self.sizes:
            return f"It sets num_classes to {unet.num_classes}, and its text encoder is {config.embedder}."
        return ""

    def text_encoder_class(self) -> Any:
        """The class whose `from_pretrained` loads the text encoder of a diffusers folder."""
        ...

    def text_encoder_2_class(self) -> Any:
        """The same for the second text encoder; None for a family with one."""
        return None

    def tokenizer_class(self) -> Any:
        """The class of transformers whose `from_pretrained` loads the tokenizer."""
        ...

    def max_length(self, text_config: Mapping[str, Any]) -> int:
        """The number of tokens that the text encoder takes, including those for the beginning and the end.

        Args:
            text_config: the fields of the text encoder's `config.json`.
        """
        return int(text_config.get("max_position_embeddings", 77))

    default_scale: float = 7.5
    """Guidance scale of a model whose files say nothing of it; 7.5 as in the original script."""
    own_sampler: str = ""
    """The sampler of a model whose files name none; empty: ddim as in the original script, whatever its files name."""
    takes_clip_skip: bool = False
    """Whether `embeddings` takes other layers than the last one."""
    sizes: int = 0
    """How many numbers about its size and its place the UNet takes for an image, beside a pooled embedding
    (`addition_embed_type` "text_time"); 0 if it takes none of these."""
    full_precision_vae: bool = False
    """Whether the VAE decodes in 32 bits, unless `force_upcast` in its configuration is false."""

    def require(self, settings: Settings, spec: ModelSpec) -> list[str]:
        """Check what a run or a row of a prompt file sets, besides the sampler; returns notes for the user.

        Args:
            settings: those of the image.
            spec: the model, of this family.

        Raises:
            UsageError: models of this family cannot do it.
        """
        if settings.clip_skip > 1 and not self.takes_clip_skip:
            raise UsageError(
                f"{flag('clip_skip')} {settings.clip_skip} does not work with the model {spec.name}",
                why=f"Its text encoder is a {self.label}, whose last layer was trained with the model.",
                fix=f"Leave out {flag('clip_skip')}.",
                settings=("clip_skip",),
            )
        if settings.clip_skip > spec.text_layers:
            raise UsageError(
                f"{flag('clip_skip')} {settings.clip_skip} is more than the model {spec.name} has",
                why=f"Its text encoder has {spec.text_layers} layers.",
                fix=f"Pass a number from 1 to {spec.text_layers}.",
                settings=("clip_skip",),
            )
        for name in () if self.sizes else ("original_size", "crop"):
            if getattr(settings, name):
                raise UsageError(
                    f"{flag(name)} {getattr(settings, name)} does not work with the model {spec.name}",
                    why="Only Stable Diffusion XL takes it.",
                    fix=f"Leave out {flag(name)}, or pass another model with --model or --ckpt.",
                    settings=(name,),
                )
        scale = spec.default_scale if settings.scale is None else settings.scale
        if spec.guidance_embedding:
            no_effect = f"{flag('negative_prompt')} has no effect with the model {spec.name}"
            return [no_effect] if settings.negative_prompt else []
        if spec.default_scale == 1 != scale:
            return [
                f"{flag('scale')} {scale:g} is applied beside the guidance in the weights of the model {spec.name}, "
                "which is meant for 1"
            ]
        if scale == 1 and settings.negative_prompt:
            return [f"{flag('negative_prompt')} has no effect at a guidance scale of 1"]
        return []

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
        prompts = self.encode(model, [job.encoded for job in jobs])
        negatives = self.encode(model, [job.negative_prompt for job in jobs])
        return Conditioning.of(
            [self.completed(model, job, each, negative=False) for job, each in zip(jobs, prompts, strict=True)],
            [self.completed(model, job, each, negative=True) for job, each in zip(jobs, negatives, strict=True)],
        )

    def completed(self, model: Model, job: Job, encoding: Encoding, *, negative: bool) -> Encoding:
        """An encoded text with everything that the UNet takes.

        Args:
            model: a loaded model of this family.
            job: the image.
            encoding: a text of its prompt, or of its negative prompt.
            negative: which of them.
        """
        return encoding

    def encode(self, model: Model, prompts: Sequence[str]) -> list[Encoding]:
        """The embeddings of prompts as they stand; `embeddings` gives those of tokens.

        As in the original script, prompts are padded to the full length without an attention mask, and tokens that
        exceed it are cut.

        Args:
            model: a loaded model of this family.
            prompts: one or more; equal prompts are encoded once, each alone.

        Returns:
            One for each prompt, on the model's device.
        """
        from sdcli.models.conditioning import Encoding

        def encoded(prompt: str) -> Encoding:
            each = []
            for tokenizer, text_encoder in model.text_encoders:
                ids = tokenizer(
                    [prompt],
                    truncation=True,
                    max_length=tokenizer.model_max_length,
                    padding="max_length",
                    return_tensors="pt",
                )["input_ids"][0]
                each.append(self.embeddings(model, text_encoder, ids.to(model.device), 1))
            return Encoding.of_encoders(each)

        # One at a time: the last digits depend on how many are encoded at once, and a batch may have any prompts.
        unique = {prompt: encoded(prompt) for prompt in dict.fromkeys(prompts)}
        return [unique[prompt] for prompt in prompts]

    def embeddings(self, model: Model, text_encoder: Any, ids: torch.Tensor, clip_skip: int) -> Encoding:
        """The embeddings of tokens.

        Args:
            model: a loaded model of this family.
            text_encoder: one of its text encoders.
            ids: (tokens,), as many tokens as the text encoder takes, on the model's device.
            clip_skip: the layer that gives them, counted from the end; 1 unless `takes_clip_skip`.

        Returns:
            Embeddings of (tokens, width).

        Raises:
            UsageError: the text encoder has no such layer.
        """
        from sdcli.models.conditioning import Encoding

        return Encoding(text_encoder(ids[None])[0][0])


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
