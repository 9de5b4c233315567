"""Whether pictures show the subject down to its details, spot by spot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_ACROSS = 32
"""Spots across a picture; larger maps of features are averaged, since each spot is compared with each."""


@dataclass(frozen=True)
class Details:
    """How much of what is special in the training pictures is found again in others.

    The features of a diffusion model correspond between pictures: the same part of the same thing has similar
    ones wherever it is (DIFT, Tang et al. 2023, arXiv:2306.03881). For each spot of a training picture, its
    most similar spot is looked for in another picture, by the cosine of their features. A spot is special if
    it is found better in the other training pictures than in the base model's pictures of the class; the
    difference is its weight, so that what is around the subject, or common to its class, does not count.

    `Likeness` tells a subject at once from its class; this also tells whether the last detail is right.

    Attributes:
        center: `[D, 1, 1]`: the mean of the features over the class.
        spread: `[D, 1, 1]`: their standard deviation.
        spots: `[N, P, D]`: unit vectors of the training pictures.
        usual: `[N, P]`: how well each spot is found in pictures of the class.
        weight: `[N, P]`: how much better in the other training pictures.
    """

    center: Tensor
    spread: Tensor
    spots: Tensor
    usual: Tensor
    weight: Tensor

    @classmethod
    def between(cls, class_features: Tensor, training_features: Tensor) -> Details:
        """Learns what is special in the training pictures.

        Args:
            class_features: `[M, D, h, w]` of pictures of the class by the base model.
            training_features: `[N, D, h, w]` of the training pictures; of a single one, each spot is
                found perfectly in itself.
        """
        features = _smaller(class_features)
        center = features.mean((0, 2, 3))[:, None, None]
        spread = features.std((0, 2, 3)).clamp_min(1e-6)[:, None, None]
        known, others = (_units(_smaller(f), center, spread) for f in (training_features, class_features))
        usual = torch.stack([_found(spots, others).mean(0) for spots in known])
        own = torch.stack([_found(known[n], rest).mean(0) for n, rest in _leaving_out(known)])
        return cls(center, spread, known, usual, (own - usual).clamp_min(0))

    def __call__(self, features: Tensor) -> Tensor:
        """The share of details that pictures have, `[B]`: 0 as the class, 1 as the training pictures.

        It is Σ w (found - usual) / Σ w² over all spots of all training pictures: for the training
        pictures themselves, found - usual is w wherever a spot is special.

        Args:
            features: `[B, D, h, w]`.
        """
        others = _units(_smaller(features), self.center, self.spread)
        parts = zip(self.spots, self.usual, self.weight, strict=True)
        gained = sum(((_found(spots, others) - usual) * weight).sum(1) for spots, usual, weight in parts)
        return torch.as_tensor(gained) / self.weight.square().sum().clamp_min(1e-6)


def _smaller(features: Tensor) -> Tensor:
    height, width = (min(side, _MOST_ACROSS) for side in features.shape[2:])
    return F.adaptive_avg_pool2d(features, (height, width))


def _units(features: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """`[B, D, h, w]` → `[B, P, D]` of length 1."""
    return F.normalize(((features - center) / spread).flatten(2).transpose(1, 2), dim=2)


def _found(spots: Tensor, pictures: Tensor) -> Tensor:
    """The cosine of each spot `[P, D]` with the most similar one of each picture `[B, Q, D]`: `[B, P]`."""
    return torch.stack([(spots @ picture.T).max(1).values for picture in pictures])


def _leaving_out(known: Tensor) -> Iterator[tuple[int, Tensor]]:
    for number in range(len(known)):
        rest = torch.cat([known[:number], known[number + 1 :]])
        yield number, rest if len(rest) else known
