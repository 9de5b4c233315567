"""Which timestep a sample is trained at: a function of (seed, sample number) (P1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.diffusion.random import uniform


def draw_timesteps(
    seed: int,
    numbers: Sequence[int],
    count: int,
    part: tuple[float, float] = (0.0, 1.0),
    logit_normal: tuple[float, float] | None = None,
) -> Tensor:
    """A timestep for each sample.

    Args:
        seed: The run's seed.
        numbers: Global sample numbers, `B` of them.
        count: Timesteps of the schedule; 0 has the least noise.
        part: Lower (inclusive) and upper end (exclusive) of their range, as fractions of the schedule.
            At least one timestep is in it.
        logit_normal: Mean and standard deviation of `warp`, within the range; None for uniform.

    Returns:
        `[B]` int64 on the CPU.
    """
    drawn = uniform(seed, numbers, "timestep")
    if logit_normal:
        drawn = warp(drawn, *logit_normal)
    low = min(round(part[0] * count), count - 1)
    width = max(round(part[1] * count) - low, 1)
    return low + (drawn * width).to(torch.int64).clamp(max=width - 1)


def warp(drawn: Tensor, mean: float, std: float) -> Tensor:
    """Turns uniform values in [0, 1) into logit-normal ones in [0, 1] (Esser et al. 2024, arXiv:2403.03206).

    The logit of the result is normal with this mean and standard deviation: 0 and 1 favor the middle
    of the schedule, a mean below 0 details (little noise), above 0 composition (much noise).
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(drawn))
