"""How many samples of each picture an epoch has, also where a folder has a share of them (`data.sources`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.data.folder import Picture
from finetune.data.notes import count, listing
from finetune.diffusion.random import permutation

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Items of which an epoch shows a fixed number of samples, whole rounds or not.

    Attributes:
        items: Their indices, each as often as it repeats.
        samples: How many an epoch shows.
        name: Separates the draws of pools.
    """

    items: tuple[int, ...]
    samples: int
    name: str

    def shown(self, seed: int, epoch: int) -> Index:
        """The items that an epoch shows, `[samples]`: a function of seed and epoch alone (P1).

        They are the next ones of an endless row of shuffled rounds, so that after any number of epochs no
        item was shown more than once oftener than another that repeats as often.
        """
        size, start = len(self.items), epoch * self.samples
        rounds = range(start // size, (start + self.samples - 1) // size + 1)
        orders = [permutation(seed, number, size, f"share {self.name}").numpy() for number in rounds]
        places = np.concatenate(orders)[start - rounds[0] * size :][: self.samples]
        shown: Index = np.array(self.items, dtype=np.int64)[places]
        return shown


def amounts(pictures: Sequence[Picture]) -> tuple[list[int], list[Pool]]:
    """How often an epoch shows each item: its repeats, or 0 for those of a folder with a share; and these.

    A share is rounded to whole samples, at least one. Where all folders have a share, an epoch has as many
    samples as there are items with their repeats.

    Args:
        pictures: The picture of each item.
    """
    shares: dict[Path, float] = {}
    members: dict[Path, list[int]] = {}
    repeats = [picture.repeats for picture in pictures]
    everything = sum(repeats)
    for index, picture in enumerate(pictures):
        if picture.source is not None and picture.source.share is not None:
            shares[picture.source.dir] = picture.source.share
            members.setdefault(picture.source.dir, []).extend([index] * picture.repeats)
            repeats[index] = 0
    whole, rest = sum(repeats), math.fsum(shares.values())
    # With the others held out for validation, shares are relative to each other.
    epoch = whole / (1 - rest) if whole else everything / (rest or 1)
    return repeats, [
        Pool(tuple(members[place]), max(1, round(share * epoch)), str(number))
        for number, (place, share) in enumerate(shares.items())
    ]


def epoch_length(pictures: Sequence[Picture]) -> int:
    """Samples of an epoch that shows these pictures as `amounts` has it."""
    repeats, pools = amounts(pictures)
    return sum(repeats) + sum(pool.samples for pool in pools)


def samples_by_folder(pictures: Sequence[Picture], main: Path) -> dict[Path, int]:
    """How many samples of an epoch each folder has.

    Args:
        pictures: The picture of each item.
        main: The folder of those that have no source.
    """
    repeats, pools = amounts(pictures)
    samples: dict[Path, int] = {}
    for index, number in [*enumerate(repeats), *((pool.items[0], pool.samples) for pool in pools)]:
        place = source.dir if (source := pictures[index].source) else main
        samples[place] = samples.get(place, 0) + number
    return samples


def share_note(pictures: Sequence[Picture], main: Path) -> list[str]:
    """A line about `samples_by_folder`, if there are several folders."""
    samples = samples_by_folder(pictures, main)
    total = sum(samples.values())
    parts = [f"{number} of {place} ({number / total:.0%})" for place, number in samples.items()]
    return [f"an epoch has {count(total, 'sample')}: {listing(parts, 20)}"] if len(parts) > 1 else []
