"""The UNet under classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sdcli.models.conditioning import Encoding, at, stacked
from sdcli.pipeline.conditioning import Composition, Conditioning


class GuidedDenoiser:
    """The UNet's prediction under classifier-free guidance (Ho and Salimans, 2022).

    As in the original, the negative half comes first in the batch, and a scale of exactly 1 turns guidance off. A UNet
    that takes the scale as an input is evaluated once.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        conditioning: that of the batch.
        scale: guidance scale.
        rescale: share of the guided prediction that gets the standard deviation of the prediction with the prompt, 0 to
            1 (Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023).
        embedding: width of the embedding of the scale that the UNet takes, see `ModelSpec.guidance_embedding`; 0 if it
            takes none.
    """

    def __init__(
        self, unet: Any, conditioning: Conditioning, scale: float, rescale: float = 0.0, embedding: int = 0
    ) -> None:
        self.unet = unet
        self.scale = scale
        self.rescale = rescale
        self._guided = scale != 1.0 and not embedding
        self._arguments = conditioning.unet_arguments(guided=self._guided)
        if embedding:
            self._arguments["timestep_cond"] = _scale_embedding(scale, embedding, conditioning.prompt)

    def __call__(self, latents: torch.Tensor, time: float) -> torch.Tensor:
        """The prediction for noisy latents.

        Args:
            latents: (batch, C, height/f, width/f), scaled as the sampler's scheduler asks.
            time: a training timestep from 0; it may lie between two of them.

        Returns:
            A float32 tensor of the latents' shape: noise, velocity or sample, by the model's prediction type.
        """
        times = _times(latents, time)
        if not self._guided:
            output: torch.Tensor = self.unet(latents, times, return_dict=False, **self._arguments)[0]
            return output.float()
        both: torch.Tensor = self.unet(
            torch.cat([latents] * 2), torch.cat([times] * 2), return_dict=False, **self._arguments
        )[0]
        negative, prompt = both.float().chunk(2)
        return _guided(prompt, negative, self.scale, self.rescale)


class ComposedDenoiser:
    """As `GuidedDenoiser`, for images whose guidance has several parts, changes with the steps, or differs in length.

    Each part has a prediction of its own, and its difference from the negative prediction, times its weight, is a part
    of the direction of the guidance (Liu et al., "Compositional visual generation with composable diffusion models",
    2022).

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        rows: the conditioning of each image.
        scale: guidance scale.
        rescale: as of `GuidedDenoiser`.
        embedding: as of `GuidedDenoiser`.
        steps: the number of sampling steps.
        evaluations: the number of evaluations that the sampler makes in them. Evaluations are taken to be evenly
            distributed over the steps, which is so for every sampler: a second one in each step, or one more.
    """

    def __init__(
        self,
        unet: Any,
        rows: Sequence[Composition],
        scale: float,
        rescale: float = 0.0,
        embedding: int = 0,
        *,
        steps: int,
        evaluations: int,
    ) -> None:
        self.unet = unet
        self.rows = rows
        self.scale = scale
        self.rescale = rescale
        self._embedding = embedding
        self._steps = steps
        self._evaluations = evaluations
        self._calls = 0
        alone = all([weight for weight, _ in row.parts] == [1] for row in rows)
        self._guided = not (alone and (scale == 1.0 or embedding))

    def __call__(self, latents: torch.Tensor, time: float) -> torch.Tensor:
        """As of `GuidedDenoiser`."""
        step = self._calls * self._steps // self._evaluations
        self._calls += 1
        wanted: list[tuple[int, Encoding]] = []
        for row, composition in enumerate(self.rows):
            stages = [each for _, each in composition.parts]
            wanted += [(row, at(each, step)) for each in ([composition.negative] if self._guided else []) + stages]
        found = self._predictions(latents, time, wanted)
        results = []
        for composition in self.rows:
            count = len(composition.parts)
            if not self._guided:
                results.append(found.pop(0))
                continue
            negative, parts = found[0], found[1 : count + 1]
            del found[: count + 1]
            weights = [weight for weight, _ in composition.parts]
            prompt = parts[0]
            if weights != [1]:
                differences = [weight * (part - negative) for weight, part in zip(weights, parts, strict=True)]
                prompt = negative + torch.stack(differences).sum(0)
            results.append(_guided(prompt[None], negative[None], self.scale, self.rescale)[0])
        return torch.stack(results)

    def _predictions(
        self, latents: torch.Tensor, time: float, wanted: Sequence[tuple[int, Encoding]]
    ) -> list[torch.Tensor]:
        """The prediction for each (row of the latents, encoding). As many at once as with one prompt for each row."""
        found: dict[int, torch.Tensor] = {}
        by_length: dict[int, list[int]] = {}
        for number, (_, encoding) in enumerate(wanted):
            by_length.setdefault(len(encoding.embeddings), []).append(number)
        at_once = 2 * len(latents)
        for numbers in by_length.values():
            for start in range(0, len(numbers), at_once):
                some = numbers[start : start + at_once]
                batch = latents[[wanted[number][0] for number in some]]
                embeddings, added = stacked([wanted[number][1] for number in some])
                arguments: dict[str, Any] = {"encoder_hidden_states": embeddings}
                arguments |= {"added_cond_kwargs": added} if added else {}
                if self._embedding:
                    arguments["timestep_cond"] = _scale_embedding(self.scale, self._embedding, embeddings)
                output: torch.Tensor = self.unet(batch, _times(batch, time), return_dict=False, **arguments)[0]
                found |= dict(zip(some, output.float(), strict=True))
        return [found[number] for number in range(len(wanted))]


def _times(latents: torch.Tensor, time: float) -> torch.Tensor:
    """The timestep of each row."""
    # The original passes whole timesteps as integers; those of DPM-Solver are fractions.
    times = torch.full((len(latents),), time, device=latents.device)
    return times.long() if float(time).is_integer() else times


def _scale_embedding(scale: float, width: int, embeddings: torch.Tensor) -> torch.Tensor:
    """The embedding of the guidance scale for each row of `embeddings`."""
    from diffusers.models.embeddings import get_timestep_embedding

    # As diffusers' pipelines do; 0 is no guidance.
    scales = torch.full((len(embeddings),), (scale - 1) * 1000)
    return get_timestep_embedding(scales, width, downscale_freq_shift=1).to(embeddings)


def _guided(prompt: torch.Tensor, negative: torch.Tensor, scale: float, rescale: float) -> torch.Tensor:
    """The guided prediction of predictions with the prompt and with the negative prompt."""
    guided = negative + scale * (prompt - negative)
    if not rescale:
        return guided
    dimensions = tuple(range(1, guided.ndim))
    ratio = prompt.std(dim=dimensions, keepdim=True) / guided.std(dim=dimensions, keepdim=True)
    return rescale * (guided * ratio) + (1 - rescale) * guided
