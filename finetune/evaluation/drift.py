"""How a trained model's predictions differ from the base model's, by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finetune.evaluation.judge import Judge
from finetune.evaluation.subject import summed_up

SHARES = (0.2, 0.4, 0.6, 0.8)
"""The noise levels, as shares of the schedule."""


def short(value: float) -> float:
    """A figure with four significant digits: more would be rounding of float sums."""
    return float(f"{value:.4g}")


@dataclass(frozen=True)
class Compared:
    """Two models on the same pictures with the same prompts and noise.

    Attributes:
        base: The base model's loss at each of `SHARES`.
        trained: The trained model's.
        changed: E‖f'(x_t, c) - f(x_t, c)‖² / E‖f(x_t, c) - target‖² of the trained model f' and the base
            model f: how much the predictions have changed, as a share of the loss that there is anyway. Where
            f is the best prediction, as on its own pictures, it is by how much the loss has grown, since then
            E‖f' - target‖² is the sum of both.
    """

    base: tuple[float, ...]
    trained: tuple[float, ...]
    changed: float

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "base": [short(loss) for loss in self.base],
            "trained": [short(loss) for loss in self.trained],
            "changed": short(self.changed),
        }

    @property
    def gain(self) -> float:
        """By which share the loss, over all levels, is lower than the base model's; negative if higher."""
        return 1 - sum(self.trained) / sum(self.base)


@dataclass(frozen=True)
class Before:
    """What the base model predicts of pictures, to compare one model after another with.

    Attributes:
        latents: `[B, C, h, w]` of the pictures.
        prompts: What each of them shows.
        timesteps: Of the noise levels.
        draws: Of the noise at each level.
        target: What should be predicted: `[B, timesteps, draws, C, h, w]`.
        predicted: What is.
    """

    latents: Tensor
    prompts: Sequence[str]
    timesteps: Sequence[int]
    draws: int
    target: Tensor
    predicted: Tensor

    @classmethod
    def training(cls, base: Judge, latents: Tensor, prompts: Sequence[str], draws: int = 1) -> Before:
        """Asks the base model; arguments as of `compare`."""
        timesteps = [round(share * base.timesteps) for share in SHARES]
        target = base.targets(latents, timesteps, draws)
        predicted = base.predictions(latents, prompts, timesteps, draws)
        return cls(latents, prompts, timesteps, draws, target, predicted)

    def compared(self, trained: Judge) -> Compared:
        """Asks a trained model, of the same seed as the base model."""
        after = trained.predictions(self.latents, self.prompts, self.timesteps, self.draws)
        over = (0, 2, 3, 4, 5)  # all but the levels
        losses = [(predicted - self.target).square().mean(over) for predicted in (self.predicted, after)]
        changed = float((after - self.predicted).square().mean() / losses[0].mean().clamp_min(1e-12))
        return Compared(tuple(losses[0].tolist()), tuple(losses[1].tolist()), changed)


def compare(base: Judge, trained: Judge, latents: Tensor, prompts: Sequence[str], draws: int = 1) -> Compared:
    """Compares two models.

    Args:
        base: The base model.
        trained: The trained model; of the same seed.
        latents: `[B, C, h, w]` of pictures.
        prompts: What each of them shows.
        draws: Of the noise at each level.
    """
    return Before.training(base, latents, prompts, draws).compared(trained)


def frechet(features: Tensor, others: Tensor, spread: Tensor) -> float:
    """The Fréchet distance of two sets of features, each taken as a Gaussian with independent features.

    ‖μ₁ - μ₂‖² + ‖σ₁ - σ₂‖² (Dowson & Landau 1982), divided by the number of features. These are those of
    `Likeness`, in units of `spread`. A full covariance, as FID has (arXiv:1706.08500), would need thousands
    of pictures.

    Args:
        features: `[B, D, h, w]`.
        others: `[B', D, h, w]`.
        spread: `[2 D]`: a usual standard deviation of each feature.

    Returns:
        0 for equal sets.
    """
    one, two = (summed_up(each) / spread for each in (features, others))
    means, deviations = one.mean(0) - two.mean(0), one.std(0) - two.std(0)
    return float((means.square() + deviations.square()).mean())
