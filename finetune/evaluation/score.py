"""One number for each evaluation of a run, which step was the best, and since when it has overfit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import harmonic_mean, median

IN_A_ROW = 3
"""Evaluations that must be worse than the best before a run is said to have overfit."""

LEAST_NOISE = 0.02
"""A smaller difference of scores says nothing: fewer pictures than one in a few dozen differ."""


def score(figures: Mapping[str, float], base: Mapping[str, float]) -> float:
    """How good a result is, from 0 to 1: the harmonic mean of what was learned, followed and kept.

    - learned: the share of the subject's details that its pictures have, at most 1, as training pictures;
    - followed: over the groups of words, the mean share of pictures that show theirs, compared with the base
      model's share and at most 1;
    - kept: what is left of the class, (1 - change of its predictions), and is no copy, (1 - share of copies).

    The harmonic mean is low if any of them is: none makes up for another.

    Args:
        figures: What was measured, by the names in `evaluation.jsonl`.
        base: For each group of words, the share of the base model's pictures that show theirs.
    """
    learned = min(max(figures["details"], 0.0), 1.0)
    shares = [min(figures[f"prompt_{group}"] / share, 1.0) for group, share in base.items() if share > 0]
    followed = sum(shares) / len(shares) if shares else 1.0
    kept = max(1 - figures["class_changed"], 0.0) * (1 - figures["copies"])
    return harmonic_mean([learned, followed, kept])


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        step: When.
        score: How good it was.
        held_out: Loss on held-out pictures, if there are any.
    """

    step: int
    score: float
    held_out: float | None = None


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The best; of equals the earliest.

    Args:
        evaluations: In order, at least one.
    """
    return max(evaluations, key=lambda one: one.score)


def overfit_since(evaluations: Sequence[Evaluation]) -> int | None:
    """The step from which on a run has overfit, which is that of its best evaluation; None if it has not.

    It has if the last three evaluations are all worse than the best before them, by more than the noise:
    the median change of the score from one evaluation to the next, at least `LEAST_NOISE`. If there
    are held-out pictures, their loss must also be higher at all three than it was at its lowest before. Alone
    it says nothing: it rises long before pictures show harm.

    Args:
        evaluations: In order of their steps.
    """
    before, last = evaluations[:-IN_A_ROW], evaluations[-IN_A_ROW:]
    if not before:
        return None
    best = best_of(before)
    noise = max(median(abs(two.score - one.score) for one, two in pairwise(evaluations)), LEAST_NOISE)
    if any(one.score >= best.score - noise for one in last):
        return None
    losses = [one.held_out for one in before if one.held_out is not None]
    if losses and any(one.held_out is not None and one.held_out <= min(losses) for one in last):
        return None
    return best.step
