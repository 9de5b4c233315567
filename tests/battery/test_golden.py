"""Training gives the losses that it gave before."""

from __future__ import annotations

import json

import pytest

from tests.battery.cases import CASES, Case, Trained
from tests.battery.golden import FILE, losses
from tests.tiny import Family

GOLDEN: dict[str, list[float]] = json.loads(FILE.read_text())


def test_the_first_losses_are_as_before(case: Case, family: Family, trained: Trained) -> None:
    assert losses(trained.run) == pytest.approx(GOLDEN[f"{case.name} {family}"], rel=1e-3)


def test_nothing_golden_is_left_over() -> None:
    assert {key.split()[0] for key in GOLDEN} == {case.name for case in CASES}
