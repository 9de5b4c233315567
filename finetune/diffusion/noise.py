"""The noise that is added to latents: each kind a function of (seed, sample numbers) (P1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.config.objective import PYRAMID_LEVELS, ObjectiveSection
from finetune.diffusion.batch import moved
from finetune.diffusion.random import normal, uniform


def draw_noise(seed: int, numbers: Sequence[int], shape: Sequence[int], section: ObjectiveSection) -> Tensor:
    """The noise of each sample as the settings ask for it; the model's target is made from it.

    Args:
        seed: The run's seed.
        numbers: Global sample numbers, `B` of them.
        shape: `[C, h, w]` of a sample's latents.
        section: Which kinds.

    Returns:
        `[B, C, h, w]` fp32 on the CPU.
    """
    noise = normal(seed, numbers, "noise", shape)
    if section.pyramid_noise:
        levels = section.pyramid_levels or PYRAMID_LEVELS
        noise = pyramid_noise(noise, seed, numbers, section.pyramid_noise, levels)
    if section.offset_noise:
        noise = offset_noise(noise, seed, numbers, section.offset_noise)
    return noise


def offset_noise(noise: Tensor, seed: int, numbers: Sequence[int], strength: float) -> Tensor:
    """Adds one value to each channel, so that the model learns to move a picture's mean.

    Without it the mean of the noise over a picture is almost zero, and the model learns that even the
    noisiest input shows a picture's brightness. Nicholas Guttenberg, "Diffusion with offset
    noise", Cross Labs, 2023.

    Args:
        noise: `[B, C, h, w]`.
        seed: The run's seed.
        numbers: Global sample numbers.
        strength: Standard deviation of the values; 0.05 to 0.1 is usual.
    """
    return noise + strength * normal(seed, numbers, "offset noise", (noise.shape[1], 1, 1))


def pyramid_noise(
    noise: Tensor, seed: int, numbers: Sequence[int], discount: float, levels: int = PYRAMID_LEVELS
) -> Tensor:
    """Adds noise of lower and lower resolution, then scales each sample back to unit power.

    Level i has a side that is rⁱ times smaller, r drawn from [2, 4) for each level, and weight
    discountⁱ. Jonathan Whitaker, "Multi-resolution noise for diffusion model training", 2023; level 0
    is white noise of full size, as in the report and in kohya's tools, so that their values work
    here too.

    Both divide by the standard deviation of the whole batch. That would let a sample's noise depend on
    its neighbors (P1), so each sample is divided by its own root mean square instead.

    Args:
        noise: `[B, C, h, w]`.
        seed: The run's seed.
        numbers: Global sample numbers.
        discount: In [0, 1]; 0.3 is mild, 0.8 strong.
        levels: Most levels; the last is the first that is one latent high or wide.
    """
    rows = [
        row + _coarse(row.shape, seed, number, discount, levels)
        for row, number in zip(noise, numbers, strict=True)
    ]
    total = torch.stack(rows)
    return total / total.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def _coarse(shape: Sequence[int], seed: int, number: int, discount: float, levels: int) -> Tensor:
    """The discounted sum of one sample's levels: `[C, h, w]`."""
    channels, height, width = shape
    total = torch.zeros(1, channels, height, width)
    for level in range(levels):
        ratio = 2 + 2 * float(uniform(seed, [number], f"pyramid ratio {level}"))
        side = (max(1, int(height / ratio**level)), max(1, int(width / ratio**level)))
        drawn = normal(seed, [number], f"pyramid noise {level}", (channels, *side))
        total += discount**level * F.interpolate(drawn, size=(height, width), mode="bilinear")
        if 1 in side:
            break
    return total[0]


def perturbed(noise: Tensor, seed: int, numbers: Sequence[int], strength: float) -> Tensor:
    """The noise in the model's input, while `noise` stays its target.

    In training the model sees noisy pictures that were made from real ones; in sampling it sees its
    own, with its errors in them. The perturbation trains it on slightly wrong inputs (Ning et al. 2023,
    arXiv:2301.11706, algorithm 1).

    Args:
        noise: `[B, C, h, w]` on any device.
        seed: The run's seed.
        numbers: Global sample numbers.
        strength: γ of the paper, which finds 0.1; 0 gives `noise` itself.
    """
    if not strength:
        return noise
    drawn = normal(seed, numbers, "input perturbation", noise.shape[1:])
    return noise + strength * moved(drawn, noise.device)
