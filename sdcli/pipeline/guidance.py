"""The UNet under classifier-free guidance."""

from __future__ import annotations

from typing import Any

import torch

from sdcli.pipeline.conditioning import Conditioning


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
            from diffusers.models.embeddings import get_timestep_embedding

            # As diffusers' pipelines do; 0 is no guidance.
            scales = torch.full((len(conditioning.prompt),), (scale - 1) * 1000)
            self._arguments["timestep_cond"] = get_timestep_embedding(scales, embedding, downscale_freq_shift=1).to(
                conditioning.prompt
            )

    def __call__(self, latents: torch.Tensor, time: float) -> torch.Tensor:
        """The prediction for noisy latents.

        Args:
            latents: (batch, C, height/f, width/f), scaled as the sampler's scheduler asks.
            time: a training timestep from 0; it may lie between two of them.

        Returns:
            A float32 tensor of the latents' shape: noise, velocity or sample, by the model's prediction type.
        """
        # The original passes whole timesteps as integers; those of DPM-Solver are fractions.
        whole = float(time).is_integer()
        times = torch.full((len(latents),), time, device=latents.device)
        times = times.long() if whole else times
        if not self._guided:
            output: torch.Tensor = self.unet(latents, times, return_dict=False, **self._arguments)[0]
            return output.float()
        both: torch.Tensor = self.unet(
            torch.cat([latents] * 2), torch.cat([times] * 2), return_dict=False, **self._arguments
        )[0]
        negative, prompt = both.float().chunk(2)
        guided = negative + self.scale * (prompt - negative)
        if not self.rescale:
            return guided
        dimensions = tuple(range(1, guided.ndim))
        ratio = prompt.std(dim=dimensions, keepdim=True) / guided.std(dim=dimensions, keepdim=True)
        return self.rescale * (guided * ratio) + (1 - self.rescale) * guided
