"""The score of a step, which one is the best, and the rule of the alarm on made-up series."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finetune.evaluation.score import LEAST_NOISE, Evaluation, best_of, overfit_since, score

GOOD = {"details": 1.0, "prompt_hat": 1.0, "prompt_scene": 1.0, "class_changed": 0.0, "copies": 0.0}
BASE = {"hat": 1.0, "scene": 0.8}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1.0),
        ({"details": 1.4, "prompt_hat": 2.0}, 1.0),  # more than the training pictures have is no better
        ({"details": 0.5}, 3 / (2 + 1 + 1)),
        ({"details": -0.2}, 0.0),
        ({"prompt_hat": 0.5}, 3 / (1 + 1 / 0.75 + 1)),  # the scene makes up for half of it
        ({"prompt_scene": 0.4}, 3 / (1 + 1 / 0.75 + 1)),  # half of what the base model shows
        ({"class_changed": 0.5, "copies": 0.5}, 3 / (1 + 1 + 4)),
        ({"class_changed": 1.7}, 0.0),
    ],
)
def test_the_score_is_the_harmonic_mean_of_its_parts(changes: dict[str, float], expected: float) -> None:
    assert score(GOOD | changes, BASE) == pytest.approx(expected)


def test_what_the_base_model_does_not_show_does_not_count() -> None:
    assert score(GOOD | {"prompt_hat": 0.0}, {"hat": 0.0, "scene": 1.0}) == 1
    assert score(GOOD, {}) == 1


def series(scores: Sequence[float], held: Sequence[float] | None = None) -> list[Evaluation]:
    losses = held or [None] * len(scores)
    pairs = zip(scores, losses, strict=True)
    return [Evaluation(50 * (n + 1), value, loss) for n, (value, loss) in enumerate(pairs)]


RISING = (0.3, 0.7, 0.9)


@pytest.mark.parametrize(
    ("scores", "since"),
    [
        ((), None),
        (RISING, None),
        ((*RISING, 0.6, 0.5), None),  # only two are worse
        ((*RISING, 0.6, 0.5, 0.4), 150),
        ((*RISING, 0.6, 0.92, 0.4), None),
        ((*RISING, 0.6, 0.92, 0.4, 0.5, 0.3), 250),
        ((0.9, *[0.9 - LEAST_NOISE / 2] * 5), None),  # as good as the best
        ((0.9, *[0.9 - LEAST_NOISE * 2] * 3), 50),
        ((0.9, 0.7, 0.9, 0.7, 0.9, 0.75, 0.75, 0.75), None),  # no worse than it swings anyway
        ((0.9, 0.8, 0.7, 0.6), None),  # the first is not further away than one is from the next
        ((0.9, 0.8, 0.7, 0.6, 0.5), 50),
    ],
)
def test_the_alarm_comes_when_three_in_a_row_are_worse_by_more_than_noise(
    scores: tuple[float, ...], since: int | None
) -> None:
    assert overfit_since(series(scores)) == since


def test_held_out_pictures_must_agree() -> None:
    scores = (*RISING, 0.6, 0.5, 0.4)
    assert overfit_since(series(scores, (0.5, 0.4, 0.3, 0.35, 0.4, 0.5))) == 150
    assert overfit_since(series(scores, (0.5, 0.4, 0.3, 0.35, 0.29, 0.5))) is None


def test_of_equals_the_earliest_is_the_best() -> None:
    assert best_of(series((0.5, 0.9, 0.9, 0.1))).step == 100
