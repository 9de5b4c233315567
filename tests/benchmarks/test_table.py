"""Tables of figures, read back as a Markdown reader would."""

from __future__ import annotations

from benchmarks.measure import Summary
from benchmarks.table import compared, markdown


def cells(table: str) -> list[list[str]]:
    """The rows of a table, without the rule below its header."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


def test_a_table_is_aligned_and_reads_back() -> None:
    table = markdown(["", "s/step"], [["one", "1.5"], ["number two", "10.25"]])
    assert cells(table) == [["", "s/step"], ["one", "1.5"], ["number two", "10.25"]]
    first, rule, *others = table.splitlines()
    assert {len(line) for line in (first, rule, *others)} == {len(first)}
    # The first column is words, the others are numbers, to the right.
    assert [cell.strip().endswith(":") for cell in rule.strip("|").split("|")] == [False, True]


def test_a_bar_in_a_name_does_not_end_its_cell() -> None:
    assert markdown(["a|b"], [["c"]]).splitlines()[0] == r"| a\|b |"


def test_ratios_are_to_the_first_program() -> None:
    ours = Summary(step=2.0, low=1.9, high=2.2, first=20.0, memory=5.0)
    other = Summary(step=3.0, low=2.9, high=3.1, first=10.0, memory=7.5)
    header, *rows = cells(compared({"ours": ours, "other": other}))
    assert header == ["", "s/step", "lowest–highest", "ratio", "peak GiB", "ratio", "first step, s", "ratio"]
    assert rows == [
        ["ours", "2.000", "1.900–2.200", "1.00", "5.00", "1.00", "20.00", "1.00"],
        ["other", "3.000", "2.900–3.100", "1.50", "7.50", "1.50", "10.00", "0.50"],
    ]


def test_gpu_memory_is_a_column_where_it_was_used() -> None:
    ours, other = Summary(step=1.0, gpu=4.0), Summary(step=1.0, gpu=6.0)
    header, *rows = cells(compared({"ours": ours, "other": other}))
    assert header[-2:] == ["peak GiB, GPU", "ratio"]
    assert [row[-2:] for row in rows] == [["4.00", "1.00"], ["6.00", "1.50"]]


def test_what_failed_has_a_row_without_figures_and_a_reason() -> None:
    told = compared({"ours": Summary(step=1.0, low=1, high=1), "other": Summary(failure="it has no python")})
    assert cells(told)[2] == ["other", *["–"] * 7]
    assert "- other was not measured: it has no python" in told


def test_a_machine_that_was_not_quiet_is_told() -> None:
    told = compared({"ours": Summary(step=1.0, elsewhere=0.01), "other": Summary(step=1.0, elsewhere=1.26)})
    assert "- other: the machine was not quiet; others kept 1.3 cores busy." in told
    assert "ours: the machine" not in told
