"""What an inpainting UNet takes besides noisy latents, for painting the whole picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune.backbones.latents import encode
from finetune.backbones.memory import move


class PaintEverything:
    """Appends mask and masked picture to the latents that an inpainting UNet is called with.

    Such a UNet takes `[noisy latents, mask, latents of the masked picture]` (Rombach et al. 2022,
    arXiv:2112.10752; diffusers' `StableDiffusionInpaintPipeline`). To paint everything, the mask is 1
    and the masked picture, picture x (mask < 0.5), is mid-gray.

    It is a forward pre-hook of the UNet, so that training and diffusers' text-to-image pipelines share it.

    Args:
        vae: The model's `AutoencoderKL`; it encodes on the UNet's device, wherever it is kept.
        factor: Pixels per latent along a side.
    """

    def __init__(self, vae: Any, factor: int) -> None:
        self._vae, self._factor = vae, factor
        self._appended: dict[tuple[int, int, torch.device], Tensor] = {}

    def __call__(self, unet: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Completes the UNet's positional arguments.

        Args:
            unet: The UNet that is called.
            arguments: The first is noisy latents `[B, C, h, w]`, or `[B, 2C + 1, h, w]` as diffusers'
                inpainting pipelines give them, which are left as they are.

        Returns:
            The same arguments, the first `[B, 2C + 1, h, w]`.
        """
        latents, *others = arguments
        if latents.shape[1] == unet.config.in_channels:
            return arguments
        height, width = latents.shape[2:]
        appended = self._other_inputs(height, width, latents.device).to(latents.dtype)
        return torch.cat([latents, appended.expand(len(latents), -1, -1, -1)], dim=1), *others

    @torch.no_grad()
    def _other_inputs(self, height: int, width: int, device: torch.device) -> Tensor:
        """Mask and masked picture `[1, 1 + C, h, w]` fp32, encoded once for each size."""
        key = height, width, device
        if key not in self._appended:
            pixels = torch.zeros(1, 3, height * self._factor, width * self._factor)
            home = next(self._vae.parameters()).device
            # Always on the UNet's device: a resumed run may have its VAE elsewhere, but gets the same bits.
            move(self._vae, device, None)
            gray, _ = encode(self._vae, pixels)
            move(self._vae, home, None)
            self._appended[key] = torch.cat([torch.ones_like(gray[:, :1]), gray], dim=1)
        return self._appended[key]
