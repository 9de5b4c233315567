"""Training gives the losses that it gave before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.battery.cases import CASES, Case
from tests.battery.golden import FILE, losses
from tests.tiny import Family

GOLDEN: dict[str, list[float]] = json.loads(FILE.read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_first_losses_are_as_before(
    case: Case, family: Family, tiny_folder: Path, pictures: Path, here: Path
) -> None:
    found = losses(case, tiny_folder, pictures, here / "run")
    assert found == pytest.approx(GOLDEN[f"{case.name} {family}"], rel=1e-3)


def test_nothing_golden_is_left_over() -> None:
    assert {key.split()[0] for key in GOLDEN} == {case.name for case in CASES}
