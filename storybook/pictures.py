"""Drawn pictures in memory: what the autoencoder and the UNet are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from finetune.diffusion.random import picture_index, uniform
from storybook.captions import caption
from storybook.drawing import draw
from storybook.textures import draw_texture
from storybook.world import near_miss, sample_spec

SIZE = 64
"""Side of the model's pictures in pixels."""

TEXTURE_SHARE, NEAR_MISS_SHARE = 0.30, 0.08
"""How much of the autoencoder's training is natural-looking texture, and animals like the subject."""

Draw = Callable[[np.random.Generator], np.ndarray]
Report = Callable[[int, int], None]


def pixels_of(pictures: Tensor) -> Tensor:
    """uint8 `[B, 3, S, S]` to fp32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def draw_for_autoencoder(count: int, seed: int, report: Report | None = None) -> Tensor:
    """Scenes, animals that resemble the subject, and textures: uint8 `[count, 3, 64, 64]`."""

    def one(rng: np.random.Generator) -> np.ndarray:
        kind = rng.random()
        if kind < TEXTURE_SHARE:
            return np.asarray(draw_texture(rng, SIZE))
        spec = near_miss(rng) if kind < TEXTURE_SHARE + NEAR_MISS_SHARE else sample_spec(rng)
        return np.asarray(draw(spec, rng, SIZE))

    return _stack(one, count, seed, report)


def draw_world(
    count: int, seed: int, captions: int, report: Report | None = None
) -> tuple[Tensor, list[list[str]]]:
    """Scenes of the world as training may see them, each with several captions.

    Returns:
        uint8 `[count, 3, 64, 64]` and, for each picture, `captions` captions.
    """
    texts: list[list[str]] = []

    def one(rng: np.random.Generator) -> np.ndarray:
        spec = sample_spec(rng)
        texts.append([caption(spec, rng) for _ in range(captions)])
        return np.asarray(draw(spec, rng, SIZE))

    return _stack(one, count, seed, report), texts


def _stack(one: Draw, count: int, seed: int, report: Report | None) -> Tensor:
    pictures = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for index in range(count):
        # A generator for each picture: picture 7 is the same however many are drawn.
        pictures[index] = one(np.random.default_rng((seed, index))).transpose(2, 0, 1)
        if report and (index + 1) % 500 == 0:
            report(index + 1, count)
    return torch.from_numpy(pictures)


@dataclass(frozen=True)
class PictureRows:
    """Pictures to reconstruct.

    Attributes:
        numbers: The global sample number of each row.
        names: What the rows are called in messages.
        pixels: `[B, 3, 64, 64]` in [-1, 1].
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    pixels: Tensor

    @property
    def learned(self) -> tuple[bool, ...]:
        """All rows are of what is learned."""
        return (True,) * len(self.numbers)

    def to(self, device: torch.device | str) -> PictureRows:
        """The same rows on `device`."""
        return replace(self, pixels=self.pixels.to(device))


class PixelSource:
    """Batches of pictures, half of them mirrored; a pure function of (seed, sample number).

    Args:
        pictures: uint8 `[N, 3, 64, 64]`.
        seed: Seed of order and mirroring.
    """

    def __init__(self, pictures: Tensor, seed: int) -> None:
        self.pictures, self.seed = pictures, seed

    def batch(self, numbers: Sequence[int]) -> PictureRows:
        """The pictures that these samples show."""
        index = [picture_index(self.seed, n, len(self.pictures)) for n in numbers]
        pixels = pixels_of(self.pictures[index])
        mirrored = uniform(self.seed, numbers, "flip") < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return PictureRows(tuple(numbers), tuple(f"drawn picture {i}" for i in index), pixels)
