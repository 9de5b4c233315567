"""Pictures as pixels, for an autoencoder; every draw is a pure function of (seed, number) (P1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from finetune.data.decode import reading
from finetune.data.encoded import Progress
from finetune.data.folder import Picture
from finetune.data.preprocess import as_pixels, cropped, place
from finetune.diffusion.random import picture_index, uniform
from finetune.diffusion.reconstruction import PixelRows


class PixelSource:
    """The center crops of pictures, half of the samples mirrored.

    Args:
        pictures: The pictures.
        size: Side of the square in pixels.
        seed: Seed of the order and the mirroring.
        cache: Keep the squares in memory, one byte per value, instead of reading the files for each sample.
    """

    def __init__(self, pictures: Sequence[Picture], size: int, seed: int, cache: bool = True) -> None:
        self.pictures, self.size, self.seed = pictures, size, seed
        self._cache, self._kept = cache, dict[int, Tensor]()

    def batches(self, numbers: Sequence[int]) -> list[PixelRows]:
        """The pictures that these samples show, in one batch."""
        index = [picture_index(self.seed, n, len(self.pictures)) for n in numbers]
        pixels = self.pixels(index)
        mirrored = uniform(self.seed, numbers, "flip") < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return [PixelRows(tuple(numbers), tuple(str(self.pictures[i].origin) for i in index), pixels)]

    def pixels(self, index: Sequence[int]) -> Tensor:
        """These pictures as `[B, 3, size, size]` fp32 in [-1, 1]."""
        missing = [i for i in dict.fromkeys(index) if i not in self._kept]
        read: dict[int, Tensor] = {}
        if missing:
            with reading() as pool:
                read = dict(zip(missing, pool.map(self._square, missing), strict=True))
        if self._cache:
            self._kept |= read
        return as_pixels(torch.stack([read[i] if i in read else self._kept[i] for i in index]))

    def prepare(self, progress: Progress | None = None) -> None:
        """Reads every picture once, if they are cached."""
        for chunk in self.chunks() if self._cache else ():
            self.pixels(chunk)
            if progress:
                progress(chunk[-1] + 1, len(self.pictures))

    def chunks(self, most: int | None = None, at_once: int = 64) -> Iterator[range]:
        """Indices of the first `most` pictures (None: all), `at_once` at a time."""
        count = min(most or len(self.pictures), len(self.pictures))
        return (range(start, min(start + at_once, count)) for start in range(0, count, at_once))

    def _square(self, index: int) -> Tensor:
        picture = self.pictures[index]
        with picture.opened() as image:
            return cropped(image, place((picture.height, picture.width), (self.size, self.size)))
