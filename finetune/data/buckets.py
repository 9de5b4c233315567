"""Aspect-ratio buckets: the shape each picture is trained at, and an order in which equal shapes meet.

As in NovelAI's "Aspect ratio bucketing" (2022) and SDXL (Podell et al. 2023, arXiv:2307.01952, appendix I),
but no picture is dropped, and the order is a function of the seed and the sample's number alone (P1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import DataSection
from finetune.data.epoch import Pool
from finetune.data.preprocess import Size
from finetune.diffusion.random import permutation
from finetune.errors import ConfigError

Index = NDArray[np.int64]

LARGEST_STEP = 64
"""Pixels by which sizes differ unless set: what a published UNet divides a picture's side by."""


def bucket_table(resolution: int, step: int, ratio: float) -> list[Size]:
    """The sizes that pictures are trained at: as many pixels as the square has, or a little less.

    Sides are multiples of `step`; neither could be a step longer without exceeding the square's area.

    Args:
        resolution: Side of the square in pixels; it is a bucket whatever the step.
        step: In pixels.
        ratio: The longer side is at most so many times the shorter one.

    Returns:
        Heights and widths, from the widest to the tallest.
    """
    area = resolution**2
    found = {(resolution, resolution)}
    for short in range(step, resolution + 1, step):
        long = area // short // step * step
        if short < long <= ratio * short:
            found |= {(short, long), (long, short)}
    for long in range(resolution // step * step + step, int(ratio * resolution) + 1, step):
        short = area // long // step * step
        if 0 < short < long <= ratio * short:
            found |= {(short, long), (long, short)}
    return sorted(found, key=_elongation)


def nearest(originals: Sequence[Size], table: Sequence[Size]) -> list[Size]:
    """The bucket of each picture: the one whose aspect ratio is nearest by its logarithm.

    It is the one that loses the smallest share of the picture when covered by it.

    Args:
        originals: Height and width of each picture.
        table: From `bucket_table`.
    """
    ratios = np.array([_elongation(size) for size in table])
    own = np.array([_elongation(size) for size in originals])
    return [table[i] for i in np.searchsorted((ratios[1:] + ratios[:-1]) / 2, own)]


def _elongation(size: Size) -> float:
    return math.log(size[0] / size[1])


def trained_sizes(
    originals: Sequence[Size], data: DataSection, resolution: int, factor: int
) -> list[tuple[int, Size]]:
    """What an epoch shows: each picture at its size, once for each resolution.

    Args:
        originals: Height and width of each picture.
        data: The recipe's settings.
        resolution: Side in pixels where the settings leave it to the model.
        factor: Pixels per latent along a side.

    Returns:
        The pictures' indices with the height and width in pixels that they are trained at.

    Raises:
        ConfigError: If a resolution or the step does not fit the model's VAE.
    """
    items: list[tuple[int, Size]] = []
    for own in (resolution, *data.extra_resolutions):
        key = "data.resolution" if own == resolution else "data.extra_resolutions"
        _check_multiple(f"A resolution of {own}", own, factor, key)
        table = [(own, own)]
        if data.buckets:
            step = data.bucket_step or max(factor, min(LARGEST_STEP, own // 4) // factor * factor)
            _check_multiple(f"A step of {step} pixels", step, factor, "data.bucket_step")
            table = bucket_table(own, step, data.bucket_ratio)
        items += enumerate(nearest(originals, table))
    return items


def _check_multiple(what: str, value: int, factor: int, key: str) -> None:
    if value % factor:
        raise ConfigError(
            f"{what} is not a multiple of {factor}, the factor of this model's VAE.",
            where=key,
            fix=f"Use {max(1, value // factor) * factor}.",
        )


class Order:
    """Which item each sample of a run shows: a new order every epoch, in which a step sees one shape.

    An epoch shows each item as often as it repeats. Its items are shuffled, then collected by shape; once a
    step's worth of one shape is complete, its place is there. What completes no step comes last. So the order
    is the shuffled one where all shapes are equal, or a step sees one sample.

    Args:
        sizes: The shape of each item.
        repeats: How often each is shown in an epoch; 0 for those of a pool.
        group: Samples that an optimizer step sees, over all processes.
        seed: Of the shuffling.
        pools: Items of which an epoch shows a fixed number of samples.
        start: The number of the first sample; the items of a block of a stream come later than 0.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        repeats: Sequence[int],
        group: int,
        seed: int,
        pools: Sequence[Pool] = (),
        start: int = 0,
    ) -> None:
        self.group, self.seed, self.start = group, seed, start
        self._items: Index = np.repeat(np.arange(len(sizes)), repeats)
        self._pools, self._length = pools, len(self._items) + sum(pool.samples for pool in pools)
        number = {size: index for index, size in enumerate(dict.fromkeys(sizes))}
        self._shapes: Index = np.array([number[size] for size in sizes])
        # Of the epoch that a step completes and of the one it begins.
        self._epoch = lru_cache(maxsize=2)(self._ordered)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._length

    def item(self, number: int) -> int:
        """The index of the item that a sample shows; negative numbers have an order of their own."""
        epoch, position = divmod(number - self.start if number >= 0 else -1 - number, len(self))
        return int(self._epoch(epoch, number < 0)[position])

    def _ordered(self, epoch: int, negative: bool) -> Index:
        # No two blocks of a stream start at the same number, so each has an order of its own.
        drawn = -1 - epoch if negative else self.start + epoch
        walk: Index = permutation(self.seed, drawn, len(self)).numpy()
        walk = walk[::-1] if negative else walk  # these numbers count down
        # The first samples complete the step that the epoch before began.
        first = -(self.start + epoch * len(self)) % self.group
        begun, rest = walk[:first], walk[first:]
        items: Index = np.concatenate([self._items, *(pool.shown(self.seed, drawn) for pool in self._pools)])
        order = np.concatenate([begun, rest[grouped(self._shapes[items[rest]], self.group)]])
        ordered: Index = items[order]
        return ordered


def grouped(shapes: NDArray[Any], group: int) -> Index:
    """Positions in an order in which `group` equal shapes follow each other as long as there are as many.

    A group takes the place of its last member; members of incomplete ones come last, by shape.

    Args:
        shapes: A number for the shape at each position.
        group: At least 1.
    """
    by_shape = np.argsort(shapes, kind="stable")
    _, starts, counts = np.unique(shapes[by_shape], return_index=True, return_counts=True)
    starts, counts = np.repeat(starts, counts), np.repeat(counts, counts)
    rank = np.arange(len(shapes)) - starts
    last = rank - rank % group + group - 1  # the rank of the group's last member
    place = np.where(last < counts, by_shape[starts + np.minimum(last, counts - 1)], len(shapes))
    order: Index = by_shape[np.argsort(place, kind="stable")]
    return order
