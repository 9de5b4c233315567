"""Curves of a run as they are drawn, and what else their numbers tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from finetune.training.curves import Point


def thinned(points: Sequence[Point], most: int = 600) -> list[Point]:
    """At most about `most` points that look the same: the lowest and highest of each stretch of a curve."""
    if len(points) <= most:
        return list(points)
    length = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), length):
        part = points[start : start + length]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return [points[0], *(p for p in kept if p not in (points[0], points[-1])), points[-1]]


def seconds(images_per_second: Sequence[Point], rows: int) -> float:
    """About how long the steps of a run took, from the rates it logged.

    Args:
        images_per_second: The logged rates.
        rows: Pictures a step.
    """
    spent, before = 0.0, 0.0
    for step, rate in images_per_second:
        if rate > 0 and step > before:
            spent += (step - before) * rows / rate
            before = step
    return spent
