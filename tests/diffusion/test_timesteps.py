"""Which timesteps are drawn, against the distributions' closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.diffusion.random import uniform
from finetune.diffusion.timesteps import draw_timesteps, warp

MANY = range(4000)


def test_the_default_is_what_it_always_was() -> None:
    before = (uniform(9, MANY, "timestep") * 1000).to(torch.int64)
    assert torch.equal(draw_timesteps(9, MANY, 1000), before)


@pytest.mark.parametrize("logit_normal", [None, (0.0, 1.0), (-1.0, 0.5)])
def test_a_timestep_does_not_depend_on_the_batch(logit_normal: tuple[float, float] | None) -> None:
    together = draw_timesteps(1, (5, 2, 9), 1000, (0.2, 0.9), logit_normal)
    apart = [draw_timesteps(1, [n], 1000, (0.2, 0.9), logit_normal) for n in (5, 2, 9)]
    assert torch.equal(together, torch.cat(apart))


def test_a_part_of_the_schedule_is_covered_evenly_and_nothing_else() -> None:
    drawn = draw_timesteps(0, MANY, 1000, (0.57, 0.6))
    assert drawn.unique().tolist() == list(range(570, 600))
    assert int(torch.bincount(drawn - 570).max()) < 200


@pytest.mark.parametrize(
    ("part", "expected"), [((0.9999, 1.0), {999}), ((0.5, 0.50001), {500}), ((0.0, 0.001), {0})]
)
def test_a_part_holds_at_least_one_timestep(part: tuple[float, float], expected: set[int]) -> None:
    assert set(draw_timesteps(0, range(50), 1000, part).tolist()) == expected


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.0, 0.5), (1.2, 2.0)])
def test_logit_normal_has_its_distribution(mean: float, std: float) -> None:
    # P(t < x) = Φ((logit x − mean) / std); a sample of 4000 strays from it by 0.03 once in 10^3 times.
    drawn = draw_timesteps(3, MANY, 1000, logit_normal=(mean, std))
    for x in (0.1, 0.25, 0.5, 0.75, 0.9):
        normal = (math.log(x / (1 - x)) - mean) / std
        expected = 0.5 * (1 + math.erf(normal / math.sqrt(2)))
        assert float((drawn < 1000 * x).float().mean()) == pytest.approx(expected, abs=0.03)


def test_logit_normal_lies_within_its_part() -> None:
    drawn = draw_timesteps(3, MANY, 1000, (0.2, 0.4), (0.0, 30.0))
    assert (int(drawn.min()), int(drawn.max())) == (200, 399)
    ends = warp(torch.tensor([0.0, 0.5], dtype=torch.float64), 0.0, 1.0)
    assert ends.tolist() == [0.0, 0.5]
