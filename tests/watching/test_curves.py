"""Curves from metrics, and their charts, against formulas."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.training.curves import read_curves, smoothed
from finetune.watching.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    chart,
    curve_charts,
    number,
    ticks,
)
from finetune.watching.curves import seconds, thinned


def test_damaged_lines_and_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1, "loss": 0.5}',
        '{"step": 2, "loss": null, "lr": 1}',
        "[]",
        "7",
        '{"loss": 3}',
        '{"step": 3, "lo',
    ]
    file.write_text("\n".join(lines))
    assert read_curves(file) == {"loss": [(1, 0.5)], "lr": [(2, 1)]}
    assert read_curves(tmp_path / "none") == {}


def test_a_smoothed_curve_is_the_weighted_mean_of_what_came_before() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = [value for _, value in smoothed(list(enumerate(values)))]
    for last in range(50):
        weights = 0.9 ** np.arange(last, -1, -1)
        assert found[last] == pytest.approx(np.average(values[: last + 1], weights=weights))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(4, 50))
def test_a_thinned_curve_keeps_its_ends_and_extremes(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    kept = thinned(points, most)
    assert set(kept) <= set(points) and kept == sorted(kept)
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert len(kept) <= most + 3
    for end in (min, max):
        assert end(v for _, v in kept) == end(values)


def test_the_time_of_a_run_is_that_of_its_steps() -> None:
    # 10 steps of 4 pictures at 2 a second, then 10 at 8 a second
    assert seconds([(10, 2.0), (20, 8.0)], 4) == pytest.approx(10 * 4 / 2 + 10 * 4 / 8)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_enclose_what_is_shown_by_round_numbers(low: float, room: float, about: int) -> None:
    high = low + room
    found = ticks(low, high, about)
    assert found[0] <= low + 1e-6 * room and found[-1] >= high - 1e-6 * room
    assert 2 <= len(found) <= about + 3
    step = found[1] - found[0]
    assert np.allclose(np.diff(found), step, rtol=1e-3)
    size = step / 10 ** math.floor(math.log10(step * 1.0000001))
    assert min(abs(size - round_one) for round_one in (1, 2, 2.5, 5, 10)) < 1e-2


def test_a_line_is_where_its_values_are() -> None:
    values = [0.31, 0.12, 0.55, 0.2]
    made = chart("Loss", "", [Line("", list(enumerate(values, start=1)))])
    places = [tuple(map(float, pair.split())) for pair in re.split("[ML]", made.lines[0].path)[1:]]
    ends = [float(label) for _, label in made.y_ticks]
    for (across, down), step, value in zip(places, range(1, 5), values, strict=True):
        assert across == pytest.approx(LEFT + step / 4 * (WIDTH - LEFT - RIGHT), abs=0.01)
        share = (value - ends[0]) / (ends[-1] - ends[0])
        assert down == pytest.approx(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), abs=0.01)
    for place, label in made.y_ticks:  # the ticks are on the same scale
        share = (float(label) - ends[0]) / (ends[-1] - ends[0])
        assert place == pytest.approx(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), abs=0.01)


def test_values_of_many_sizes_have_a_logarithmic_axis() -> None:
    made = chart("Gradient norm", "", [Line("", [(1, 0.01), (2, 1.0), (3, 100.0)])])
    assert made.note == "logarithmic"
    assert [label for _, label in made.y_ticks] == ["0.01", "0.1", "1", "10", "100"]
    first, second, third = (float(pair.split()[1]) for pair in re.split("[ML]", made.lines[0].path)[1:])
    assert first - second == pytest.approx(second - third)


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0, 0.25, 1500, 2e-5, 1.2e7, -3)] == [
        "0",
        "0.25",
        "1,500",
        "2e-5",
        "1.2e7",
        "-3",
    ]


def test_a_run_has_a_chart_for_what_it_logged_and_several_share_them() -> None:
    one = {"loss": [(1.0, 0.5), (2.0, 0.4)], "lr": [(1.0, 1e-3)], "lr_text_encoder": [(1.0, 1e-4)]}
    loss, rate = curve_charts([("", {**one, "validation_loss": [(2.0, 0.6)]})])
    assert [line.label for line in loss.lines] == ["each logged step", "smoothed", "held-out pictures"]
    assert [line.label for line in rate.legend] == ["main", "text encoder"]
    loss, rate = curve_charts([("a", one), ("b", one)])
    assert [(line.label, line.color) for line in loss.legend] == [("a", 0), ("b", 1)]
    assert curve_charts([("", {})]) == []


def test_evaluations_are_the_curve_of_subject_and_prompt() -> None:
    names = ("details", "prompt_scene", "class_changed", "copies", "score")
    one = {"loss": [(1.0, 0.5)], **{name: [(1.0, 0.1), (2.0, 0.9)] for name in names}}
    _, made = curve_charts([("", one)])
    assert made.title == "Subject and prompt"
    shown = [line.label for line in made.legend]
    assert shown == ["subject", "words of the scene", "change of the class", "copies", "score"]
    _, both = curve_charts([("a", one), ("b", one), ("c", {})])
    assert (both.title, [line.label for line in both.legend]) == ("Score of evaluations", ["a", "b"])
