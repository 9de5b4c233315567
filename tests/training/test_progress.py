"""What a run shows on the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import torch

from finetune.training import bar, progress, watcher
from finetune.training.bar import Spark
from finetune.training.progress import Progress, StopSignal
from finetune.training.run_folder import RunFolder
from finetune.training.watcher import Event, Now, Rate, Tally, Watcher, memory_in_use
from tests.terminal import Terminal

CPU = torch.device("cpu")


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
    for module in (progress, watcher, bar):
        monkeypatch.setattr(module, "time", made)
    return made


class Heard(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def begin(self, folder: Path, steps: int, done: int) -> None:
        self.said.append((folder, steps, done))

    def advance(self, now: Now) -> None:
        self.said.append(now)

    def end(self) -> None:
        self.said.append("end")


def told(
    clock: Clock, steps: int, done: int, of_steps: Mapping[int, tuple[float, Mapping[str, float]]]
) -> Heard:
    """What a watcher hears of steps, each with the seconds that it took and its values."""
    heard = Heard()
    tally = Tally(heard, RunFolder(Path("run")), CPU, images=6)
    with tally.over(steps, done):
        tally.restart()
        for step, (seconds, values) in of_steps.items():
            clock.now += seconds
            tally.step(step, values)
    return heard


def test_a_watcher_is_told_of_all_steps(clock: Clock) -> None:
    steps = {11: (2.0, {"loss": 1.0, "lr": 0.1}), 12: (4.0, {}), 13: (3.0, {"loss": 0.0})}
    begun, first, second, third, ended = told(clock, 20, 10, steps).said
    assert begun == (Path("run"), 20, 10)
    assert ended == "end"
    assert isinstance(first, Now) and isinstance(second, Now) and isinstance(third, Now)
    # The time left is that of all steps since this run began; the loss 0.95 of the last and 0.05 of the new.
    assert [now.step for now in (first, second, third)] == [11, 12, 13]
    assert [now.seconds_left for now in (first, second, third)] == [2 * 9, 3 * 8, 3 * 7]
    assert [now.loss for now in (first, second, third)] == [1.0, 1.0, 0.95]
    assert first.images_per_second == pytest.approx(3.0)
    assert dict(first.values) == {"loss": 1.0, "lr": 0.1, "images_per_second": first.images_per_second}
    assert abs(third.memory - psutil.Process().memory_info().rss) < 2**28
    assert third.memory_of is None


def test_a_run_that_fails_is_told_to_be_over() -> None:
    heard = Heard()
    with pytest.raises(ZeroDivisionError), Tally(heard, RunFolder(Path("run")), CPU, 1).over(3, 0):
        raise ZeroDivisionError
    assert heard.said[-1] == "end"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_of_a_gpu_is_told() -> None:
    device = torch.device("cuda", 0)
    held = torch.zeros(2**26, device=device)
    used, there = memory_in_use(device)
    assert there is not None and held.nbytes <= used < there


def now(step: int, steps: int = 1000, **facts: object) -> Now:
    """A moment of a run."""
    values = {"loss": 0.5, "images_per_second": 4.0, "seconds_left": 90.0, "memory": 1_240_000_000}
    return Now(step=step, steps=steps, **{**values, **facts})  # type: ignore[arg-type]


def test_plain_lines_come_every_15_seconds_and_at_the_end(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = Progress()
    shown.begin(Path("run"), 100, 10)
    for step in range(11, 21):
        clock.now += 2.5
        shown.advance(now(step, 100, loss=step / 100, images_per_second=4.04, seconds_left=210.9))
    shown.happened(20, Event("checkpoint", Path("here")))
    shown.happened(20, Event("validation", Path("here"), 0.25))
    shown.happened(20, None)
    shown.advance(now(100, 100, loss=None, images_per_second=0.0396, seconds_left=0))
    shown.end()
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "step 16/100  loss 0.1600  4.0 images/s  3:30 left",
        "step 20  validation loss 0.2500",
        "step 100/100  0.04 images/s  0:00 left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.9, "0:59"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (36_061, "10:01:01")],
)
def test_the_time_left_in_hours_minutes_and_seconds(seconds: float, words: str) -> None:
    assert bar.clock(seconds) == words


Shown = Callable[[int], tuple[Progress, Terminal]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """Makes a progress in a terminal of some width."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    made: list[Terminal] = []
    before = os.dup(2)

    def make(width: int) -> tuple[Progress, Terminal]:
        made.append(screen := Terminal(width))
        os.dup2(screen.stream.fileno(), 2)  # rich asks the process's own streams for the width
        monkeypatch.setattr(sys, "stderr", screen.stream)
        monkeypatch.setattr(sys, "stdout", screen.stream)
        return Progress(), screen

    yield make
    os.dup2(before, 2)
    os.close(before)
    for screen in made:
        screen.close()


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (120, r"[━╸╺]{40} 250/1000  loss 0\.5000  [▁-█]{16}  4\.0 images/s  1:30 left  1\.2 GB"),
        (80, r"[━╸╺]{10} 250/1000  loss 0\.5000  [▁-█]{12}  4\.0 images/s  1:30 left  1\.2 GB"),
        (60, r"[━╸╺]{12} 250/1000  loss 0\.5000  4\.0 images/s  1:30 left"),
        (40, r"[━╸╺]{6} 250/1000  loss 0\.5000  1:30 left"),
        (12, r"250/1000"),
    ],
)
def test_a_line_fits_the_terminal(clock: Clock, shown: Shown, width: int, line: str) -> None:
    shows, screen = shown(width)
    shows.begin(Path("run"), 1000, 0)
    for step in range(1, 251):
        clock.now += 1
        shows.advance(now(step, loss=1.0 - 0.002 * step))
    shows.end()
    print("a line of the program")
    bar_line, other = screen.lines
    assert re.fullmatch(line, bar_line), bar_line
    assert other == "a line of the program"[:width] or width < 21
    assert screen.longest < max(width, 22)


def test_what_is_said_stands_above_the_bar(clock: Clock, shown: Shown) -> None:
    shows, screen = shown(80)
    shows.begin(Path("run"), 1000, 0)
    shows.advance(now(1))
    shows.happened(1, Event("validation", None, 0.25))
    print("from the program")
    shows.stopping()
    shows.advance(now(2))
    shows.end()
    *said, last = screen.lines
    assert said == [
        "step 1  validation loss 0.2500",
        "from the program",
        "finishing this step and writing a checkpoint …",
    ]
    assert " 2/1000  loss" in last


def test_a_run_goes_on_if_its_previews_cannot_be_shown(
    clock: Clock, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "pictures_here", lambda: lambda path: f"a picture of {1 / 0}")
    shows, screen = shown(80)
    shows.begin(Path("run"), 1000, 0)
    for step in (1, 2):
        shows.happened(step, Event("preview", Path("run/samples/step-000001.png")))
        shows.advance(now(step))
    shows.end()
    *said, last = screen.lines
    assert said == [
        "step 1  run/samples/step-000001.png",
        "Previews cannot be shown here: ZeroDivisionError: division by zero",
    ]
    assert " 2/1000  loss" in last


def test_a_terminal_that_cannot_move_gets_plain_lines(
    clock: Clock, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shows, screen = shown(80)
    shows.begin(Path("run"), 2, 0)
    shows.advance(now(1, 2))
    shows.advance(now(2, 2))
    shows.end()
    assert screen.lines == ["step 2/2  loss 0.5000  4.0 images/s  1:30 left"]


def test_the_curve_goes_from_the_first_to_the_last_value() -> None:
    spark = Spark()
    assert spark.text(8) == ""
    spark.add(3.0)
    assert spark.text(8) == "▁"  # one value has no course
    for value in (2.0, 1.0, 0.0, 1.0, 2.0, 3.0):
        spark.add(value)
    assert spark.text(8) == "█▆▃▁▃▆█"
    assert spark.text(1) == "▁"


@pytest.mark.parametrize("count", [255, 256, 257, 5000, 100_000])
def test_the_curve_of_many_values_is_that_of_their_means(count: int) -> None:
    spark = Spark()
    for value in range(count):
        spark.add(float(value))
    assert spark.text(8) == "▁▂▃▄▅▆▇█"
    assert len(spark._means) < 256


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


def test_a_signal_is_noted_and_a_second_one_stops() -> None:
    heard: list[str] = []
    stop = StopSignal(lambda: heard.append("heard"))
    assert not stop.asked
    stop.handle(2, None)
    assert stop.asked
    assert heard == ["heard"]
    with pytest.raises(KeyboardInterrupt):
        stop.handle(2, None)
