"""How the samples of one picture differ: mirrored, cropped elsewhere, in other colors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.config import DataSection
from finetune.data.colors import Colors
from finetune.data.folder import Picture
from finetune.data.latents import View
from finetune.data.preprocess import Size
from finetune.diffusion.random import uniform

_DRAWN = ("crop top", "crop left", "brightness", "contrast", "saturation", "hue")
_UNMIRRORED = 1.0

Points = NDArray[np.float64]
"""Rows of uniform values in [0, 1), one for each of `_DRAWN`."""


class Augmentation:
    """Draws the views that samples show, each a pure function of (seed, sample number) (P1).

    With a cache a sample draws one of a picture's variants, so that each can be encoded beforehand. Which
    these are depends on the picture's bytes alone: they are cached for every seed. They spread over places
    and colors as a Sobol sequence does (Sobol 1967), moved by the picture's digest and around the edges
    (Cranley & Patterson 1976), so that few are enough and no two pictures have the same.

    Without a cache every sample draws a place and colors of its own.

    Args:
        pictures: The pictures.
        data: The recipe's settings.
        seed: Seed of every draw.
    """

    def __init__(self, pictures: Sequence[Picture], data: DataSection, seed: int) -> None:
        self._pictures, self._seed, self._live = pictures, seed, not data.cache
        self._flip, self._random_crop, self._jitter = data.flip, data.crop == "random", data.color_jitter
        self._spread: Points | None = None
        if data.varied:
            sobol = torch.quasirandom.SobolEngine(len(_DRAWN))
            self._spread = sobol.draw(data.variants, dtype=torch.float64).numpy()

    def views(self, numbers: Sequence[int], pictures: Sequence[int], size: Size) -> list[View]:
        """What these samples show.

        Args:
            numbers: Global sample numbers.
            pictures: The index of each one's picture.
            size: Height and width that all are trained at.
        """
        flips = self._draw(numbers, "flip") if self._flip else [_UNMIRRORED] * len(numbers)
        points = self._points(numbers, pictures)
        rows = zip(pictures, flips, points, strict=True)
        return [self._view(View(picture, size, flip < 0.5), point) for picture, flip, point in rows]

    def every(self, items: Sequence[tuple[int, Size]]) -> list[View]:
        """Every view that a sample may show, once: of each picture, as it is and then mirrored.

        If places or colors are drawn without a cache there is no end of them, and these are examples.

        Args:
            items: Indices of pictures, with the size that each is trained at.
        """
        sides = (False, True) if self._flip else (False,)
        plain = [View(picture, size, mirrored) for picture, size in items for mirrored in sides]
        if self._spread is None:
            return plain
        return self._distinct(
            self._view(one, point) for one in plain for point in self._variants(one.picture)
        )

    def places(self, items: Sequence[tuple[int, Size]]) -> list[View]:
        """As `every`, but for colors, which nothing beside a picture has; none if there is no end of them."""
        if self._live and self._random_crop:
            return []
        return self._distinct(replace(view, colors=None) for view in self.every(items))

    def examples(self, picture: int, size: Size, most: int) -> list[View]:
        """At most so many of the views of a picture at a size, as different as they are."""
        views = self.every([(picture, size)])
        if len(views) <= most:
            return views
        return [views[index * (len(views) - 1) // (most - 1)] for index in range(most)]

    def notes(self, items: Sequence[tuple[int, Size]]) -> list[str]:
        """Lines for the user: how places and colors vary, if they do."""
        if self._spread is None:
            return []
        changes = ["cropped at random"] if self._random_crop else []
        changes += [f"colors jittered by {self._jitter:g}"] if self._jitter else []
        views = f"{len(self.every(items))} views are encoded (data.variants={len(self._spread)})"
        lines = [f"{', '.join(changes)}; {'each sample is encoded anew' if self._live else views}"]
        if self._random_crop and not any(self._has_room(View(*item)) for item in items):
            lines.append(
                "data.crop=random changes nothing: no picture is larger than the shape it is trained in"
            )
        return lines

    def _points(self, numbers: Sequence[int], pictures: Sequence[int]) -> Sequence[Points | None]:
        if self._spread is None:
            return [None] * len(numbers)
        if self._live:
            return list(np.array([self._draw(numbers, purpose) for purpose in _DRAWN]).T)
        chosen = [int(draw * len(self._spread)) for draw in self._draw(numbers, "variant")]
        return [self._variants(p)[index] for p, index in zip(pictures, chosen, strict=True)]

    def _variants(self, picture: int) -> Points:
        assert self._spread is not None
        bits = np.frombuffer(bytes.fromhex(self._pictures[picture].digest), dtype=">u4", count=len(_DRAWN))
        moved: Points = (self._spread + bits / 2**32) % 1
        return moved

    def _view(self, plain: View, point: Points | None) -> View:
        if point is None:
            return plain
        top, left, *colors = point.tolist()
        return replace(
            plain,
            at=(top, left) if self._random_crop and self._has_room(plain) else None,
            colors=Colors.drawn(self._jitter, colors) if self._jitter else None,
        )

    def _distinct(self, views: Iterable[View]) -> list[View]:
        """One of those of the same pixels: where little is cropped away, several variants are."""
        found = {(view.picture, view.of(self._pictures), view.colors): view for view in views}
        return list(found.values())

    def _has_room(self, view: View) -> bool:
        return view.of(self._pictures).lost > 0

    def _draw(self, numbers: Sequence[int], purpose: str) -> list[float]:
        return [float(draw) for draw in uniform(self._seed, numbers, purpose).tolist()]
