"""The numbers that a run logged, as curves over its steps. Nothing here imports torch."""

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


def smoothed(points: Sequence[Point]) -> list[Point]:
    """An exponential moving average, divided by the sum of its weights so that it does not start at zero.

    Value i is Σ_j 0.9^(i-j) v_j / Σ_j 0.9^(i-j) over j ≤ i.

    Args:
        points: A curve.
    """
    result: list[Point] = []
    total = weight = 0.0
    for step, value in points:
        total, weight = _KEPT * total + value, _KEPT * weight + 1
        result.append((step, total / weight))
    return result
