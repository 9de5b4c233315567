"""What the command line writes while work is going on."""

from __future__ import annotations

import time

import pytest

from finetune.cli.terminal import Pace, progress

Output = pytest.CaptureFixture[str]


def test_the_pace_is_that_of_what_was_done_since_the_first_call() -> None:
    pace = Pace()
    assert pace(60, 100, 5.0) == ""  # found in a cache, not done
    assert pace(60, 100, 6.0) == ""
    assert pace(70, 100, 10.0) == "2.0/s, 0:00:15 left"  # 10 in 5 s, 30 to go
    assert pace(80, 100, 105.0) == "5.0 s each, 0:01:40 left"  # 20 in 100 s, 20 to go
    assert pace(100, 100, 205.0) == "5.0 s each, 0:00:00 left"


def test_plain_lines_have_the_pace(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 11.0, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress("Encoding") as report:
        report(10, 100)
        report(40, 100)
        report(50, 100)
    assert capsys.readouterr().out == "Encoding: 40/100, 3.0/s, 0:00:20 left\n"
