"""What the model predicts at one step of sampling: guidance, and ControlNets beside the UNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.predict import residuals, unet_arguments
from finetune.diffusion.batch import Conditioning
from finetune.sampling.control import Control
from finetune.sampling.spans import acts


class Guided:
    """A model with classifier-free guidance (arXiv:2207.12598) and ControlNets (arXiv:2302.05543).

    With guidance the UNet sees each picture twice, and what it predicts is extrapolated:
    negative + scale x (prompt − negative).

    Args:
        backbone: The model; UNet and branches are on the latents' device.
        prompts: `B` rows with text embeddings.
        negatives: As many rows; None for no guidance.
        scale: Of guidance.
        rescale: The share of the guided prediction whose deviation is brought back to that of the prompt's
            alone (Lin et al. 2023, arXiv:2305.08891, section 3.4).
        controls: ControlNets, each with its control pictures `[B, 3, H, W]` in [0, 1].
        appended: `[B, 1 + C, h, w]`, what an inpainting UNet takes besides latents; None to paint everything.
        dtype: Precision of the matrix products, and so of what ControlNets add inside the UNet.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Conditioning,
        negatives: Conditioning | None,
        scale: float,
        rescale: float = 0.0,
        controls: Sequence[tuple[Control, Tensor]] = (),
        appended: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._unet, self._scale, self._controls = backbone.unet, scale, controls
        self._rescale, self._dtype = rescale, dtype
        self._prompts, self._appended = prompts, appended
        width = self._unet.config.time_cond_proj_dim
        # A model distilled to be told the scale (arXiv:2310.04378) sees each picture once.
        self._guided = negatives is not None and width is None
        self._all = Conditioning.stack([negatives, prompts]) if self._guided and negatives else prompts
        self._told: dict[str, Tensor] = {}
        if width is not None:
            assert prompts.hidden is not None
            weight = torch.full((len(prompts.hidden),), (scale - 1) * 1000)
            embedding = get_timestep_embedding(weight, width, downscale_freq_shift=1)
            self._told = {"timestep_cond": embedding.to(prompts.hidden)}

    def __call__(self, latents: Tensor, timestep: Tensor, share: tuple[float, float]) -> Tensor:
        """The prediction for noisy latents.

        Args:
            latents: `[B, C, h, w]`, scaled as the scheduler wants model inputs.
            timestep: One for all rows.
            share: Which part of the sampling steps this one is; the first of four is (0, 0.25).

        Returns:
            `[B, C, h, w]` fp32.
        """
        rows = self._doubled(latents)
        added = self._residuals(latents, rows, timestep, share)
        arguments = unet_arguments(self._unet, self._all, rows.device, rows.dtype) | self._told | added
        if self._appended is not None:
            rows = torch.cat([rows, self._doubled(self._appended)], dim=1)
        predicted: Tensor = self._unet(rows, timestep, return_dict=False, **arguments)[0].float()
        if not self._guided:
            return predicted
        negative, prompt = predicted.chunk(2)
        guided = negative + self._scale * (prompt - negative)
        if self._rescale:
            guided = rescale_noise_cfg(guided, prompt, self._rescale)
        return guided

    def _doubled(self, rows: Tensor) -> Tensor:
        return torch.cat([rows] * 2) if self._guided else rows

    def _residuals(
        self, latents: Tensor, rows: Tensor, timestep: Tensor, share: tuple[float, float]
    ) -> dict[str, Any]:
        """What the ControlNets that act now add together; nothing if none does."""
        found = list(self._each(latents, rows, timestep, share))
        if not found:
            return {}
        down = zip(*(one["down_block_additional_residuals"] for one in found), strict=True)
        return {
            "down_block_additional_residuals": [sum(parts) for parts in down],
            "mid_block_additional_residual": sum(one["mid_block_additional_residual"] for one in found),
        }

    def _each(
        self, latents: Tensor, rows: Tensor, timestep: Tensor, share: tuple[float, float]
    ) -> Iterator[dict[str, Any]]:
        for control, pixels in self._controls:
            if not acts(control.spec.span, share):
                continue
            # One that pools over the whole picture (shuffle) says nothing about the negative prompt.
            half = self._guided and control.branch.config.global_pool_conditions
            shown = pixels if half else self._doubled(pixels)
            conditioning = replace(self._prompts if half else self._all, control=shown)
            given = latents if half else rows
            scale = float(control.spec.scale)
            one = residuals(control.branch, given, timestep, conditioning, self._dtype, scale)
            yield _for_the_second_half(one) if half else one


def _for_the_second_half(found: dict[str, Any]) -> dict[str, Any]:
    """Residuals of the rows with prompts, and zeros for those before them."""
    down = [torch.cat([torch.zeros_like(d), d]) for d in found["down_block_additional_residuals"]]
    middle = found["mid_block_additional_residual"]
    return {
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": torch.cat([torch.zeros_like(middle), middle]),
    }
