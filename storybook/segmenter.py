"""The segmenter: finds the animal and its hat in a picture of the storybook world.

Like the oracle, it looks at the pixels alone and never sees prompts or control pictures: a small
convolutional network, trained on drawn scenes whose true masks are known.
:mod:`storybook.segmenter_training` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from storybook.networks import Reader, convolution

_WIDTHS = (32, 64, 96)
_BATCH = 128


class SegmenterNetwork(nn.Module):
    """A U-Net with three scales (Ronneberger et al. 2015, arXiv:1505.04597)."""

    def __init__(self) -> None:
        """Builds the network, initialized with the global random generator."""
        super().__init__()
        a, b, c = _WIDTHS
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), convolution(12, a), convolution(a, a))
        self.middle = nn.Sequential(convolution(a, b, stride=2), convolution(b, b))
        self.coarse = nn.Sequential(convolution(b, c, stride=2), convolution(c, c), convolution(c, c))
        self.up_middle = convolution(c + b, b)
        self.up_fine = convolution(b + a, a)
        self.last = nn.Sequential(nn.Conv2d(a, 4, 3, padding=1), nn.PixelShuffle(2))
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """How likely each pixel shows the animal or its hat.

        Args:
            pictures: `[B, 3, S, S]` in [0, 1], S a multiple of 8.

        Returns:
            Logits `[B, S, S]`.
        """
        fine = self.fine(pictures * 4 - 2)
        middle = self.middle(fine)
        coarse = self.up(self.coarse(middle))
        middle = self.up(self.up_middle(torch.cat([coarse, middle], dim=1)))
        logits: Tensor = self.last(self.up_fine(torch.cat([middle, fine], dim=1)))
        return logits[:, 0]


class Segmenter(Reader):
    """Reads silhouettes with a trained network, on the CPU."""

    name, make = "segmenter", SegmenterNetwork

    @torch.inference_mode()
    def read(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The silhouette in each picture, all of one size: `[B, H, W]` bool."""
        pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
        rows = pixels.permute(0, 3, 1, 2).float() / 255
        return torch.cat([self.network(part) > 0 for part in rows.split(_BATCH)])


def overlap(silhouettes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each pair, `[B]`; both `[B, H, W]` bool. Two empty ones give 1."""
    both = (silhouettes & others).flatten(1).sum(1)
    either = (silhouettes | others).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones(()))
