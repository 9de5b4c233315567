"""What a run shows on the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from finetune.training import progress
from finetune.training.progress import Progress, Rate, StopSignal


class Clock:
    """The time in seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that progress goes by."""
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_plain_lines_come_every_15_seconds_and_at_the_end(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(100, done=10) as shown:
        for step in range(11, 21):
            clock.now += 2.5
            shown.advance(step, {"loss": 1.0 if step == 11 else 0.0, "images_per_second": 4.04})
        clock.now += 2.5
        shown.advance(100, {"loss": 0.0, "images_per_second": 3.96})
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        # A step takes 2.5 seconds, those before this run none; the loss is 0.95⁵, smoothed over 20 steps.
        f"step 16/100  loss {0.95**5:.4f}  4.0 images/s  3:30 left",
        f"step 100/100  loss {0.95**10:.4f}  4.0 images/s  0:00 left",
    ]


def test_a_step_without_anything_to_learn_keeps_the_loss(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(9) as shown:
        for step, losses in enumerate(({}, {"loss": 0.5}, {"preserved_loss": 7.0}), start=1):
            clock.now += 15
            shown.advance(step, {**losses, "images_per_second": 4.0})
    assert capfd.readouterr().err.splitlines() == [
        "step 1/9  4.0 images/s  2:00 left",
        "step 2/9  loss 0.5000  4.0 images/s  1:45 left",
        "step 3/9  loss 0.5000  4.0 images/s  1:30 left",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(59.9, "0:59"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (36_061, "10:01:01")],
)
def test_the_time_left_in_hours_minutes_and_seconds(
    seconds: float, told: str, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(1001) as shown:
        clock.now += 1000 * seconds
        shown.advance(1000, {"images_per_second": 1.0})
    assert capfd.readouterr().err == f"step 1000/1001  1.0 images/s  {told} left\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_other_processes_show_nothing(
    terminal: bool, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    hidden, written = Progress(9, shown=False), io.StringIO()
    hidden.console = Console(file=written, force_terminal=terminal)
    with hidden:
        clock.now += 99
        hidden.advance(9, {"loss": 0.5, "images_per_second": 4.0})
    assert written.getvalue() == "".join(capfd.readouterr()) == ""


def test_a_terminal_gets_a_bar_and_no_lines(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    shown, written = Progress(40, done=10), io.StringIO()
    shown.console = Console(file=written, force_terminal=True, width=100, no_color=True)
    with shown:
        clock.now += 99
        shown.advance(11, {"loss": 0.5, "images_per_second": 4.0})
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    first, *_, last = (line for line in re.split(r"[\r\n]+", drawn) if line.strip())
    time_left = r"(-:--:--|\d:\d\d:\d\d)"
    assert re.fullmatch(rf"training \S+ +10/40 +{time_left} *", first)
    assert re.fullmatch(rf"training \S+ +11/40 loss 0\.5000  4\.0 images/s {time_left} *", last)
    assert "".join(capfd.readouterr()) == ""


def test_the_rate_is_of_the_steps_alone_and_smoothed(clock: Clock) -> None:
    rate = Rate(images=6)
    clock.now += 0.25
    assert rate.tick() == pytest.approx(6 / 0.25)
    clock.now += 100  # a preview
    rate.restart()
    clock.now += 4
    assert rate.tick() == pytest.approx(6 / (0.95 * 0.25 + 0.05 * 4))


def test_the_rate_of_a_step_that_took_no_time_is_finite(clock: Clock) -> None:
    assert 0 < Rate(images=6).tick() < float("inf")


@pytest.mark.parametrize("shown", [True, False])
def test_a_signal_is_noted_and_a_second_one_stops(shown: bool, capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopSignal(shown=shown)
    assert not stop.asked
    stop.handle(2, None)
    assert stop.asked
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ("\nfinishing this step and writing a checkpoint …\n" if shown else "")
    with pytest.raises(KeyboardInterrupt):
        stop.handle(2, None)
