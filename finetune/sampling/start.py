"""How sampling begins: from noise or from a picture with noise on it, all of it or where a mask is white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from finetune.backbones import Backbone
from finetune.sampling.between import slerp
from finetune.sampling.canvas import Canvas


@dataclass(frozen=True)
class Drawn:
    """Draws for a batch, each row from its own generator on the CPU, so that every device draws the same.

    Attributes:
        generators: One for each row.
        device: Where the values go.
        others: For the first noise of a row between two seeds, the generator of the other, and how far it is
            to there.
    """

    generators: Sequence[torch.Generator]
    device: torch.device
    others: Sequence[tuple[torch.Generator, float] | None] = ()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """`[B, *shape]` fp32 from the standard normal distribution."""
        rows = [torch.randn(1, *shape, generator=generator) for generator in self.generators]
        return torch.cat(rows).to(self.device)

    def first(self, shape: Sequence[int]) -> Tensor:
        """As `normal`, on the arc between two seeds where there are two."""
        noise = self.normal(shape)
        for row, other in enumerate(self.others):
            if other is not None:
                generator, mix = other
                end = torch.randn(1, *shape, generator=generator)[0].to(self.device)
                noise[row] = slerp(noise[row], end, mix)
        return noise

    def latents(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` in [-1, 1] to latents `[B, C, h, w]`, each drawn from its posterior."""
        # One at a time, so that rounding does not depend on the batch.
        encoded = [backbone.encode_pixels(row[None].to(self.device)) for row in pixels]
        mean, std = (torch.cat([one[part] for one in encoded]) for part in (0, 1))
        return mean + std * self.normal(mean.shape[1:])


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size to `[B, 3, H, W]` fp32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.array(picture) for picture in pictures]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Start:
    """How sampling begins.

    Attributes:
        latents: What the first step gets, `[B, C, h, w]`.
        kept: What stays as it is with an ordinary UNet; None if nothing does.
        appended: What an inpainting UNet takes besides latents, `[B, 1 + C, h, w]`; None to paint everything.
    """

    latents: Tensor
    kept: Kept | None = None
    appended: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """Keeps what is not masked by putting it back after each step (Avrahami et al. 2021, arXiv:2111.14818).

    Attributes:
        pictures: Latents `[B, C, h, w]`.
        noise: `[B, C, h, w]`, the noise that sampling began with.
        mask: `[B, 1, h, w]`; 1 where the picture is repainted, 0 elsewhere.
    """

    pictures: Tensor
    noise: Tensor
    mask: Tensor

    def put_back(self, latents: Tensor, scheduler: Any, following: Tensor) -> Tensor:
        """Latents with what is kept, as noisy as they are.

        Args:
            latents: After a step.
            scheduler: Knows how noisy.
            following: The next timestep, one or none.
        """
        kept = self.pictures
        if len(following):
            kept = scheduler.add_noise(kept, self.noise, following)
        return (1 - self.mask) * kept + self.mask * latents


def begin(
    backbone: Backbone,
    canvases: Sequence[Canvas],
    drawn: Drawn,
    scheduler: Any,
    first: Tensor | None,
    shape: tuple[int, int, int],
    pictures: Tensor | None = None,
) -> Start:
    """How sampling begins: from noise, or from pictures with as much noise as belongs to the first timestep.

    The latter is SDEdit (Meng et al. 2021, arXiv:2108.01073). All draws are those of diffusers' img2img and
    inpainting pipelines, in their order.

    Args:
        backbone: The model.
        canvases: The pictures, one for each row, or none. All or none have a mask.
        drawn: Gives the draws.
        scheduler: With its timesteps set.
        first: The first timestep, `[1]`; None to begin with noise alone, even if there are pictures.
        shape: Of one row of latents.
        pictures: Latents `[B, C, h, w]` to begin with, in place of the canvases'.
    """
    masked = bool(canvases) and canvases[0].mask is not None
    blended = masked and not backbone.inpaints
    pixels = to_pixels([canvas.image for canvas in canvases]) if canvases else None
    if pixels is not None and (blended or first is not None):
        pictures = drawn.latents(backbone, pixels)
    noise = drawn.first(shape)
    if pictures is None or first is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(pictures, noise, first.repeat(len(noise)))
    if pixels is None or not masked:
        return Start(latents)
    mask = torch.stack([_ones(canvas.mask) for canvas in canvases])
    at_latents = functional.interpolate(mask, shape[1:]).to(drawn.device)
    if blended:
        assert pictures is not None
        return Start(latents, Kept(pictures, noise, at_latents))
    hidden = drawn.latents(backbone, pixels * (mask < 0.5))
    return Start(latents, appended=torch.cat([at_latents, hidden], dim=1))


def _ones(mask: Image.Image | None) -> Tensor:
    """`[1, H, W]` fp32: 1 where a mask is white."""
    return torch.from_numpy(np.array(mask))[None].float() / 255
