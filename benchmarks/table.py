"""Figures as tables in Markdown, which a terminal shows as well as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.machine import QUIET
from benchmarks.measure import Summary

NOT_MEASURED = "–"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are aligned also as text; numbers (all but the first column) to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    first, *others = (
        " | ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    )
    rule = " | ".join("-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in (first, rule, *others))


def compared(programs: Mapping[str, Summary]) -> str:
    """Programs beside the first of them: seconds a step, peak memory, time to the first step, and ratios.

    A ratio is that of the row's figure to the first row's: 2.00 is twice as slow, or twice as much memory.
    What failed, and what was not measured on a quiet machine, is told below the table.
    """
    base = next(iter(programs.values()))
    on_gpu = any(one.gpu for one in programs.values())
    header = ["", "s/step", "lowest–highest", "ratio", "peak GiB", "ratio", "first step, s", "ratio"]
    rows = [
        [name, *_cells(one, base), *([_figure(one.gpu), _ratio(one.gpu, base.gpu)] if on_gpu else [])]
        for name, one in programs.items()
    ]
    told = [f"{name} was not measured: {one.failure}" for name, one in programs.items() if one.failure]
    told += [
        f"{name}: the machine was not quiet; others kept {one.elsewhere:.1f} cores busy."
        for name, one in programs.items()
        if one.elsewhere > QUIET
    ]
    return "\n".join(
        [
            markdown([*header, *(["peak GiB, GPU", "ratio"] if on_gpu else [])], rows),
            "",
            *(f"- {line}" for line in told),
        ]
    )


def _cells(one: Summary, base: Summary) -> list[str]:
    spread = NOT_MEASURED if one.failure else f"{one.low:.3f}–{one.high:.3f}"
    return [
        *(_figure(one.step, 3), spread, _ratio(one.step, base.step)),
        *(_figure(one.memory), _ratio(one.memory, base.memory)),
        *(_figure(one.first), _ratio(one.first, base.first)),
    ]


def _figure(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if value else NOT_MEASURED


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if value and base else NOT_MEASURED
