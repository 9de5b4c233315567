"""The segmenter: reads from a picture of the storybook world where the animal and its hat are.

As the oracle, it looks at the pixels alone and knows nothing of prompts or control pictures: a small
convolutional network, trained on drawn scenes whose true masks the drawing program knows.
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
    """Three scales down and up again with skip connections (Ronneberger et al. 2015, arXiv:1505.04597)."""

    def __init__(self) -> None:
        """Builds the network with the global random generator's weights."""
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
        """How surely each pixel shows the animal or its hat.

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
        """The silhouette in each of some pictures of one size: `[B, H, W]` bool."""
        pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
        rows = pixels.permute(0, 3, 1, 2).float() / 255
        return torch.cat([self.network(part) > 0 for part in rows.split(_BATCH)])


def overlap(silhouettes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each pair, `[B]`; both `[B, H, W]` bool. Two empty ones overlap in full."""
    both = (silhouettes & others).flatten(1).sum(1)
    either = (silhouettes | others).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones(()))
