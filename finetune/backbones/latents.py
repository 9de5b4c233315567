"""Pictures to latents and back, through the model's VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune.backbones.memory import computing_in


def encode(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """`Backbone.encode_pixels` with an `AutoencoderKL`; the latents are on its device."""
    device = next(vae.parameters()).device
    with computing_in(torch.float32, [vae]), torch.autocast(device.type, enabled=False):
        posterior = vae.encode(pixels.to(device, torch.float32)).latent_dist
    shift, scale = _affine(vae, posterior.mean)
    return (posterior.mean - shift) * scale, posterior.std * scale


def decode(vae: Any, latents: Tensor) -> Tensor:
    """`Backbone.decode` with an `AutoencoderKL`; the pictures are on its device."""
    device = next(vae.parameters()).device
    latents = latents.to(device, torch.float32)
    shift, scale = _affine(vae, latents)
    with computing_in(torch.float32, [vae]), torch.autocast(device.type, enabled=False):
        pixels: Tensor = vae.decode(latents / scale + shift).sample
    return pixels.clamp(-1, 1)


def _affine(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    # A few SDXL derivatives give a mean and deviation per channel besides the scaling factor.
    config = vae.config
    scale = float(config.scaling_factor)
    if getattr(config, "latents_mean", None) is not None:
        mean, std = (like.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean, scale / std
    return float(getattr(config, "shift_factor", None) or 0.0), scale
