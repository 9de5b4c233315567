"""Whether pictures show the subject of the training pictures, and whether they copy them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SUBJECT = 0.5
"""A picture shows the subject from here on: nearer to the training pictures than to the class."""

COPY = 0.5
"""A picture is a copy below this ratio of distances, as α in Carlini et al. (arXiv:2301.13188)."""

_NEIGHBORS = 5
_LEAST_SCALE = 0.1  # training pictures that have less in common say nothing


@dataclass(frozen=True)
class Likeness:
    """How much like the training pictures others are, in the features of the base model.

    Of the features of a picture (`Judge.features`: DIFT, Tang et al. 2023, arXiv:2306.03881), mean and
    standard deviation over its positions are taken, the latter since a coat's pattern is in them. Of each,
    the mean over pictures of the class by the base model is subtracted, and it is divided by their standard
    deviation, so that what all pictures of the class share, and what varies among them anyway, does not
    count. What is left is compared by its cosine.

    Attributes:
        center: `[2 D]`: the mean over the class.
        spread: `[2 D]`: its standard deviation.
        trained: `[N, 2 D]`: unit vectors of the training pictures.
        scale: The mean cosine of two different training pictures; 1 if there is only one.
    """

    center: Tensor
    spread: Tensor
    trained: Tensor
    scale: float

    @classmethod
    def between(cls, class_features: Tensor, training_features: Tensor) -> Likeness:
        """Learns what the class and the subject look like.

        Args:
            class_features: `[M, D, h, w]` of pictures of the class by the base model, at least two.
            training_features: `[N, D, h, w]` of the training pictures.
        """
        pooled = summed_up(class_features)
        spread = pooled.std(0).clamp_min(1e-6)
        units = F.normalize((summed_up(training_features) - pooled.mean(0)) / spread, dim=1)
        count, scale = len(units), 1.0
        if count > 1:
            mean = (float((units @ units.T).sum()) - count) / (count * (count - 1))
            scale = max(mean, _LEAST_SCALE)
        return cls(pooled.mean(0), spread, units, scale)

    def __call__(self, features: Tensor) -> Tensor:
        """The likeness of pictures, `[B]`: 0 as any of the class, 1 as the training pictures to each other.

        Args:
            features: `[B, D, h, w]`.
        """
        units = F.normalize((summed_up(features) - self.center) / self.spread, dim=1)
        return (units @ self.trained.T).mean(1) / self.scale


def summed_up(features: Tensor) -> Tensor:
    """Mean and standard deviation over the positions: `[B, D, h, w]` → `[B, 2 D]`."""
    return torch.cat([features.mean((2, 3)), features.std((2, 3))], 1)


@dataclass(frozen=True)
class Nearest:
    """The training picture that is nearest to each of some pictures.

    Attributes:
        index: `[B]` int64: which it is.
        ratio: `[B]`: its distance, divided by that of the nearest pictures that copy nothing.
    """

    index: Tensor
    ratio: Tensor

    @property
    def copies(self) -> Tensor:
        """Which pictures are copies: `[B]` bool."""
        return self.ratio < COPY


def nearest(latents: Tensor, training: Tensor, mirrored: Tensor, others: Tensor) -> Nearest:
    """Looks for copies of training pictures.

    The rule is that of Carlini et al. 2023 (arXiv:2301.13188), for few training pictures: a copy is unusually
    near to one of them. How near is usual is said by the base model's pictures of the class, which
    cannot be copies: the mean distance of the five of them that are nearest. Distances are Euclidean, between
    latents; a training picture is also compared mirrored.

    Args:
        latents: `[B, C, h, w]` of the pictures.
        training: `[N, C, h, w]` of the training pictures.
        mirrored: `[N, C, h, w]` of the same, mirrored before they were encoded.
        others: `[M, C, h, w]` of pictures that copy nothing.
    """
    flat = latents.flatten(1)
    to_each = torch.minimum(torch.cdist(flat, training.flatten(1)), torch.cdist(flat, mirrored.flatten(1)))
    usual = torch.cdist(flat, others.flatten(1)).sort(1).values[:, :_NEIGHBORS].mean(1)
    distance, index = to_each.min(1)
    return Nearest(index, distance / usual.clamp_min(1e-12))
