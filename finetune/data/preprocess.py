"""A picture → the pixels that the VAE sees.

The picture is resized (Lanczos) until it just covers the size it is trained at, then cropped to it, then its
colors may be jittered and it may be mirrored; the sizes are those of SDXL's micro-conditioning (Podell et al.
2023, arXiv:2307.01952).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.data.colors import Colors

Size = tuple[int, int]
"""Height and width in pixels."""

VERSION = "lanczos-2"
"""Changes whenever the same picture and settings would give other pixels; part of every cache key."""


@dataclass(frozen=True)
class Placement:
    """Where the crop is.

    Attributes:
        original: Height and width of the picture before resizing.
        resized: Height and width after resizing; one of them is that of `size`.
        cut: Top and left of the crop in the resized picture.
        corner: Top and left of the crop in the resized picture *as trained on*, that is in the
            mirrored one if `mirrored`; this is SDXL's crop conditioning.
        size: Height and width of the crop.
        mirrored: Whether left and right are swapped.
    """

    original: Size
    resized: Size
    cut: tuple[int, int]
    corner: tuple[int, int]
    size: Size
    mirrored: bool

    @property
    def key(self) -> str:
        """What the pixels of a file depend on besides its bytes, for cache keys (P4)."""
        # A square is named by its side, as it was when there were no other shapes: caches keep their use.
        height, width = self.size
        size = height if height == width else self.size
        return f"{VERSION} {size} {self.cut} {self.mirrored}"

    @property
    def lost(self) -> float:
        """Share of the picture's area that is cropped away."""
        return 1 - math.prod(self.size) / math.prod(self.resized)

    @property
    def enlarged(self) -> bool:
        """Whether the picture is smaller than it is trained at."""
        return self.original[0] < self.size[0] or self.original[1] < self.size[1]


def alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have the same aspect ratio, to 1%."""
    (width, height), (other_width, other_height) = size, other
    return abs(width * other_height - height * other_width) <= 0.01 * width * other_height


def place(
    original: Size, size: Size, *, at: tuple[float, float] | None = None, mirrored: bool = False
) -> Placement:
    """Works out the resizing and the crop.

    Args:
        original: Height and width of the picture.
        size: Height and width of the crop.
        at: Position of the crop as fractions in [0, 1) of the free range down and to the right; None
            for the center.
        mirrored: Whether the crop is mirrored.
    """
    (height, width), (rows, columns) = original, size
    if height * columns <= width * rows:  # the height decides, and width is cropped
        resized = (rows, max(columns, round(width * rows / height)))
    else:
        resized = (max(rows, round(height * columns / width)), columns)
    room = (resized[0] - rows, resized[1] - columns)
    if at is None:
        top, left = room[0] // 2, room[1] // 2
    else:
        top, left = (min(int(fraction * (r + 1)), r) for fraction, r in zip(at, room, strict=True))
    corner = (top, room[1] - left if mirrored else left)
    return Placement(original, resized, (top, left), corner, size, mirrored)


def cropped(image: Image.Image, placement: Placement, colors: Colors | None = None) -> Tensor:
    """The crop as `[3, height, width]` uint8.

    Args:
        image: 8-bit RGB of the placement's original size.
        placement: From `place`.
        colors: How its colors are changed.
    """
    height, width = placement.resized
    if image.size != (width, height):
        # Not with Pillow's `reducing_gap`: it is twice as fast, but off by up to 7 levels at a gap of 3.
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    (top, left), (rows, columns) = placement.cut, placement.size
    image = image.crop((left, top, left + columns, top + rows))
    image = colors.of(image) if colors else image
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return (levels.flip(-1) if placement.mirrored else levels).contiguous()


def as_pixels(levels: Tensor) -> Tensor:
    """Levels of 0 to 255 as the VAE takes them: fp32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def cut_out(image: Image.Image, placement: Placement) -> Tensor:
    """As `cropped`, in [-1, 1]: `[3, height, width]` fp32."""
    return as_pixels(cropped(image, placement))
