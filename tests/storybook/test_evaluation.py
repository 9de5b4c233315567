"""Spearman's rank correlation, as its textbook formula has it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from storybook.evaluation import conditions, ranks, spearman


def test_without_ties_it_is_the_formula_of_squared_differences_of_ranks() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.permutation(30).astype(float), rng.normal(size=30)
    differences = ranks(one) - ranks(other)
    count = len(one)
    formula = 1 - 6 * float((differences**2).sum()) / (count * (count**2 - 1))
    assert spearman(list(one), list(other)) == pytest.approx(formula)
    assert spearman(list(one), list(np.exp(one))) == pytest.approx(1)
    assert spearman(list(one), list(-one)) == pytest.approx(-1)


def test_equal_values_share_their_rank() -> None:
    assert ranks([5, 1, 5, 9]).tolist() == [1.5, 0, 1.5, 3]
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_missing_checkpoints_are_left_out(tmp_path: Path) -> None:
    for step in (100, 200):
        (tmp_path / "checkpoints" / f"step-{step:06}").mkdir(parents=True)
    found = [(place.name, weight) for place, weight in conditions([tmp_path])]
    assert found[:2] == [("step-000100", 1.0), ("step-000200", 1.0)]
    assert {name for name, _ in found[2:]} == {"step-000200"}
