"""The numbers that a run logged, as curves over its steps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

Point = tuple[float, float]
"""A step and a value."""

_KEPT = 0.9  # of a smoothed curve's last value, from one logged line to the next


def read_curves(path: Path) -> dict[str, list[Point]]:
    """The curves in a file of metrics, by name.

    Args:
        path: `metrics.jsonl` or `validation.jsonl`; need not exist. Lines that are not whole, as a kill or a
            running writer leaves them, and values that are not finite are left out.

    Returns:
        Points in the order of the file; no curve is empty.
    """
    curves: dict[str, list[Point]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
            step = float(values.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, []).append((step, float(value)))
    return curves


def smoothed(points: Sequence[Point], kept: float = _KEPT) -> list[Point]:
    """An exponential moving average, divided by the sum of its weights so that it does not start at zero.

    Value i is Σ_j kept^(i-j) v_j / Σ_j kept^(i-j) over j ≤ i.

    Args:
        points: A curve.
        kept: What is left of a value's weight one point later, in [0, 1).
    """
    result: list[Point] = []
    total = weight = 0.0
    for step, value in points:
        total, weight = kept * total + value, kept * weight + 1
        result.append((step, total / weight))
    return result


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
