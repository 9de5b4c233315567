"""Whether pictures show what their prompts say, judged by the base model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.evaluation.judge import Judge

SHARES = (0.4, 0.6, 0.8)
"""At which noise levels prompts are compared, as shares of the schedule.

At lower ones the picture itself says nearly all that there is to predict, whatever the prompt."""


def classify(judge: Judge, latents: Tensor, prompts: Sequence[str]) -> Tensor:
    """Which of several prompts fits each picture best (Diffusion Classifier, arXiv:2303.16203).

    The model's loss on a picture with a prompt is, up to weights, a bound of -log p(picture | prompt). With
    every prompt equally likely beforehand, the one with the lowest loss is the most likely (Bayes). All
    prompts are compared with the same noise, as the authors do, since its draw matters more than the prompt.

    Args:
        judge: The base model, which knows the words.
        latents: `[B, C, h, w]` of the pictures.
        prompts: The alternatives.

    Returns:
        `[B]` int64: the place of the best prompt.
    """
    timesteps = [round(share * judge.timesteps) for share in SHARES]
    losses = [judge.errors(latents, [prompt] * len(latents), timesteps, 1).mean((1, 2)) for prompt in prompts]
    return torch.stack(losses).argmin(0)
