"""Degrades pictures the way autoencoders and diffusion do, to train the oracle on.

Blur, lost resolution, washed-out chroma, coarse cosine coefficients, grain,
warped outlines and slightly wrong brightness. Hues are kept, since the
oracle is asked about them.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def wear(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Degrades each picture in its own random way, some hardly at all.

    Args:
        pictures: [B, 3, S, S] between 0 and 1, S a multiple of 8.
        generator: Source of all randomness.

    Returns:
        Pictures of the same shape and range.
    """
    draw = _draws(len(pictures), generator)
    return fade(_bend(pictures, draw(0.3, 1.6, 0.5), draw(0.0, 1.0, 0.6), generator), generator)


def fade(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Like `wear`, but nothing moves: for networks that find where things are."""
    draw = _draws(len(pictures), generator)
    if torch.rand((), generator=generator) < 0.3:
        pictures = _shrink(pictures, generator)
    pictures = _blur(pictures, draw(0.3, 1.1, 0.6), draw(0.4, 1.8, 0.4))
    pictures = _coarsen(pictures, draw(0.004, 0.03, 0.25))
    pictures = _light(pictures, draw(-0.06, 0.06), draw(-0.08, 0.08), draw(-0.12, 0.12))
    grain = torch.randn(pictures.shape, generator=generator)
    blotch = torch.randn(len(pictures), 1, 6, 6, generator=generator)
    blotch = F.interpolate(blotch, size=pictures.shape[-2:], mode="bicubic")
    return (pictures + draw(0.005, 0.04, 0.4) * grain + draw(0.01, 0.04, 0.4) * blotch).clamp(0, 1)


class _Draw(Protocol):
    def __call__(self, low: float, high: float, share: float = 1.0) -> Tensor: ...


def _draws(count: int, generator: torch.Generator) -> _Draw:
    """A function that draws a number for each picture; 0 leaves the picture unchanged."""

    def draw(low: float, high: float, share: float = 1.0) -> Tensor:
        values = torch.rand(count, generator=generator) * (high - low) + low
        chosen = torch.rand(count, generator=generator) < share
        return torch.where(chosen, values, torch.zeros(())).view(-1, 1, 1, 1)

    return draw


def _bend(pictures: Tensor, bend: Tensor, move: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors, moves, rotates and scales pictures a little, and warps outlines by `bend` pixels."""
    count, _, _, side = pictures.shape

    def draw(reach: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * reach * move.flatten()

    angle, scale = draw(0.08), 1 + draw(0.08)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    across = torch.stack([cos * mirror, -sin, draw(0.08)], dim=-1)
    down = torch.stack([sin * mirror, cos, draw(0.08)], dim=-1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), [count, 3, side, side], False)
    waves = torch.randn(count, 2, 8, 8, generator=generator) * bend * (2 / side)
    waves = F.interpolate(waves, size=(side, side), mode="bicubic")
    return F.grid_sample(
        pictures, grid + waves.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False
    )


def _shrink(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Downscales half of the pictures and scales them up again."""
    half, side = len(pictures) // 2, pictures.shape[-1]
    low = int(torch.randint(side * 5 // 8, side * 7 // 8, (), generator=generator))
    small = F.interpolate(pictures[:half], size=(low, low), mode="bilinear", antialias=True)
    small = F.interpolate(small, size=(side, side), mode="bicubic").clamp(0, 1)
    return torch.cat([small, pictures[half:]])


def _blur(pictures: Tensor, sharpness: Tensor, chroma: Tensor) -> Tensor:
    """Blurs pictures with Gaussians, and their chroma with wider ones (in pixels)."""
    blurred = _gauss(pictures, sharpness)
    wide = _gauss(blurred, chroma)
    return wide + _luma(blurred - wide)


def _gauss(pictures: Tensor, width: Tensor) -> Tensor:
    at = torch.arange(pictures.shape[-1], dtype=torch.float32)
    distance = (at[:, None] - at[None, :]).square()
    # One matrix per picture; rows add up to 1 at the borders, too.
    kernel = (-distance / (2 * width.square() + 1e-3)).softmax(dim=-1)
    return kernel @ pictures @ kernel.transpose(-1, -2)


def _luma(pictures: Tensor) -> Tensor:
    return (pictures * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _coarsen(pictures: Tensor, step: Tensor) -> Tensor:
    """Rounds the cosine coefficients of 8 x 8 blocks, higher frequencies more, as JPEG does."""
    n = torch.arange(8, dtype=torch.float32)
    cosines = torch.cos(math.pi / 8 * (n[None, :] + 0.5) * n[:, None]) / 2
    cosines[0] /= math.sqrt(2)
    blocks = pictures.shape[-1] // 8
    basis = torch.kron(torch.eye(blocks), cosines)
    steps = step * (1 + n[:, None] + n[None, :]).repeat(blocks, blocks) + 1e-4
    rounded: Tensor = (basis @ pictures @ basis.T / steps).round() * steps
    return basis.T @ rounded @ basis


def _light(pictures: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    gray = _luma(pictures)
    pictures = gray + (pictures - gray) * (1 + saturation)
    return (pictures - 0.5) * (1 + contrast) + 0.5 + brightness
