"""Smoothed curves of what a run logged. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence

KEPT = 0.9
"""What is left of a value's weight one logged line later."""


def smoothed(values: Sequence[float], kept: float = KEPT) -> list[float]:
    """An exponential moving average, divided by the sum of its weights so that it does not start at zero.

    Value i is Σ_j kept^(i-j) v_j / Σ_j kept^(i-j) over j ≤ i.

    Args:
        values: In the order of the steps.
        kept: What is left of a value's weight one later, in [0, 1).
    """
    result: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = kept * total + value, kept * weight + 1
        result.append(total / weight)
    return result
