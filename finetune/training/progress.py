"""What a run shows on the terminal, and the signals that stop it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from finetune.signals import heard_by

PLAIN_SECONDS = 15.0
"""How often a plain line is printed where output is not a terminal."""


class Progress:
    """A bar with loss, rate and time left; plain lines where output is not a terminal.

    Args:
        steps: Steps in all.
        done: Steps done before.
        shown: False to show nothing (all processes but the first).
    """

    def __init__(self, steps: int, done: int = 0, *, shown: bool = True) -> None:
        self.steps, self.done, self.shown = steps, done, shown
        self.console = Console(file=sys.stderr)
        self._started = self._printed = time.monotonic()
        self._bar: Bar | None = None
        self._loss: float | None = None

    def __enter__(self) -> Progress:
        """Starts the bar."""
        if self.shown and self.console.is_terminal:
            self._bar = Bar(
                TextColumn("training"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("training", total=self.steps, completed=self.done, text="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.stop()

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        """Shows that `step` steps are done."""
        if not self.shown:
            return
        # A smoothed loss: that of single steps depends mostly on the timesteps they drew.
        # A step may have no row of what is learned, only some that keep the model as it was.
        loss = values.get("loss", self._loss)
        if loss is not None:
            self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        shown = f"loss {self._loss:.4f}  " if self._loss is not None else ""
        text = f"{shown}{values['images_per_second']:.1f} images/s"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS or step >= self.steps:
            self._printed = now
            left = (now - self._started) / max(1, step - self.done) * (self.steps - step)
            print(f"step {step}/{self.steps}  {text}  {_clock(left)} left", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Rate:
    """Images per second, smoothed over about the last twenty steps.

    Args:
        images: Images per step.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._seconds: float | None = None
        self._last = time.monotonic()

    def tick(self) -> float:
        """The current rate; to be called once per step."""
        spent = time.monotonic() - self._last
        self._seconds = spent if self._seconds is None else 0.95 * self._seconds + 0.05 * spent
        return self.images / max(self._seconds, 1e-9)

    def restart(self) -> None:
        """Starts a step: the time since the last one (previews, checkpoints) does not count."""
        self._last = time.monotonic()


class StopSignal:
    """Records signals to stop instead of dying, so that a checkpoint can be written first.

    A second signal stops at once.

    Args:
        shown: False to print nothing (all processes but the first).
    """

    def __init__(self, *, shown: bool = True) -> None:
        self.asked, self.shown = False, shown

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self.shown:
            print("\nfinishing this step and writing a checkpoint …", file=sys.stderr, flush=True)


@contextmanager
def stop_signal(*, shown: bool = True) -> Iterator[StopSignal]:
    """Inside, a `StopSignal` listens."""
    stop = StopSignal(shown=shown)
    with heard_by(stop.handle):
        yield stop
