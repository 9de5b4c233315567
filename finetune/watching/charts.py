"""Line charts for a page: from curves to the geometry that the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune.training.curves import Point, smoothed
from finetune.watching.curves import thinned

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
"""The chart, and the margins around what is drawn, in units of the SVG."""

FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP,
         "bottom": HEIGHT - BOTTOM}  # fmt: skip
"""The same for the template: the size, and the sides of what is drawn."""

_PLAIN = (("Gradient norm", "grad_norm", ""), ("Speed", "images_per_second", "pictures/s"))
_LOG = 50  # a chart whose values differ by more than this factor has a logarithmic axis
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """A curve to draw.

    Attributes:
        label: In the legend; empty for a line that needs none.
        points: At least one.
        color: Number of the line's color, from 0.
        faint: Whether it is drawn thin and pale, behind the others.
    """

    label: str
    points: Sequence[Point]
    color: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Drawn:
    """A line as SVG draws it.

    Attributes:
        label: In the legend.
        path: The `d` of a path.
        color: Number of its color.
        faint: As of `Line`.
        dot: Where its only point is, if it has one.
    """

    label: str
    path: str
    color: int
    faint: bool
    dot: tuple[float, float] | None


@dataclass(frozen=True)
class Chart:
    """A chart as SVG draws it.

    Attributes:
        title: What is shown.
        unit: Of the values, for the axis.
        lines: Back to front.
        x_ticks: Place and label.
        y_ticks: Place and label.
        note: What else should be known, such as a logarithmic axis.
    """

    title: str
    unit: str
    lines: tuple[Drawn, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    note: str

    @property
    def legend(self) -> list[Drawn]:
        """The lines that have a label, if there is more than one to tell apart."""
        named = [line for line in self.lines if line.label]
        return named if len(named) > 1 else []


def curve_charts(runs: Sequence[tuple[str, Mapping[str, Sequence[Point]]]]) -> list[Chart]:
    """The charts of a run, or of several together: loss, rate, evaluations, gradient norm, speed.

    Args:
        runs: Label and curves of each, as `read_curves` gives them; a single one needs no label.
    """
    alone = len(runs) == 1
    several = [
        Line(label, curves["lr"], color) for color, (label, curves) in enumerate(runs) if "lr" in curves
    ]
    charts = [
        ("Loss" if alone else "Loss, smoothed", "", list(_losses(runs))),
        ("Learning rate", "", _rates(runs[0][1]) if alone else several),
    ]
    for title, found in _evaluations(runs):
        charts.append((title, "", found))
    for title, name, unit in _PLAIN:
        lines = [Line(label, curves[name], n) for n, (label, curves) in enumerate(runs) if name in curves]
        charts.append((title, unit, lines))
    return [chart(title, unit, lines) for title, unit, lines in charts if lines]


def _losses(runs: Sequence[tuple[str, Mapping[str, Sequence[Point]]]]) -> Iterator[Line]:
    alone = len(runs) == 1
    for color, (label, curves) in enumerate(runs):
        if alone and "loss" in curves:
            yield Line("each logged step", curves["loss"], color, faint=True)
        if "loss" in curves:
            yield Line(label or "smoothed", smoothed(curves["loss"]), color)
        if alone and "validation_loss" in curves:
            yield Line("held-out pictures", curves["validation_loss"], color + 1)


def _evaluations(
    runs: Sequence[tuple[str, Mapping[str, Sequence[Point]]]],
) -> Iterator[tuple[str, list[Line]]]:
    """What evaluations found: of one run, subject and prompt together; of several, their scores."""
    if len(runs) > 1:
        lines = [
            Line(label, curves["score"], n) for n, (label, curves) in enumerate(runs) if "score" in curves
        ]
        yield "Score of evaluations", lines
        return
    curves = runs[0][1]
    words = [name for name in curves if name.startswith("prompt_")]
    shown = [
        ("details", "subject"),
        *((name, f"words of the {name.removeprefix('prompt_')}") for name in words),
    ]
    shown += [("class_changed", "change of the class"), ("copies", "copies"), ("score", "score")]
    known = [(name, label) for name, label in shown if name in curves]
    yield "Subject and prompt", [Line(label, curves[name], n) for n, (name, label) in enumerate(known)]


def _rates(curves: Mapping[str, Sequence[Point]]) -> list[Line]:
    """Those of one run; rates that are the same all along are one line."""
    found: dict[tuple[Point, ...], list[str]] = {}
    for name, points in curves.items():
        if name == "lr" or name.startswith("lr_"):
            part = name.removeprefix("lr_").replace("_", " ") if name != "lr" else "main"
            found.setdefault(tuple(points), []).append(part)
    return [Line(", ".join(names), points, color) for color, (points, names) in enumerate(found.items())]


def chart(title: str, unit: str, lines: Sequence[Line]) -> Chart:
    """Lays out a chart.

    Args:
        title: What is shown.
        unit: Of the values; empty if they have none.
        lines: At least one.
    """
    shown = [(line, thinned(line.points)) for line in lines]
    steps = [step for _, points in shown for step, _ in points]
    values = [value for _, points in shown for _, value in points]
    log = min(values) > 0 and max(values) / min(values) > _LOG
    x_low, x_high = 0.0, max(max(steps), 1.0)
    x_ticks = ticks(x_low, x_high, 5)
    if log:
        low, high = math.log10(min(values)), math.log10(max(values))
        y_ticks = [float(n) for n in range(math.floor(low), math.ceil(high) + 1)]
        low, high = y_ticks[0], y_ticks[-1]
    else:
        y_ticks = ticks(min(values), max(values), 4)
        low, high = min(y_ticks[0], min(values)), max(y_ticks[-1], max(values))

    def x(step: float) -> float:
        return round(LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 2)

    def y(value: float) -> float:
        share = (value - low) / ((high - low) or 1)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 2)

    def drawn(line: Line, points: Sequence[Point]) -> Drawn:
        places = [(x(step), y(math.log10(value) if log else value)) for step, value in points]
        path = "M" + "L".join(f"{across:g} {down:g}" for across, down in places)
        return Drawn(line.label, path, line.color, line.faint, places[0] if len(places) == 1 else None)

    return Chart(
        title,
        unit,
        tuple(drawn(line, points) for line, points in shown),
        tuple((x(tick), number(tick)) for tick in x_ticks if tick <= x_high),
        tuple((y(tick), number(10**tick if log else tick)) for tick in y_ticks),
        "logarithmic" if log else "",
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`, `about` as many."""
    if high <= low:
        low, high = min(low * 1.25, 0.0), max(high * 1.25, 0.0 if low else 1.0)
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in _STEPS if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def number(value: float) -> str:
    """A number as an axis shows it: 0.25, 1,500, 2e-5."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6f}".rstrip("0").rstrip(".")
