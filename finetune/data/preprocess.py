"""A picture → the square of pixels that the VAE sees.

The shorter side is resized to the resolution (Lanczos), then a square is cropped, then it may be
mirrored; the sizes are those of SDXL's micro-conditioning (Podell et al. 2023, arXiv:2307.01952).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

VERSION = "lanczos-2"
"""Changes whenever the same picture and settings would give other pixels; part of every cache key."""


@dataclass(frozen=True)
class Placement:
    """Where the square is.

    Attributes:
        original: Height and width of the picture before resizing.
        resized: Height and width after resizing, shorter side = `size`.
        cut: Top and left of the square in the resized picture.
        corner: Top and left of the square in the resized picture *as trained on*, that is in the
            mirrored one if `mirrored`; this is SDXL's crop conditioning.
        size: Side of the square in pixels.
        mirrored: Whether left and right are swapped.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    cut: tuple[int, int]
    corner: tuple[int, int]
    size: int
    mirrored: bool


def alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have the same aspect ratio, to 1%."""
    (width, height), (other_width, other_height) = size, other
    return abs(width * other_height - height * other_width) <= 0.01 * width * other_height


def place(
    original: tuple[int, int], size: int, *, at: tuple[float, float] | None = None, mirrored: bool = False
) -> Placement:
    """Works out the resizing and the square.

    Args:
        original: Height and width of the picture in pixels.
        size: Side of the square in pixels.
        at: Position of the square as fractions in [0, 1) of the free range down and to the right; None
            for the center.
        mirrored: Whether the square is mirrored.
    """
    height, width = original
    shorter = min(height, width)
    resized = (max(size, round(height * size / shorter)), max(size, round(width * size / shorter)))
    room = (resized[0] - size, resized[1] - size)
    if at is None:
        top, left = room[0] // 2, room[1] // 2
    else:
        top, left = (min(int(fraction * (r + 1)), r) for fraction, r in zip(at, room, strict=True))
    corner = (top, room[1] - left if mirrored else left)
    return Placement(original, resized, (top, left), corner, size, mirrored)


def square(image: Image.Image, placement: Placement) -> Tensor:
    """The square as `[3, size, size]` uint8.

    Args:
        image: 8-bit RGB of the placement's original size.
        placement: From `place`.
    """
    height, width = placement.resized
    if image.size != (width, height):
        # Not with Pillow's `reducing_gap`: it is twice as fast, but off by up to 7 levels at a gap of 3.
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left = placement.cut
    image = image.crop((left, top, left + placement.size, top + placement.size))
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return (levels.flip(-1) if placement.mirrored else levels).contiguous()


def as_pixels(levels: Tensor) -> Tensor:
    """Levels of 0 to 255 as the VAE takes them: fp32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def cut_out(image: Image.Image, placement: Placement) -> Tensor:
    """As `square`, in [-1, 1]: `[3, size, size]` fp32."""
    return as_pixels(square(image, placement))
