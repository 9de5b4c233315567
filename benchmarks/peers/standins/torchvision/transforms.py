"""Torchvision's transforms of a Pillow picture, with the same names and results.

It documents them at https://pytorch.org/vision/stable/transforms.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class InterpolationMode(Enum):
    """How pixels are computed when a picture is resized; named as in Pillow."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class Compose:
    """Transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        """The result of the last."""
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Resize:
    """Resizes the shorter side to `size` pixels."""

    def __init__(self, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        self.size, self.method = size, Image.Resampling[interpolation.name]

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture, itself if it has this size."""
        short = min(picture.size)
        width, height = (self.size * side // short for side in picture.size)
        return picture if picture.size == (width, height) else picture.resize((width, height), self.method)


class CenterCrop:
    """The square of `size` pixels in the middle of a picture that is no smaller."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The square."""
        left, top = (round((side - self.size) / 2) for side in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))


class RandomCrop:
    """A square of `size` pixels anywhere in a picture that is no smaller."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The square."""
        width, height = picture.size
        top = int(torch.randint(0, height - self.size + 1, ()))
        left = int(torch.randint(0, width - self.size + 1, ()))
        return picture.crop((left, top, left + self.size, top + self.size))


class RandomHorizontalFlip:
    """Mirrors a picture with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture or its mirror image."""
        return ImageOps.mirror(picture) if float(torch.rand(())) < self.p else picture


class ToTensor:
    """`[C, H, W]` in [0, 1] from a picture or a uint8 array `[H, W, C]`."""

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        """The tensor."""
        pixels = torch.from_numpy(np.array(picture))
        pixels = pixels[:, :, None] if pixels.dim() == 2 else pixels
        return pixels.permute(2, 0, 1).contiguous().float() / 255


class Normalize:
    """`(x - mean) / std`, by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        """The tensor, of the same shape."""
        return (pixels - self.mean) / self.std
