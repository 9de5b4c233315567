"""How far a class has moved."""

from __future__ import annotations

import pytest

from storybook.drift import spread, total_variation
from storybook.oracle import Reading


def test_total_variation_is_half_the_sum_of_differences() -> None:
    even = {"red": 0.5, "blue": 0.5}
    assert total_variation(even, even) == 0
    assert total_variation(even, {"green": 1.0}) == 1
    assert total_variation(even, {"red": 0.8, "blue": 0.1, "pink": 0.1}) == pytest.approx(0.4)


def test_a_spread_counts_what_was_read() -> None:
    def reading(colour: str, animal: str = "cat", subject: float = 0.0) -> Reading:
        return Reading(animal, colour, None, "snow", subject, None, None, 0.0, {})

    found = spread([reading("red"), reading("red", "dog"), reading("pink", subject=0.9), reading("grey")])
    assert (found.colours["red"], found.colours["pink"], found.colours["blue"]) == (0.5, 0.25, 0)
    assert (found.animal, found.subject) == (0.75, 0.25)
    assert sum(found.colours.values()) == 1
