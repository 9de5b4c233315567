"""Distances between prediction and target, and their mean over a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.config.objective import HUBER_C, HUBER_SCHEDULE, ObjectiveSection


def losses(
    error: Tensor, timesteps: Tensor, alphas_bar: Tensor, mask: Tensor | None, section: ObjectiveSection
) -> Tensor:
    """The loss of each sample: `l2` is the mean square, `l1` the mean absolute value.

    Args:
        error: `[B, C, h, w]`, prediction minus target.
        timesteps: `[B]`.
        alphas_bar: `[T]`, the share of the picture's power at each timestep.
        mask: `[B, 1, h, w]` or None, see `mean`.
        section: Which distance; for `huber` and `smooth_l1` see `smooth_l1`.

    Returns:
        `[B]`.
    """
    if section.loss == "l2":
        return mean(error.square(), mask)
    if section.loss == "l1":
        return mean(error.abs(), mask)
    c, schedule = section.huber_c or HUBER_C, section.huber_schedule or HUBER_SCHEDULE
    threshold = huber_threshold(timesteps, alphas_bar, c, schedule)
    smooth = mean(smooth_l1(error, threshold), mask)
    return threshold * smooth if section.loss == "huber" else smooth


def smooth_l1(error: Tensor, threshold: Tensor) -> Tensor:
    """2(√(x² + c²) − c): about x²/c below the threshold c, and 2|x| above it.

    Times c this is the pseudo-Huber loss: about x² below c, as L2, and 2c|x| above it. Both as in the
    pseudo-Huber paper (Khrapov et al. 2024, arXiv:2403.16728) and the scripts of diffusers and kohya.

    Args:
        error: `[B, C, h, w]`.
        threshold: `[B]`, above 0.
    """
    c = threshold.to(error)[:, None, None, None]
    return 2 * ((error.square() + c.square()).sqrt() - c)


def huber_threshold(timesteps: Tensor, alphas_bar: Tensor, c: float, schedule: str) -> Tensor:
    """The threshold of each sample (arXiv:2403.16728): about 1 without noise, `c` with the most.

    So the loss is quadratic where little noise leaves details to learn, and forgiving of outliers
    where there is much.

    Args:
        timesteps: `[B]`.
        alphas_bar: `[T]`, the share of the picture's power at each timestep.
        c: In (0, 1].
        schedule: `constant` is c at every timestep, `exponential` is c^(t/T), and `snr` is
            (1 − c) / (1 + σ)² + c with σ² = (1 − ᾱ) / ᾱ, noise over signal.

    Returns:
        `[B]` on the device of `timesteps`.
    """
    if schedule == "constant":
        return torch.full(timesteps.shape, c, device=timesteps.device)
    if schedule == "exponential":
        return torch.pow(c, timesteps / len(alphas_bar))
    share = alphas_bar.to(timesteps.device)[timesteps]
    return (1 - c) / (1 + ((1 - share) / share).sqrt()) ** 2 + c


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each sample, weighted by the mask.

    It is divided by the sum of the mask, not by the picture's area, so that a subject that fills a
    tenth of its picture does not train at a tenth of the rate. A sample whose mask is all 0 has a
    loss of 0.

    Args:
        values: `[B, C, h, w]`.
        mask: `[B, 1, h, w]`, nowhere negative; None counts everything.

    Returns:
        `[B]`.
    """
    if mask is None:
        return values.flatten(1).mean(1)
    weight = mask.to(values).expand_as(values).flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=torch.finfo(values.dtype).tiny)
