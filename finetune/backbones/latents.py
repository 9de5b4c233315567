"""Pictures to latents and back, through the model's VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.backbones.memory import computing_in
from finetune.kernels import Swap, can_pack, packed, swapped


def encode(vae: Any, pixels: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """`Backbone.encode_pixels` with an `AutoencoderKL`; the latents are on its device."""
    device = next(vae.parameters()).device
    with _multiplying_in(dtype, vae, vae.encoder), torch.autocast(device.type, enabled=False):
        posterior = vae.encode(pixels.to(device, torch.float32)).latent_dist
    shift, scale = _affine(vae, posterior.mean)
    return (posterior.mean - shift) * scale, posterior.std * scale


def decode(vae: Any, latents: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`Backbone.decode` with an `AutoencoderKL`; the pictures are on its device."""
    device = next(vae.parameters()).device
    latents = latents.to(device, torch.float32)
    shift, scale = _affine(vae, latents)
    with _multiplying_in(dtype, vae, vae.decoder), torch.autocast(device.type, enabled=False):
        pixels: Tensor = vae.decode(latents / scale + shift).sample
    return pixels.clamp(-1, 1)


@contextmanager
def _multiplying_in(dtype: torch.dtype, vae: Any, part: nn.Module) -> Iterator[None]:
    """Inside, the large convolutions of a part of the VAE multiply in `dtype`, and all else is fp32.

    Sums, norms and the path past the convolutions stay in fp32, as do the first and last convolutions, which
    see pixels and latents. So the error is a quarter of that of a VAE in bf16 (docs/performance.md).
    """
    with computing_in(torch.float32, [vae]):
        if dtype == torch.float32:
            yield
            return
        convolutions = [layer for layer in vae.modules() if isinstance(layer, nn.Conv2d)]
        outer = 2 * vae.config.latent_channels  # mean and log variance
        used = set(part.modules())  # the other part's weights need not be cast
        inner = [c for c in convolutions if c in used and min(c.in_channels, c.out_channels) > outer]
        with (
            computing_in(dtype, inner),
            packed(filter(can_pack, inner)),
            swapped([Swap(layer, "forward", _in_its_type(layer)) for layer in convolutions]),
        ):
            yield


def _in_its_type(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    """The forward pass of a layer in its weight's precision, for what is in another.

    All outputs have the channels last, as those of half precision do on a CPU; to add two of different
    orders takes six times as long.
    """
    forward = layer.forward

    def converted(x: Tensor) -> Tensor:
        return forward(x.to(layer.weight.dtype)).to(x.dtype, memory_format=torch.channels_last)

    return converted


def _affine(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    # A few SDXL derivatives give a mean and deviation per channel besides the scaling factor.
    config = vae.config
    scale = float(config.scaling_factor)
    if getattr(config, "latents_mean", None) is not None:
        mean, std = (like.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean, scale / std
    return float(getattr(config, "shift_factor", None) or 0.0), scale
